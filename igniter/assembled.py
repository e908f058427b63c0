"""A run that is put together: its state put back, trained to its end or a stop, and closed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from igniter.best import Best
from igniter.cadence import Length
from igniter.checkpoint.state import SavedObjects
from igniter.evaluation import Evaluator
from igniter.examples import Examples
from igniter.holdings import Holdings
from igniter.loader import Batches
from igniter.opening import Opened
from igniter.rates import LearningRates
from igniter.run import TrainingRun
from igniter.signals import StopSignals
from igniter.tracking.journal import Journal


@dataclass
class Assembled:
    """A run that can be trained."""

    run: TrainingRun
    objects: SavedObjects
    length: Length
    batches: Batches
    evaluators: list[Evaluator]
    signals: StopSignals
    journal: Journal
    opened: Opened
    examples: Examples
    holdings: Holdings

    def run_to_end(self) -> Literal["completed", "interrupted"]:
        """Train until the end or a stop."""
        loaded = self.opened.loaded
        try:
            with self.objects.watched(), self.examples.watched():
                self.run.go(
                    self.opened.iteration,
                    after_everything=loaded is not None and loaded.checkpoint.final,
                )
        finally:
            self.run.parts.saver.close()
            # Before the attempt ends: forked workers hold what tells its end to the shipper.
            self.close_loaders()
        return "interrupted" if self.run.stopped else "completed"

    def restore(self, rates: LearningRates, best: Best, warn: Callable[[str], None]) -> None:
        """Put back what the run goes on from, or see that there will be something to put back.

        Raises:
            CheckpointMismatch: the checkpoint does not fit the objects.
            UsageError: an object's state cannot be saved.
        """
        opened = self.opened
        if opened.loaded is None:
            self.holdings.check_storable()
        else:
            before = opened.loaded.manifest.get("epoch_length")
            if opened.own and before != self.length.epoch:
                warn(
                    f"an epoch has {self.length.epoch} iterations, and had {before} at the "
                    "checkpoint: the data or the batch size changed, so this is not the run it was"
                )
            self.holdings.restore(opened.loaded)
            opened.loaded.release()
            rates.settle(warn)
        if opened.own:
            best.restore(opened.record.best, up_to=opened.iteration)
            opened.store.protected = best.iterations

    def close_loaders(self) -> None:
        """End the workers."""
        self.batches.close()
        for evaluator in self.evaluators:
            evaluator.close()

    def close(self) -> None:
        """End the workers and close the journal."""
        self.run.parts.saver.close()
        self.close_loaders()
        self.journal.close()
