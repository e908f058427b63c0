"""When a model's scheduler steps: after each update, each epoch, or on a metric."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from igniter.directions import direction
from igniter.errors import UsageError
from igniter.imports import nearest
from igniter.schedulers import total_updates_of

UPDATE = "update"
EPOCH = "epoch"


def split_step_on(parameters: Any, otherwise: str) -> tuple[Any, str]:
    """The parameters of a scheduler without their ``step_on``, and that."""
    if isinstance(parameters, (tuple, list)) and len(parameters) == 2:
        arguments, on = split_step_on(parameters[1], otherwise)
        return (parameters[0], arguments), on
    if not isinstance(parameters, Mapping):
        return parameters, otherwise
    arguments = dict(parameters)
    return arguments, arguments.pop("step_on", otherwise)


class Stepping:
    """Steps ``scheduler`` when it is told that something is over, if it is what it steps on.

    Args:
        scheduler: with a method ``step()``, or ``step(metrics)`` as ``ReduceLROnPlateau`` has.
        on: ``"update"``, ``"epoch"``, or the full name of a metric, such as ``"eval/loss"``.

    Raises:
        UsageError: the scheduler cannot step on that.
    """

    def __init__(self, scheduler: Any, on: str = UPDATE) -> None:
        self._scheduler = scheduler
        self.on = on
        kind = type(scheduler).__name__
        wants_metric = "metrics" in inspect.signature(scheduler.step).parameters
        if wants_metric != self.follows_metric:
            needs = "steps on a metric" if wants_metric else "takes no metric"
            wanted = (
                "the full name of one, such as 'eval/loss'"
                if wants_metric
                else "'update' or 'epoch'"
            )
            raise UsageError(f"{kind} {needs}, and step_on is {on!r}; give {wanted}")
        if on != UPDATE and total_updates_of(scheduler) is not None:
            raise UsageError(
                f"the schedule counts updates, and step_on is {on!r}; it would not come to its "
                "end. Give 'update'"
            )

    @property
    def follows_metric(self) -> bool:
        """Whether it steps on a metric."""
        return self.on not in (UPDATE, EPOCH)

    def check(self, metrics: Mapping[str, Any]) -> None:
        """See that the evaluations, of which ``metrics`` has those by full name, give the metric.

        Raises:
            UsageError: they do not, or the scheduler waits for it to go the wrong way.
        """
        if not self.follows_metric:
            return
        # What a metric gives several values by is below its own name.
        if not any(self.on == name or self.on.startswith(f"{name}/") for name in metrics):
            raise UsageError(
                f"step_on={self.on!r} names no metric of an evaluation; there are "
                f"{sorted(metrics) or 'none'}{nearest(self.on, metrics)}"
            )
        mode = getattr(self._scheduler, "mode", None)
        try:
            wanted = direction("auto", self.on, metrics)
        except UsageError:
            return  # it cannot be told, and is the user's to say
        if mode in ("min", "max") and mode != wanted:
            raise UsageError(
                f"{type(self._scheduler).__name__} has mode={mode!r}, and of {self.on} "
                f"{'more' if wanted == 'max' else 'less'} is better; give mode={wanted!r}"
            )

    def after_update(self) -> None:
        """An update of the optimizer was made."""
        if self.on == UPDATE:
            self._scheduler.step()
        elif hasattr(self._scheduler, "step_warmup"):
            self._scheduler.step_warmup()

    def after_epoch(self) -> None:
        """An epoch is over."""
        if self.on == EPOCH:
            self._scheduler.step()

    def after_evaluation(self, metrics: Mapping[str, float]) -> None:
        """An evaluation is over that gave ``metrics``; another one may give the metric."""
        if self.follows_metric and self.on in metrics:
            self._scheduler.step(metrics[self.on])
