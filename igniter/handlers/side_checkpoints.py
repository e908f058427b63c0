"""Checkpoints kept for ever round the decays of a warm-up–stable–decay schedule."""

from __future__ import annotations

from typing import Any

from igniter.errors import UsageError
from igniter.ignite_import import Events
from igniter.run_engine import RunEngine
from igniter.schedulers import decays_of


class SideCheckpoints:
    """Keeps a checkpoint before each decay's first update, and one after its last.

    From the first, training can go on at the full rate; the second is a trained model.

    Args:
        scheduler: what the schedule, one of :func:`igniter.schedulers.wsd`, is called in
            ``to_save``.
    """

    def __init__(self, scheduler: str = "scheduler") -> None:
        self._name = scheduler

    def attach(self, trainer: RunEngine) -> None:
        """Watch the schedule's steps.

        Raises:
            UsageError: there is no such schedule.
        """
        scheduler: Any = trainer.objects.get(self._name)
        sides = {side for decay in decays_of(scheduler) for side in decay}
        if not sides:
            found = "there is none" if scheduler is None else f"it is a {type(scheduler).__name__}"
            raise UsageError(
                f"SideCheckpoints needs a schedule of igniter.schedulers.wsd as {self._name!r} in "
                f"to_save, and {found}"
            )
        seen = scheduler.last_epoch

        def look() -> None:
            nonlocal seen
            # With accumulation the schedule stands still in most iterations.
            if scheduler.last_epoch != seen and scheduler.last_epoch in sides:
                trainer.save_checkpoint(keep=True)
            seen = scheduler.last_epoch

        trainer.add_event_handler(Events.ITERATION_COMPLETED, look)
