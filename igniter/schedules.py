"""Schedulers that were sized for fewer steps than the run will take of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import lr_scheduler as torch_schedulers

from igniter.cadence import Length
from igniter.schedulers import total_updates_of


@dataclass(frozen=True)
class Size:
    """How many steps a scheduler is made for: the argument that says so, and what comes after."""

    scheduler: str
    argument: str
    steps: int
    afterwards: str


class Schedules:
    """The schedulers of ``to_save``; made before a checkpoint is loaded.

    Args:
        objects: those of ``to_save`` by name.
        length: of the run.
    """

    def __init__(
        self, objects: Mapping[str, Any], length: Length, warn: Callable[[str], None]
    ) -> None:
        self._schedulers = {
            name: value
            for name, value in objects.items()
            if isinstance(value, torch_schedulers.LRScheduler)
        }
        self._built = {
            name: [size.steps for size, *_ in _sizes(scheduler)]
            for name, scheduler in self._schedulers.items()
        }
        self._length = length
        self._warn = warn

    def look(self, iteration: int) -> None:
        """Warn, once for each, of a scheduler that will run out.

        How often it steps is learned from the steps it has made in ``iteration`` iterations.
        """
        for name, scheduler in list(self._schedulers.items()):
            made = _steps_made(scheduler)
            if not made:
                continue
            in_all, exact = self._steps_in_all(made, iteration)
            for index, (size, begins, ends) in enumerate(_sizes(scheduler)):
                needed = min(in_all, ends) - begins
                if size.steps < needed:
                    self._warn(self._text(name, size, index, needed, exact))
                    del self._schedulers[name]
                    break

    def _steps_in_all(self, made: int, iteration: int) -> tuple[int, bool]:
        """How many steps the run makes when it made so many; exactly, or at the least."""
        epoch, total = self._length.epoch, self._length.total
        if iteration > 1 and made % iteration == 0:
            return made // iteration * total, True
        if made == iteration // epoch:
            return total // epoch, True
        # The last one may belong to iterations that are still to come.
        return (made - 1) * total // iteration, False

    def __bool__(self) -> bool:
        """Whether there is one to look at still."""
        return bool(self._schedulers)

    def _text(self, name: str, size: Size, index: int, needed: float, exact: bool) -> str:
        built = self._built[name][index] if index < len(self._built[name]) else size.steps
        value = f"{size.argument}={size.steps}"
        if built != size.steps:
            value += f" from its checkpoint, not the {built} that it is built with now"
            advice = (
                "Let it be, or set it in the training spec's callback, which runs after loading; "
                "or train a run of that length from its start in another --output-dir"
            )
        else:
            advice = f"Build it with {size.argument}={needed:.0f}{'' if exact else ' or more'}"
        steps = f"{needed:.0f}" if exact else f"at least {needed:.0f}"
        return (
            f"to_save[{name!r}] ({size.scheduler}) has {value}, and the {self._length.total} "
            f"iterations of this run take {steps} steps of it: after step {size.steps} "
            f"{size.afterwards}. {advice}"
        )


def _steps_made(scheduler: Any) -> int:
    """How often it was stepped; a chain has no count of its own."""
    parts = getattr(scheduler, "_schedulers", None)
    if not hasattr(scheduler, "last_epoch") and parts:
        return _steps_made(parts[0])
    return int(getattr(scheduler, "last_epoch", 0))


def _sizes(
    scheduler: Any, begins: float = 0, ends: float = math.inf
) -> Iterator[tuple[Size, float, float]]:
    """The sizes of a scheduler and of those it is made of, each with its first and last step."""
    size = size_of(scheduler)
    if size is not None:
        yield size, begins, ends
    if isinstance(scheduler, torch_schedulers.SequentialLR):
        places = [0, *scheduler._milestones, math.inf]
        for part, (first, last) in zip(
            scheduler._schedulers, itertools.pairwise(places), strict=True
        ):
            yield from _sizes(part, begins + first, min(ends, begins + last))
    elif isinstance(scheduler, torch_schedulers.ChainedScheduler):
        for part in scheduler._schedulers:
            yield from _sizes(part, begins, ends)


def size_of(scheduler: Any) -> Size | None:
    """How many steps ``scheduler`` itself is made for; None where it has no end."""
    kind = type(scheduler).__name__
    if isinstance(scheduler, torch_schedulers.OneCycleLR):
        return Size(kind, "total_steps", scheduler.total_steps, "it raises an error")
    if isinstance(scheduler, torch_schedulers.CosineAnnealingLR):
        return Size(kind, "T_max", scheduler.T_max, "the learning rate rises again")
    if isinstance(scheduler, torch_schedulers.PolynomialLR):
        return Size(kind, "total_iters", scheduler.total_iters, "the learning rate is 0")
    # A warm-up is meant to end early.
    falls = isinstance(scheduler, torch_schedulers.LinearLR) and (
        scheduler.end_factor < scheduler.start_factor
    )
    if falls:
        return Size(kind, "total_iters", scheduler.total_iters, "the learning rate stays")
    total = total_updates_of(scheduler)
    if total is not None:
        return Size(kind, "total_updates", total, "the learning rate stays at its floor")
    return None
