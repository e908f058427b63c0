"""When something is due next."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from igniter.cadence import Length, Timer
from igniter.intervals import parse_interval

texts = st.sampled_from(
    ["3 iterations", "1 epoch", "2 epochs", "4 iterations, 1 epoch", "end", "never", "1 iterations",
     "ITERATION_COMPLETED(once=5)"]
)  # fmt: skip


@given(
    text=texts, epoch=st.integers(1, 7), total=st.integers(1, 30), begin=st.integers(0, 29),
    at_end=st.booleans(),
)  # fmt: skip
def test_resumed_timer_counts_on(
    text: str, epoch: int, total: int, begin: int, at_end: bool
) -> None:
    """A timer begun anywhere is due at the same iterations as one that began with the run."""
    length = Length(epoch, total)

    def due(start: int) -> list[int]:
        timer = Timer(parse_interval(text, allow_time=False), length, at_end=at_end)
        timer.begin(start, 0.0)
        return [i for i in range(start + 1, total + 1) if timer.due(i, 0.0)]

    whole = due(0)
    assert due(begin) == [i for i in whole if i > begin]
    timer = Timer(parse_interval(text, allow_time=False), length, at_end=at_end)
    assert [i for i in range(1, total + 1) if timer.was_due(i)] == whole
    if at_end:
        assert whole[-1] == total


def test_times() -> None:
    """A time is due that long after it was last due, whichever of two reasons it was due for."""
    timer = Timer(parse_interval("10 seconds, 5 iterations", allow_time=True), Length(100, 100))
    timer.begin(0, 50.0)
    assert not timer.due(1, 59.0)
    assert timer.due(2, 60.0)
    assert not timer.due(4, 69.0)
    assert timer.due(5, 69.5)
    assert not timer.due(6, 71.0)
    assert timer.due(7, 79.5)


def test_never() -> None:
    """What is never due has no next time."""
    timer = Timer(parse_interval("never", allow_time=True), Length(10, 20))
    timer.begin(0, 0.0)
    assert (timer.iteration, timer.time) == (math.inf, math.inf)
    assert not timer.was_due(20)


def test_length() -> None:
    """Epochs count from 1, and an epoch ends with its last iteration."""
    length = Length(epoch=4, total=10)
    assert [length.epoch_of(i) for i in (0, 1, 4, 5, 10)] == [0, 1, 1, 2, 3]
    assert [i for i in range(1, 11) if length.ends_epoch(i)] == [4, 8]
