"""Saving: what is true at the safe point, committed as one checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from igniter.checkpoint.files import Loaded
from igniter.checkpoint.manifest import Checkpoint
from igniter.checkpoint.portable import encode, is_storable
from igniter.checkpoint.state import SavedObjects
from igniter.checkpoint.store import CheckpointStore
from igniter.errors import NonFiniteError, SaveFailed
from igniter.loader import Batches
from igniter.metrics import Accumulated
from igniter.rundir import RunRecord
from igniter.tracking.journal import Journal

OnNan = Literal["stop", "warn"]


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint of ``iteration`` will hold; its tensors may be the objects' own."""

    iteration: int
    epoch: int
    journal_offset: int
    state: Any
    rank_state: Any

    def copied(self) -> Snapshot:
        """The same in memory of its own, so that what training does next is not in it."""
        return replace(
            self, state=copy.deepcopy(self.state), rank_state=copy.deepcopy(self.rank_state)
        )


class Saver:
    """Takes snapshots of a run and commits them.

    Args:
        values: each engine's ``state.metrics``, which handlers may read at any time.
        record: its ``metrics`` are saved, and put back.
        on_nan: whether a state that is not finite stops the run or is only left unsaved.
        extra: more entries for each manifest.
        last_good: the newest checkpoint there is, None before the first.
    """

    def __init__(
        self,
        store: CheckpointStore,
        objects: SavedObjects,
        batches: Batches,
        metrics: Mapping[str, Accumulated],
        values: Mapping[str, dict[str, Any]],
        journal: Journal,
        record: RunRecord,
        *,
        on_nan: OnNan,
        extra: Mapping[str, Any],
        warn: Callable[[str], None],
        last_good: Checkpoint | None = None,
    ) -> None:
        self.store = store
        self._objects = objects
        self._batches = batches
        self._metrics = metrics
        self._values = values
        self._journal = journal
        self._record = record
        self._on_nan = on_nan
        self._extra = extra
        self._warn = warn
        self.last_good = last_good

    def snapshot(self, iteration: int, epoch: int) -> Snapshot:
        """What holds now, after ``iteration`` iterations, in the ``epoch``-th epoch."""
        return Snapshot(
            iteration,
            epoch,
            self._journal.offset,
            self._objects.capture(),
            {
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
            },
        )

    def commit(
        self, snapshot: Snapshot, reason: str, *, final: bool = False, required: bool = False
    ) -> bool:
        """Write a checkpoint; tell whether it stands.

        A disk that does not take it is warned of, and the next save tries again, unless this save
        is ``required``: the last one of a run or of an attempt.

        Raises:
            NonFiniteError: the state holds NaN or infinity and the run is to stop for that.
            SaveFailed: a required save did not reach the disk.
        """
        where = self._objects.non_finite(snapshot.state)
        if where is not None:
            self._refuse(where, snapshot.iteration)
            return False
        try:
            self._journal.sync()
            self.last_good = self.store.commit(
                snapshot.iteration,
                epoch=snapshot.epoch,
                reason=reason,
                final=final,
                state=snapshot.state,
                rank_state=snapshot.rank_state,
                extra={**self._extra, "journal_offset": snapshot.journal_offset},
            )
        except (OSError, SaveFailed) as error:
            text = (
                f"the checkpoint of iteration {snapshot.iteration} did not reach the disk: "
                f"{error}. {self.standing()}"
            )
            if required:
                raise SaveFailed(f"{text} Make room and run the same command again.") from error
            self._warn(f"{text} Training goes on; the next save tries again.")
            return False
        return True

    def restore(self, loaded: Loaded) -> None:
        """Put a checkpoint back into everything that :meth:`snapshot` takes from.

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

    def _refuse(self, where: str, iteration: int) -> None:
        text = (
            f"{where} is not finite at iteration {iteration}; such a state is never saved. "
            f"{self.standing()}"
        )
        if self._on_nan == "stop":
            raise NonFiniteError(
                f"{text} Lower the learning rate, clip gradients, or go on with --on-nan warn."
            )
        self._warn(text)

    def standing(self) -> str:
        """Which checkpoint there is to go back to, as a sentence."""
        if self.last_good is None:
            return "There is no earlier checkpoint."
        return f"The last good checkpoint is {self.last_good.path}."
