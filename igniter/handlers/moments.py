"""A moment of a run, "3 epochs" or 500 iterations, as how many iterations are done by then."""

from __future__ import annotations

import sys

from igniter.cadence import Length
from igniter.errors import UsageError
from igniter.intervals import parse_interval


def moment(value: int | str, length: Length) -> int:
    """Return how many iterations of a run of ``length`` are done at ``value``.

    ``value`` is a number of iterations, which may be 0, or text such as ``"3 epochs"``; ``"end"``
    is never before the end, however long the run is made.

    Raises:
        UsageError: it is neither, or a time.
    """
    if isinstance(value, int) and value >= 0:
        return value
    if isinstance(value, str):
        interval = parse_interval(value, allow_time=False)
        found = interval.next_iteration(0, length.epoch, sys.maxsize)
        if len(interval.terms) == 1 and found is not None:
            return found
    raise UsageError(
        f"{value!r} is no moment of a run; give a number of iterations, or text such as '3 epochs'"
    )
