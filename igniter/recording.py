"""What stands of a run while it trains: ``run.yaml``, and the link to the best checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Executor

from igniter.best import Best
from igniter.checkpoint.manifest import Checkpoint
from igniter.checkpoint.store import CheckpointStore
from igniter.rundir import Paths, RunRecord


class Recorder:
    """Keeps the record true.

    ``behind`` is what writes it, in the order asked, while training goes on.
    """

    def __init__(
        self,
        record: RunRecord,
        paths: Paths,
        store: CheckpointStore,
        best: Best,
        behind: Executor,
        warn: Callable[[str], None],
    ) -> None:
        self._record = record
        self._paths = paths
        self._store = store
        self._best = best
        self._behind = behind
        self._warn = warn

    def committed(self, checkpoint: Checkpoint, epoch: int) -> None:
        """Record that ``checkpoint``, in the ``epoch``-th epoch, stands."""
        self._record.iteration, self._record.epoch = checkpoint.iteration, epoch
        # The evaluation of its iteration may have been over before.
        if not checkpoint.final and checkpoint.iteration in self._best.iterations[:1]:
            self._store.link_best(checkpoint.iteration)
        self._save()

    def keep_best(self) -> None:
        """Record the ranking of the best, whose checkpoints are kept."""
        self._record.best = self._best.state()
        self.protect()
        self._store.link_best(self._best.iterations[0])
        self._save()

    def keep(self, iteration: int) -> None:
        """Keep the checkpoint of ``iteration`` for ever."""
        self._record.kept = sorted({*self._record.kept, iteration})
        self.protect()
        self._save()

    def protect(self) -> None:
        """Have what the record says is to be kept outlast those that come after."""
        self._store.protected = {*self._best.iterations, *self._record.kept}

    def _save(self) -> None:
        self._behind.submit(self._write, copy.deepcopy(self._record))

    def _write(self, record: RunRecord) -> None:
        try:
            record.save(self._paths.run_yaml)
        except OSError as error:
            # A run goes on from its checkpoints; the record of it is written again at the next.
            self._warn(f"{self._paths.run_yaml} could not be written: {error}")
