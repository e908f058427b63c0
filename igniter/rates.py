"""The learning rates that optimizers are built with, and which one stands after a resume.

The rates of the script's own making are kept in each manifest. So a changed one is noticed
whatever the argument is called, and ``--override learning_rate`` acts once: a schedule that has
gone on from the new rate is not set back at each start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Rates = dict[str, list[float]]

# What a scheduler derives from the rate and keeps in the parameter groups.
_SCHEDULED = ("lr", "initial_lr", "max_lr", "min_lr")


class LearningRates:
    """What the optimizers of a run are built with; made before a checkpoint is loaded.

    Args:
        objects: those of ``to_save`` by name.
        before: the rates in force at the checkpoint, None where there is none to go on from.
        override: whether the rates that are built now win over the checkpoint's.
    """

    def __init__(self, objects: Mapping[str, Any], before: Rates | None, *, override: bool) -> None:
        self._objects = objects
        self._built = {
            name: [_rate_of(group) for group in value.param_groups]
            for name, value in objects.items()
            if all("lr" in group for group in getattr(value, "param_groups", [{}]))
        }
        self._before = before
        self._override = override

    @property
    def in_force(self) -> Rates:
        """The rates that training goes by, as a manifest holds them."""
        return self._built if self._before is None or self._override else self._before

    def settle(self, warn: Callable[[str], None]) -> None:
        """After loading: put the new rates in their place, or say that the old ones stand."""
        for name, built in self._built.items():
            pairs = list(zip((self._before or {}).get(name, []), built, strict=False))
            changed = [(old, new) for old, new in pairs if old != new]
            if not changed:
                continue
            if self._override:
                self._set(name, pairs)
            else:
                old, new = changed[0]
                warn(
                    f"to_save[{name!r}] keeps the learning rate of its checkpoint, {old}, not the "
                    f"{new} that the script builds it with now; to set the new one add "
                    "--override learning_rate"
                )

    def _set(self, name: str, pairs: list[tuple[float, float]]) -> None:
        optimizer = self._objects[name]
        for group, (old, new) in zip(optimizer.param_groups, pairs, strict=False):
            if "initial_lr" not in group:
                _put(group, "lr", new)
                continue
            for key in _SCHEDULED:
                if key in group:
                    _put(group, key, _scaled(float(group[key]), old, new))
        for value in self._objects.values():
            for scheduler in _with_parts(value):
                if getattr(scheduler, "optimizer", None) is optimizer:
                    _set_scheduler(scheduler, pairs)


def _rate_of(group: Mapping[str, Any]) -> float:
    """What a schedule begins from, or the rate itself where there is no schedule."""
    return float(group.get("initial_lr", group["lr"]))


def _put(group: dict[str, Any], key: str, rate: Any) -> None:
    if hasattr(group[key], "fill_"):  # a tensor, which compiled steps refer to
        group[key].fill_(rate)
    else:
        group[key] = rate


def _scaled(value: float, old: float, new: float) -> float:
    """``value``, which a schedule has made of ``old``, as it makes it of ``new``."""
    if value == old or old == 0:
        return new
    return value * (new / old)


def _with_parts(scheduler: Any) -> list[Any]:
    """A scheduler and those it is made of."""
    parts = getattr(scheduler, "_schedulers", ())
    return [scheduler, *(found for part in parts for found in _with_parts(part))]


def _set_scheduler(scheduler: Any, pairs: list[tuple[float, float]]) -> None:
    for name in ("base_lrs", "max_lrs", "_last_lr"):
        rates = getattr(scheduler, name, None)
        if rates is None:
            continue
        changed = [_scaled(float(r), *pair) for r, pair in zip(rates, pairs, strict=False)]
        setattr(scheduler, name, [*changed, *rates[len(changed) :]])
