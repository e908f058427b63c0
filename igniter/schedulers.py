"""Learning-rate schedules by optimizer update, and sizes that are known only when training starts.

Synopsis::

    scheduler = warmup_cosine(optimizer, total_updates=10_000, warmup=0.05)

Each is a function of the number of updates made, over torch's own ``LambdaLR``. The first update of
a warm-up of W has 1/W of the learning rate, the W-th the whole of it, and the last update of all
has exactly ``floor`` times the learning rate.

A checkpoint holds how many updates were made, and none of the arguments: they are what the program
says now. So when ``--max-epochs`` is made longer, the schedule is that of the longer run from the
second update on, and comes to its floor at the new end. Where the old run had come to its floor the
rate rises once; with the old length kept, all that is added would be trained at the floor.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim import lr_scheduler as torch_schedulers

from igniter.errors import UsageError

NUM_EPOCHS = "num_epochs"
UPDATES_PER_EPOCH = "updates_per_epoch"
TOTAL_UPDATES = "total_updates"


@dataclass(frozen=True)
class Sizes:
    """How much a run trains, in updates of one optimizer in one process.

    The name of a field, as a text in the arguments of a scheduler, stands for its number.
    """

    num_epochs: int
    updates_per_epoch: int
    total_updates: int

    def fill(self, value: Any) -> Any:
        """``value`` with the numbers in the place of their names, in dicts, lists and tuples."""
        if isinstance(value, str):
            return asdict(self).get(value, value)
        if isinstance(value, Mapping):
            return {key: self.fill(item) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.fill(item) for item in value)
        return value


def warmup_cosine(
    optimizer: Optimizer,
    total_updates: int,
    warmup: int | float = 0,
    cooldown: int | float = 0,
    floor: float = 0.0,
) -> torch_schedulers.LambdaLR:
    """A linear warm-up, half a cosine down to ``floor``, and ``cooldown`` updates more at it.

    Args:
        optimizer: whose learning rates it sets.
        total_updates: of the run.
        warmup, cooldown: in updates, or below 1 as a share of the total.
        floor: the last rate, as a share of the full one.

    Raises:
        UsageError: the numbers do not fit.
    """
    return _falling(optimizer, _half_cosine, total_updates, warmup, cooldown, floor)


def warmup_linear(
    optimizer: Optimizer,
    total_updates: int,
    warmup: int | float = 0,
    cooldown: int | float = 0,
    floor: float = 0.0,
) -> torch_schedulers.LambdaLR:
    """As :func:`warmup_cosine`, and down in a straight line."""
    return _falling(optimizer, _straight, total_updates, warmup, cooldown, floor)


def wsd(
    optimizer: Optimizer,
    total_updates: int,
    warmup: int | float = 0,
    decay: int | float = 0.1,
    cycles: int = 1,
    floor: float = 0.0,
) -> torch_schedulers.LambdaLR:
    """Warm-up, stable, decay (Hu et al. 2024, arXiv:2404.06395), the decay in a straight line.

    The total is cut into ``cycles`` parts of the same length, to an update. The last ``decay``
    updates of each lead down to ``floor``, and the next part is at the full rate again, going on
    from the decayed weights (Wen et al. 2024, arXiv:2410.05192, who call it WSD-S). With
    :class:`igniter.handlers.SideCheckpoints` a checkpoint is kept at each decay's start and end.

    Args:
        optimizer, total_updates, warmup, floor: as for :func:`warmup_cosine`.
        decay: in updates, or below 1 as a share of the total.
        cycles: how many decays there are.

    Raises:
        UsageError: the numbers do not fit.
    """
    _check_total(total_updates, floor)
    if cycles < 1:
        raise UsageError(f"cycles={cycles} must be at least 1")
    rise, fall = _updates(total_updates, warmup=warmup), _updates(total_updates, decay=decay)
    ends = [total_updates * part // cycles for part in range(1, cycles + 1)]
    decays = tuple((end - fall, end) for end in ends)
    fits = all(
        begin <= start < end for begin, (start, end) in zip([rise, *ends], decays, strict=False)
    )
    if not fits:
        raise UsageError(
            f"warmup={warmup} and decay={decay} are {rise} and {fall} updates. The decay needs at "
            f"least 1, and both must fit into the first of {cycles} cycles, which has {ends[0]}"
        )
    return _by_update(optimizer, _stable, total_updates, warmup=rise, decays=decays, floor=floor)


def total_updates_of(scheduler: Any) -> int | None:
    """The total that a schedule of this module is made for; None for any other scheduler."""
    shape = _shape_of(scheduler)
    return None if shape is None else int(shape[TOTAL_UPDATES])


def decays_of(scheduler: Any) -> tuple[tuple[int, int], ...]:
    """Of each decay of :func:`wsd` the updates made before it and at its end; of others none."""
    decays: tuple[tuple[int, int], ...] = (_shape_of(scheduler) or {}).get("decays", ())
    return decays


def _falling(
    optimizer: Optimizer,
    curve: Callable[[float], float],
    total_updates: int,
    warmup: int | float,
    cooldown: int | float,
    floor: float,
) -> torch_schedulers.LambdaLR:
    _check_total(total_updates, floor)
    rise = _updates(total_updates, warmup=warmup)
    rest = _updates(total_updates, cooldown=cooldown)
    if rise + rest > total_updates:
        raise UsageError(
            f"warmup={warmup} and cooldown={cooldown} are {rise} and {rest} updates, more than the "
            f"{total_updates} of the run"
        )
    return _by_update(
        optimizer, _rise_and_fall, total_updates, curve=curve, warmup=rise, cooldown=rest,
        floor=floor,
    )  # fmt: skip


def _by_update(
    optimizer: Optimizer, shape: Callable[..., float], total_updates: int, **numbers: Any
) -> torch_schedulers.LambdaLR:
    # Of a function LambdaLR saves nothing, of an object everything: loaded, it would win over the
    # numbers that the program has now.
    factor = functools.partial(shape, total_updates=total_updates, **numbers)
    return torch_schedulers.LambdaLR(optimizer, factor)


def _shape_of(scheduler: Any) -> dict[str, Any] | None:
    for factor in getattr(scheduler, "lr_lambdas", ()):
        if isinstance(factor, functools.partial) and factor.func in (_rise_and_fall, _stable):
            return factor.keywords
    return None


def _rise_and_fall(
    made: int,
    *,
    total_updates: int,
    curve: Callable[[float], float],
    warmup: int,
    cooldown: int,
    floor: float,
) -> float:
    """The share of the rate that the update has which follows ``made`` others."""
    update, top, bottom = made + 1, max(warmup, 1), total_updates - cooldown
    if update <= top:
        return update / top
    if update >= bottom:
        return floor
    height = curve((update - top) / (bottom - top))
    return height + (1 - height) * floor


def _stable(
    made: int,
    *,
    total_updates: int,
    warmup: int,
    decays: tuple[tuple[int, int], ...],
    floor: float,
) -> float:
    update = made + 1
    if update <= warmup:
        return update / warmup
    if update >= total_updates:
        return floor
    start, end = decays[bisect.bisect_left(decays, update, key=lambda decay: decay[1])]
    height = 1 - max(update - start, 0) / (end - start)
    return height + (1 - height) * floor


def _half_cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def _straight(progress: float) -> float:
    return 1 - progress


def _check_total(total_updates: int | str, floor: float) -> None:
    if isinstance(total_updates, str):
        raise UsageError(
            f"total_updates is {total_updates!r}, which only igniter.Model puts a number in the "
            "place of; give the number of updates"
        )
    if total_updates < 1 or not 0 <= floor <= 1:
        raise UsageError(
            f"total_updates={total_updates} must be at least 1, and floor={floor} between 0 and 1"
        )


def _updates(total: int, **given: int | float) -> int:
    """A number of updates, given as one or as a share of the total."""
    ((name, value),) = given.items()
    if isinstance(value, float) and 0 <= value < 1:
        return round(value * total)
    if isinstance(value, float) or value < 0:
        raise UsageError(f"{name}={value} must be a number of updates, or a share of them below 1")
    return value
