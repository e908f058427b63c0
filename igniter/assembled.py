"""A run that is put together: its state put back, trained to its end or a stop, and closed."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from igniter.about import About
from igniter.best import Best
from igniter.cadence import Length
from igniter.checkpoint.state import SavedObjects
from igniter.errors import UsageError
from igniter.evaluation import Evaluator
from igniter.examples import Examples
from igniter.holdings import Holdings
from igniter.loader import Batches
from igniter.opening import Opened
from igniter.phases import PhasedBatches
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
    batches: Batches | PhasedBatches
    evaluators: list[Evaluator]
    signals: StopSignals
    journal: Journal
    opened: Opened
    examples: Examples
    holdings: Holdings
    about: About
    callbacks: list[Any]

    def run_to_end(self) -> Literal["completed", "interrupted"]:
        """Train until the end or a stop."""
        loaded = self.opened.loaded
        final = loaded is not None and loaded.checkpoint.final
        try:
            with self.objects.watched(), self.examples.watched():
                self.run.go(
                    self.opened.iteration, after_everything=final, ended=final and self._ended()
                )
        finally:
            self.run.parts.saver.close()
            # Before the attempt ends: forked workers hold what tells its end to the shipper.
            self.close_loaders()
        return "interrupted" if self.run.stopped else "completed"

    def _ended(self) -> bool:
        """Whether the final checkpoint is of this very run, no shorter than it is to be now.

        It is gone on from where a process died between that checkpoint and the word in
        ``run.yaml``; a handler may have ended the run before its length.
        """
        assert self.opened.loaded is not None
        total = self.opened.loaded.manifest.get("total_iterations", 0)
        return self.opened.own and bool(total >= self.length.total)

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
            self.run.parts.recorder.protect()

    def exported(self) -> dict[str, Any]:
        """What the run's result is, as modules or states of tensors by name.

        Raises:
            UsageError: what the user gives to be exported is neither.
        """
        wanted = self.about.exported
        given: Any = self.objects.modules if wanted is None else wanted()
        if not isinstance(given, Mapping):
            given = {"": given}
        for name, value in given.items():
            if not (name and (isinstance(value, Mapping) or hasattr(value, "state_dict"))):
                raise UsageError(
                    f"what is to be exported{f' as {name!r}' if name else ''} is of type "
                    f"{type(value).__name__}; give modules, or states of tensors, by name"
                )
        found = dict(given)
        for callback in self.callbacks:
            if hasattr(callback, "exported_modules"):
                for name, module in callback.exported_modules().items():
                    found[_unused(name, found)] = module
        return found

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


def _unused(name: str, names: Container[str]) -> str:
    """``name``, or with the first number from 2 on that is not among ``names``: ``name-2``, …"""
    found, number = name, 1
    while found in names:
        number += 1
        found = f"{name}-{number}"
    return found
