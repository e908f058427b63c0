"""One snapshot of a run made a checkpoint that stands."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from igniter.checkpoint.manifest import Checkpoint
from igniter.checkpoint.store import CheckpointStore
from igniter.errors import NonFiniteError
from igniter.holdings import Snapshot
from igniter.tracking.journal import Journal


@dataclass(frozen=True)
class Written:
    """A checkpoint that stands.

    ``seconds`` is what writing it may have taken from training: a processor, or the device;
    ``took`` is how long it was until it stood.
    """

    checkpoint: Checkpoint
    epoch: int
    seconds: float
    took: float


@dataclass(frozen=True)
class Committer:
    """Writes snapshots: in a thread of its own, or while that has nothing to do.

    ``extra`` are more entries for each manifest; ``clock`` gives seconds from any origin.
    """

    store: CheckpointStore
    journal: Journal
    extra: Mapping[str, Any]
    clock: Callable[[], float] = time.perf_counter

    def write(self, snapshot: Snapshot, reason: str, *, final: bool = False) -> Written:
        """Commit ``snapshot``, the journal before it.

        Raises:
            NonFiniteError: it holds NaN or infinity.
            OSError, SaveFailed: it did not reach the disk; earlier checkpoints stand.
        """
        began = self.clock()
        snapshot.arrived()
        waited, processor = self.clock() - began, time.thread_time()
        where = snapshot.first_unsound()
        if where is not None:
            raise NonFiniteError(
                f"{where} is not finite at iteration {snapshot.iteration}; such a state is never "
                "saved."
            )
        self.journal.sync()
        checkpoint = self.store.commit(
            snapshot.iteration,
            epoch=snapshot.epoch,
            reason=reason,
            final=final,
            state=snapshot.state,
            rank_state=snapshot.rank_state,
            extra={
                **self.extra,
                **snapshot.metadata,
                "journal_offset": snapshot.journal_offset,
            },
        )
        seconds = waited + time.thread_time() - processor
        return Written(checkpoint, snapshot.epoch, seconds, self.clock() - began)
