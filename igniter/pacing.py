"""How often to save: as often as a share of the time pays for.

The time between two saves is what a save costs over the share: 0.3 s at 1 % make 30 s. Young (1974)
and Daly (2006) find the time that loses least, sqrt(2 x cost x time between failures), from how
often machines fail, which nobody can tell a training in advance; docs/saving.md has the comparison.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable

SHARE = 0.01

# Steps, so that small differences between two saves do not change what was said. The first is as
# often as is of use, the last the most that is ever lost.
_STEPS = (10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300, 450, 600)
_REMEMBERED = 5
_SLACK = 0.8
# What is assumed before the first save: a modest disk's rate, in bytes a second.
_ASSUMED_RATE = 1e9


class Pace:
    """Seconds from one save to the next, from what the last ones cost.

    Args:
        share: of the time, the most that saving may take.
        size: tells how many bytes a save has; asked until the first was measured.
        say: told of each choice.
    """

    def __init__(self, share: float, size: Callable[[], int], say: Callable[[str], None]) -> None:
        self._share = share
        self._size = size
        self._say = say
        self._costs: deque[float] = deque(maxlen=_REMEMBERED)
        self._chosen: int | None = None

    @property
    def seconds(self) -> float:
        """From one save to the next."""
        if self._chosen is None:
            return _step(self._size() / _ASSUMED_RATE / self._share)
        return self._chosen

    def measured(self, cost: float, took: float = 0.0) -> None:
        """A save cost training ``cost`` seconds, and ``took`` so many until it was committed."""
        self._costs.append(cost)
        usual = statistics.median(self._costs)
        # Twice as long as a save takes, so that none waits for the one before.
        chosen = _step(max(usual / self._share, 2 * took))
        if self._chosen is not None and chosen < self._chosen:
            # Down only with room to spare, or it would go up again at the next.
            with_room = max(usual / _SLACK / self._share, 2 * took)
            chosen = min(_step(with_room), self._chosen)
        if chosen == self._chosen:
            return
        self._chosen = chosen
        text = f"saving every {_duration(chosen)}: a checkpoint costs {usual:.2g} s of training"
        if usual > chosen * self._share:
            text += f", {usual / chosen:.1%} of the time; rarer than that is never chosen"
        self._say(text)


def _step(seconds: float) -> int:
    return next((step for step in _STEPS if step >= seconds), _STEPS[-1])


def _duration(seconds: int) -> str:
    return f"{seconds // 60} minutes" if seconds % 60 == 0 and seconds > 60 else f"{seconds} s"
