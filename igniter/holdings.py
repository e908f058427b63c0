"""All of a run that a checkpoint holds: taken at a safe point, put back at a resume."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from igniter.checkpoint.buffers import Buffers
from igniter.checkpoint.files import Loaded
from igniter.checkpoint.numbers import Numbers
from igniter.checkpoint.portable import as_it_is, encode, is_storable
from igniter.checkpoint.state import SavedObjects
from igniter.loader import Batches
from igniter.metrics import Accumulated
from igniter.rundir import RunRecord
from igniter.tracking.journal import Journal


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint of ``iteration`` will hold, as :func:`~.portable.encode` gives it.

    Its containers are its own. Its tensors are, too, if it was taken into buffers; they may be read
    after ``arrived()``. ``numbers`` are those of them that must not be NaN.
    """

    iteration: int
    epoch: int
    journal_offset: int
    state: Any
    rank_state: Any
    numbers: list[Numbers]
    arrived: Callable[[], None] = lambda: None

    def first_unsound(self) -> str | None:
        """Where it holds NaN, or infinity in a parameter; None where all is well."""
        return next((n.where for n in self.numbers if not n.are_sound()), None)


class Holdings:
    """What a run's checkpoints hold.

    Args:
        values: each engine's ``state.metrics``, which handlers may read at any time.
        record: its ``metrics`` are saved, and put back.
    """

    def __init__(
        self,
        objects: SavedObjects,
        batches: Batches,
        metrics: Mapping[str, Accumulated],
        values: Mapping[str, dict[str, Any]],
        journal: Journal,
        record: RunRecord,
        warn: Callable[[str], None],
    ) -> None:
        self._objects = objects
        self._batches = batches
        self._metrics = metrics
        self._values = values
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
                engine: {name: value for name, value in values.items() if is_storable(value)}
                for engine, values in self._values.items()
            },
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
        )
        return snapshot if buffers is None else replace(snapshot, arrived=buffers.finish())

    def restore(self, loaded: Loaded) -> None:
        """Put a checkpoint back into everything that :meth:`take` takes from.

        Raises:
            CheckpointMismatch: it does not fit.
        """
        rank_state, path = loaded.rank_state, str(loaded.checkpoint.path)
        self._objects.restore(loaded.state, path, rank_state["groups"])
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
        for engine, values in rank_state["values"].items():
            if engine in self._values:
                self._values[engine].update(values)
        for name, state in rank_state["metrics"].items():
            if name in self._metrics:
                self._metrics[name].load_state_dict(state)

    def check_storable(self) -> None:
        """See before training that the state can be saved, rather than after the first hours.

        Raises:
            UsageError: an object's state holds something that is not plain data.
        """
        encode(self._objects.capture(), "to_save")
