"""When something is due next: after which iteration, or at what time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from igniter.intervals import Interval
from igniter.pacing import Pace


@dataclass(frozen=True)
class Length:
    """How long a run is: ``total`` iterations, ``epoch`` of them an epoch."""

    epoch: int
    total: int

    def ends_epoch(self, iteration: int) -> bool:
        """Whether ``iteration`` is the last of its epoch."""
        return iteration % self.epoch == 0

    def epoch_of(self, iteration: int) -> int:
        """The epoch that ``iteration`` belongs to, counted from 1; 0 before the first."""
        return -(-iteration // self.epoch)


class Timer:
    """Tells when an interval is due, from an iteration and a time on.

    With ``at_end`` the run's last iteration is due too. ``pace`` gives the seconds of an interval
    that chooses its times. ``iteration`` and ``time`` are when it is due next; infinite for never.
    Times are seconds of any monotonic clock.
    """

    def __init__(
        self,
        interval: Interval,
        length: Length,
        *,
        at_end: bool = False,
        pace: Pace | None = None,
    ) -> None:
        self._interval = interval
        self._length = length
        self._at_end = at_end
        self._pace = pace
        self._since = 0.0
        self.iteration: float = math.inf
        self.time: float = math.inf

    def begin(self, iteration: int, now: float) -> None:
        """Count from ``iteration``, which is done, and the time ``now``."""
        following = self._interval.next_iteration(iteration, self._length.epoch, self._length.total)
        if following is None and self._at_end and iteration < self._length.total:
            following = self._length.total
        self.iteration = math.inf if following is None else following
        self._since = now
        self.time = now + self._seconds()

    def was_due(self, iteration: int) -> bool:
        """Whether ``iteration`` itself is one at which it falls due; says nothing of times."""
        if self._at_end and iteration == self._length.total:
            return True
        # A run that was made shorter since still owes what was due.
        return self._interval.due(iteration, self._length.epoch, max(iteration, self._length.total))

    def due(self, iteration: int, now: float) -> bool:
        """Whether it is due; if so, what follows is counted from here."""
        if now >= self.time:
            self.time = self._since + self._seconds()  # the pace may have slowed down since
        if iteration < self.iteration and now < self.time:
            return False
        self.begin(iteration, now)
        return True

    def _seconds(self) -> float:
        fixed = math.inf if self._interval.seconds is None else self._interval.seconds
        return fixed if self._pace is None else min(fixed, self._pace.seconds)
