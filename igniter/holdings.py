"""All of a run that a checkpoint holds: taken at a safe point, put back at a resume."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch

from igniter.checkpoint.buffers import Buffers
from igniter.checkpoint.files import Loaded
from igniter.checkpoint.numbers import Numbers
from igniter.checkpoint.portable import as_it_is, encode, is_storable
from igniter.checkpoint.state import SavedObjects
from igniter.errors import UsageError
from igniter.loader import Batches
from igniter.metrics import Accumulated
from igniter.phases import PhasedBatches
from igniter.run_engine import RunEngine
from igniter.rundir import RunRecord
from igniter.tracking.journal import Journal


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint of ``iteration`` will hold, as :func:`~.portable.encode` gives it.

    Its containers are its own. Its tensors are, too, if it was taken into buffers; they may be read
    after ``arrived()``. ``numbers`` are those of them that must not be NaN. ``metadata``
    is for the manifest.
    """

    iteration: int
    epoch: int
    journal_offset: int
    state: Any
    rank_state: Any
    numbers: list[Numbers]
    metadata: Mapping[str, Any]
    arrived: Callable[[], None] = lambda: None

    def first_unsound(self) -> str | None:
        """Where it holds NaN, or infinity in a parameter; None where all is well."""
        return next((n.where for n in self.numbers if not n.are_sound()), None)


class Holdings:
    """What a run's checkpoints hold.

    Args:
        engines: by name; their ``state.metrics``, which handlers may read at any time, and how
            often evaluations were run.
        record: its ``metrics`` are saved, and put back.
        metadata: asked at each checkpoint for what the user wants its manifest to say.
    """

    def __init__(
        self,
        objects: SavedObjects,
        batches: Batches | PhasedBatches,
        metrics: Mapping[str, Accumulated],
        engines: Mapping[str, RunEngine],
        journal: Journal,
        record: RunRecord,
        warn: Callable[[str], None],
        metadata: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self._metadata = metadata
        self._objects = objects
        self._batches = batches
        self._metrics = metrics
        self._engines = engines
        self._journal = journal
        self._record = record
        self._warn = warn

    def tensors(self) -> list[torch.Tensor]:
        """The tensors in the state of the objects: nearly all of what a checkpoint takes."""
        found: list[torch.Tensor] = []

        def note(tensor: torch.Tensor) -> torch.Tensor:
            found.append(tensor)
            return tensor

        encode(self._objects.capture(), "to_save", note)
        return found

    def size(self) -> int:
        """About how many bytes a checkpoint has."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def take(self, iteration: int, epoch: int, buffers: Buffers | None = None) -> Snapshot:
        """What holds now, after ``iteration`` iterations, in the ``epoch``-th epoch.

        Without ``buffers`` its tensors are the objects' own: for while nothing trains.

        Raises:
            UsageError: an object's state holds something that is not plain data.
            SaveFailed: the journal does not take what belongs to it.
            MemoryError: there is too little memory for ``buffers``.
        """
        journal_offset = self._journal.flush()
        copy = as_it_is
        if buffers is not None:
            buffers.begin()
            copy = buffers.copy
        state = encode(self._objects.capture(), "to_save", copy)
        rank_state = {
            "loader": self._batches.state_dict(),
            "metrics": {name: metric.state_dict() for name, metric in self._metrics.items()},
            "values": {
                name: {key: v for key, v in engine.state.metrics.items() if is_storable(v)}
                for name, engine in self._engines.items()
            },
            "cycles": {name: engine.cycle for name, engine in self._engines.items()},
            # run.yaml is written after the checkpoint, and a kill may come in between.
            "reported": {n: float(value) for n, value in self._record.metrics.items()},
            "modes": self._objects.modes(),
            "gradients": self._objects.gradients(),
            "groups": self._objects.groups(),
        }
        snapshot = Snapshot(
            iteration,
            epoch,
            journal_offset,
            state,
            encode(rank_state, "rank_state", copy),
            self._objects.numbers(state),
            manifest_entries(self._metadata()),
        )
        return snapshot if buffers is None else replace(snapshot, arrived=buffers.finish())

    def restore(self, loaded: Loaded) -> None:
        """Put a checkpoint back into everything that :meth:`take` takes from.

        Raises:
            CheckpointMismatch: it does not fit.
        """
        rank_state, path = loaded.rank_state, str(loaded.checkpoint.path)
        self._objects.restore(loaded.state, path, rank_state["groups"])
        lacking, besides = self._objects.unmatched(loaded.state)
        for name in lacking:
            self._warn(f"{path} has nothing of {name}, which begins anew here")
        for name in besides:
            self._warn(f"{path} holds {name}, which is not here any more")
        altered = self._objects.first_altered(loaded.state)
        if altered is not None:
            self._warn(
                f"{altered} after loading: an object does not take back what its state_dict gave, "
                "so the run will not end as if it had never been stopped"
            )
        self._batches.load_state_dict(rank_state["loader"])
        self._objects.restore_modes(rank_state["modes"])
        self._objects.restore_gradients(rank_state["gradients"])
        self._record.metrics = dict(rank_state["reported"])
        for name, engine in self._engines.items():
            engine.state.metrics.update(rank_state["values"].get(name, {}))
            engine.cycle = rank_state["cycles"].get(name, 0)
        # Copies: what a metric keeps of the loaded file would keep the file after it was pruned.
        for name, state in deepcopy(rank_state["metrics"]).items():
            if name in self._metrics:
                self._metrics[name].load_state_dict(state)

    def check_storable(self) -> None:
        """See before training that the state can be saved, rather than after the first hours.

        Raises:
            UsageError: an object's state holds something that is not plain data.
        """
        encode(self._objects.capture(), "to_save")


def manifest_entries(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says of the user's ``metadata``, of which ``label`` goes into the name.

    Raises:
        UsageError: it is no mapping, or not of JSON's types.
    """
    if not isinstance(metadata, Mapping):
        raise UsageError(
            f"checkpoint_metadata returned a {type(metadata).__name__}; return a dict of plain data"
        )
    if not metadata:
        return {}
    try:
        plain = json.loads(json.dumps(dict(metadata)))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"checkpoint_metadata returned what a manifest cannot hold: {error}. Return numbers "
            "and texts, such as float(loss)"
        ) from error
    label = metadata.get("label")
    return {"metadata": plain, "label": "" if label is None else str(label)}
