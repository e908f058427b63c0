"""An interval as a value: "500 iterations, 5 minutes" or ``EPOCH_COMPLETED(every=2)``."""

from __future__ import annotations

import difflib
import enum
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from igniter.errors import UsageError
from igniter.pacing import SHARE


class Unit(enum.Enum):
    """What an interval is counted in."""

    ITERATION = "iteration"
    EPOCH = "epoch"
    SECOND = "second"
    END = "end"  # the end of training, counted once


@dataclass(frozen=True)
class Every:
    """Due at each multiple of ``count`` units; ``count`` is whole for iterations and epochs."""

    count: float
    unit: Unit


@dataclass(frozen=True)
class Once:
    """Due at one time only: at ``count`` units from the start, or at the end of training."""

    count: int
    unit: Unit


@dataclass(frozen=True)
class Auto:
    """As often as ``share`` of the time pays for (:mod:`igniter.pacing`)."""

    share: float


Term = Every | Once | Auto

END = Once(1, Unit.END)


@dataclass(frozen=True)
class Interval:
    """When something is due: at any of ``terms``; never, when there are none."""

    terms: tuple[Term, ...] = ()

    def __str__(self) -> str:
        """The text that :func:`parse_interval` reads back as an equal value."""
        return ", ".join(_term_text(term) for term in self.terms) or "never"

    @property
    def seconds(self) -> float | None:
        """The shortest period in seconds, or None when no term is a time."""
        every = [term for term in self.terms if isinstance(term, Every)]
        return min((term.count for term in every if term.unit is Unit.SECOND), default=None)

    @property
    def share(self) -> float | None:
        """The share of the time that pays for it, or None when no term says one."""
        return min((term.share for term in self.terms if isinstance(term, Auto)), default=None)

    def due(self, iteration: int, epoch_length: int, total: int) -> bool:
        """Whether a term that counts iterations, epochs or the end falls on ``iteration``.

        ``iteration`` counts from 1 over the whole run, ``epoch_length`` is iterations an epoch,
        ``total`` the run's last iteration.
        """
        return self.next_iteration(iteration - 1, epoch_length, total) == iteration

    def next_iteration(self, after: int, epoch_length: int, total: int) -> int | None:
        """The smallest iteration above ``after`` and up to ``total`` that is due, if any."""
        found = [_next(term, after, epoch_length, total) for term in self.terms]
        return min((i for i in found if i is not None and after < i <= total), default=None)


def _next(term: Term, after: int, epoch_length: int, total: int) -> int | None:
    """The next multiple (``Every``), or the one iteration (``Once``), of one term."""
    if isinstance(term, Auto) or term.unit is Unit.SECOND:
        return None
    if term.unit is Unit.END:
        return total
    period = int(term.count) * (epoch_length if term.unit is Unit.EPOCH else 1)
    if isinstance(term, Once):
        return period
    return (after // period + 1) * period


_EXAMPLES = "'500 iterations', '1 epoch, 10 minutes', 'EPOCH_COMPLETED(every=2)'"
_EXAMPLES_WITHOUT_TIME = "'500 iterations', '1 epoch', 'EPOCH_COMPLETED(every=2)'"

_NEVER = frozenset({"never", "none", "0"})
_UNITS: dict[str, tuple[int, Unit]] = {
    "iteration": (1, Unit.ITERATION),
    "iterations": (1, Unit.ITERATION),
    "epoch": (1, Unit.EPOCH),
    "epochs": (1, Unit.EPOCH),
    "s": (1, Unit.SECOND),
    "second": (1, Unit.SECOND),
    "seconds": (1, Unit.SECOND),
    "m": (60, Unit.SECOND),
    "minute": (60, Unit.SECOND),
    "minutes": (60, Unit.SECOND),
    "h": (3600, Unit.SECOND),
    "hour": (3600, Unit.SECOND),
    "hours": (3600, Unit.SECOND),
}
_EVENTS = {
    "ITERATION_COMPLETED": Unit.ITERATION,
    "EPOCH_COMPLETED": Unit.EPOCH,
    "COMPLETED": Unit.END,
}
_OPTIONS = ("every", "once")
_EVENT_NAMES = {unit: name for name, unit in _EVENTS.items()}

_COUNT = re.compile(r"(?P<count>-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*(?P<unit>[a-z]*)", re.IGNORECASE)
_AUTO = re.compile(r"auto(?:\s*:\s*(?P<percent>\d+(?:\.\d+)?)\s*%)?", re.IGNORECASE)
_EVENT = re.compile(
    r"(?:Events\.)?(?P<event>[A-Z]+(?:_[A-Z]+)*)(?:\(\s*(?P<how>\w+)\s*=\s*(?P<n>-?\d+)\s*\))?"
)


def parse_interval(
    text: str | int | Interval, *, allow_time: bool, allow_auto: bool = False
) -> Interval:
    """Read an interval.

    Accepts ``500 iterations``, ``1 epoch``, ``end``, ignite's event expressions and, where
    ``allow_time``, ``10 minutes`` or ``30s``; several joined by ``,`` or ``|``; a bare integer
    means iterations; ``never``, ``none`` or ``0`` means never. Where ``allow_auto``, ``auto`` is
    as often as 1 % of the time pays for, ``auto:0.5%`` another share.

    Raises :class:`UsageError` for anything else.
    """
    if isinstance(text, Interval):
        written, interval = str(text), text
    else:
        written = str(text).strip()
        if written.lower() in _NEVER:
            return Interval()
        interval = Interval(tuple(_parse_term(part.strip()) for part in re.split("[,|]", written)))
    if interval.seconds is not None and not allow_time:
        raise UsageError(
            f"'{written}' is a time, and this must fall on the same iteration in every run; "
            f"count iterations or epochs, for example {_EXAMPLES_WITHOUT_TIME}"
        )
    if interval.share is not None and not allow_auto:
        raise _unreadable(written, "only saving can be left to choose its own times")
    return interval


def parse_duration(text: str | Interval) -> Interval:
    """Read one time, such as ``2 hours`` or ``90m``; ``never``, ``none`` or ``0`` is none at all.

    Raises :class:`UsageError` for anything else.
    """
    interval = parse_interval(text, allow_time=True)
    if interval.terms and (len(interval.terms) > 1 or interval.seconds is None):
        raise UsageError(f"'{text}' is not one time, such as '2 hours', '90 minutes' or '30s'")
    return interval


def _parse_term(text: str) -> Term:
    if text.lower() == "end":
        return END
    if match := _AUTO.fullmatch(text):
        return _auto(text, match["percent"])
    if match := _COUNT.fullmatch(text):
        return _counted(text, match["count"], match["unit"].lower() or "iterations")
    if match := _EVENT.fullmatch(text):
        return _event(text, match["event"], match["how"], match["n"])
    raise _unreadable(text, "a number and a unit, or an event, is needed")


def _auto(text: str, percent: str | None) -> Auto:
    if percent is None:
        return Auto(SHARE)
    if not 0 < float(percent) < 100:
        raise _unreadable(text, "the share must be between 0 % and 100 % of the time")
    return Auto(float(percent) / 100)


def _counted(text: str, number: str, unit_name: str) -> Term:
    if unit_name not in _UNITS:
        raise _unreadable(text, f"unknown unit '{unit_name}'{_nearest(unit_name, _UNITS)}")
    scale, unit = _UNITS[unit_name]
    count = float(number)
    if not (count > 0 and math.isfinite(count)):
        raise _unreadable(text, "the count must be above 0")
    if unit is Unit.SECOND:
        return Every(count * scale, unit)
    if not count.is_integer():
        raise _unreadable(text, f"a whole number of {unit.value}s is needed")
    return Every(int(count), unit)


def _event(text: str, name: str, how: str | None, number: str | None) -> Term:
    if name not in _EVENTS:
        raise _unreadable(text, f"unknown event '{name}'{_nearest(name, _EVENTS)}")
    unit = _EVENTS[name]
    if unit is Unit.END:
        if how is not None:
            raise _unreadable(text, "COMPLETED happens once and takes no count")
        return END
    if how is not None and how not in _OPTIONS:
        raise _unreadable(text, f"unknown option '{how}'{_nearest(how, _OPTIONS)}")
    count = int(number or 1)
    if count < 1:
        raise _unreadable(text, "the count must be above 0")
    return Once(count, unit) if how == "once" else Every(count, unit)


def _nearest(name: str, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (nearest known: '{match[0]}')" if match else ""


def _unreadable(text: str, reason: str) -> UsageError:
    return UsageError(f"cannot read the interval '{text}': {reason}; valid: {_EXAMPLES}")


def _term_text(term: Term) -> str:
    if isinstance(term, Auto):
        return "auto" if term.share == SHARE else f"auto:{term.share * 100:.10g}%"
    if term.unit is Unit.END:
        return "end"
    if isinstance(term, Once):
        return f"{_EVENT_NAMES[term.unit]}(once={term.count})"
    count, unit = term.count, term.unit.value
    if term.unit is Unit.SECOND:
        for scale, name in ((3600, "hour"), (60, "minute")):
            if count % scale == 0:
                count, unit = count / scale, name
                break
    number = str(int(count)) if count == int(count) else repr(count)
    return f"{number} {unit}" if count == 1 else f"{number} {unit}s"
