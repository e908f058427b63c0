"""A warm-up before any scheduler of torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    LinearLR,
    LRScheduler,
    MultiplicativeLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from igniter.errors import UsageError
from igniter.imports import named
from igniter.schedules import size_of

UPDATES_AFTER_WARMUP = "updates_after_warmup"


def with_warmup(
    optimizer: Optimizer,
    factory: Callable[..., Any] | str,
    warmup: int,
    total_updates: int | None = None,
    **arguments: Any,
) -> LRScheduler:
    """The scheduler that ``factory(optimizer, **arguments)`` makes, after ``warmup`` updates.

    Synopsis::

        with_warmup(optimizer, PolynomialLR, 500, total_updates=10_000,
                    total_iters="updates_after_warmup")

    The first update of the warm-up has ``1/warmup`` of the learning rate, the last the whole of it.
    The scheduler counts its steps from there on: where it is made for the length of the run, it is
    to be made for what is left. Of ``arguments`` a text ``"updates_after_warmup"`` is replaced by
    that number.

    Args:
        optimizer: whose learning rates it sets.
        factory: a scheduler's class, a function that makes one, or its import path.
        warmup: in updates.
        total_updates: of the run; asked for only by ``"updates_after_warmup"``.
        arguments: of the factory.

    Raises:
        UsageError: the numbers do not fit, or the scheduler is made for more than what is left.
    """
    if not isinstance(warmup, int) or warmup < 0:
        raise UsageError(f"warmup={warmup!r} must be a number of updates")
    left = None if total_updates is None else total_updates - warmup
    if left is not None and left < 1:
        raise UsageError(f"warmup={warmup} leaves nothing of the run's {total_updates} updates")
    for name, value in arguments.items():
        if value == UPDATES_AFTER_WARMUP:
            if left is None:
                raise UsageError(f"{name}={value!r} needs total_updates=…, to take the warm-up off")
            arguments[name] = left
    make: Any = named(factory) if isinstance(factory, str) else factory
    if warmup == 0:
        return make(optimizer, **arguments)  # type: ignore[no-any-return]
    if isinstance(make, type) and issubclass(make, ReduceLROnPlateau):
        return WarmedPlateau(optimizer, warmup, **arguments)
    ramp = _ramp(optimizer, warmup)
    scheduler = make(optimizer, **arguments)
    _check(scheduler, left)
    return SequentialLR(optimizer, [ramp, scheduler], [warmup])


class WarmedPlateau(ReduceLROnPlateau):
    """torch's ``ReduceLROnPlateau``, with a warm-up that has steps of its own.

    ``step_warmup()`` follows each update, ``step(metric)`` each evaluation.
    """

    def __init__(self, optimizer: Optimizer, warmup: int, **arguments: Any) -> None:
        super().__init__(optimizer, **arguments)
        # Under the name that torch has for the parts of a scheduler.
        self._schedulers = [_ramp(optimizer, warmup)]

    def step_warmup(self) -> None:
        """An update was made."""
        self._schedulers[0].step()

    def state_dict(self) -> dict[str, Any]:
        """torch's, and the warm-up's."""
        return {**super().state_dict(), "_schedulers": [self._schedulers[0].state_dict()]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
        own = dict(state_dict)
        self._schedulers[0].load_state_dict(own.pop("_schedulers")[0])
        super().load_state_dict(own)


def _ramp(optimizer: Optimizer, warmup: int) -> LinearLR:
    return LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)


def _check(scheduler: Any, left: int | None) -> None:
    """Refuse what would not be the same scheduler after a warm-up, or not come to its end."""
    kind = type(scheduler)
    if not isinstance(scheduler, LRScheduler) or kind.get_lr is LRScheduler.get_lr:
        raise UsageError(
            f"{kind.__name__} cannot follow a warm-up of with_warmup, which takes one scheduler "
            "that sets rates itself. Put torch's LinearLR into it as its first part"
        )
    if isinstance(scheduler, MultiplicativeLR):
        raise UsageError(
            "MultiplicativeLR cannot follow a warm-up: torch multiplies once too often where it "
            "begins. Use LambdaLR"
        )
    size = size_of(scheduler)
    if size is not None and left is not None and size.steps > left:
        raise UsageError(
            f"{size.scheduler} has {size.argument}={size.steps}, and {left} updates are left after "
            f"the warm-up; give {size.argument}={UPDATES_AFTER_WARMUP!r}"
        )
