"""Intervals: what is read, what is refused, and when they are due."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igniter.errors import UsageError
from igniter.intervals import END, Every, Interval, Once, Term, Unit, parse_interval

WHOLE = st.integers(1, 40)
TERMS = st.one_of(
    st.builds(Every, WHOLE, st.sampled_from([Unit.ITERATION, Unit.EPOCH])),
    st.builds(Once, WHOLE, st.sampled_from([Unit.ITERATION, Unit.EPOCH])),
    st.builds(Every, st.floats(1e-3, 1e6), st.just(Unit.SECOND)),
    st.just(END),
)
INTERVALS = st.builds(lambda terms: Interval(tuple(terms)), st.lists(TERMS, max_size=4))


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("500 iterations", [Every(500, Unit.ITERATION)]),
        ("1 iteration", [Every(1, Unit.ITERATION)]),
        ("1 Epoch", [Every(1, Unit.EPOCH)]),
        ("250", [Every(250, Unit.ITERATION)]),
        (250, [Every(250, Unit.ITERATION)]),
        ("10 minutes", [Every(600, Unit.SECOND)]),
        ("30s", [Every(30, Unit.SECOND)]),
        ("10m", [Every(600, Unit.SECOND)]),
        ("2h", [Every(7200, Unit.SECOND)]),
        ("1.5 hours", [Every(5400, Unit.SECOND)]),
        ("1 epoch, 5 minutes", [Every(1, Unit.EPOCH), Every(300, Unit.SECOND)]),
        ("end", [END]),
        ("never", []),
        ("none", []),
        ("0", []),
        (0, []),
        ("ITERATION_COMPLETED(every=100)", [Every(100, Unit.ITERATION)]),
        ("Events.EPOCH_COMPLETED", [Every(1, Unit.EPOCH)]),
        ("EPOCH_COMPLETED(every=2) | COMPLETED", [Every(2, Unit.EPOCH), END]),
        ("ITERATION_COMPLETED( once = 5 )", [Once(5, Unit.ITERATION)]),
    ],
)
def test_reads(text: str | int, terms: list[Term]) -> None:
    """Speech, a bare number and ignite's event expressions are read."""
    assert parse_interval(text, allow_time=True) == Interval(tuple(terms))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("-5 iterations", "above 0"),
        ("-5", "above 0"),
        ("0 epochs", "above 0"),
        ("EPOCH_COMPLETED(every=0)", "above 0"),
        ("1e999 seconds", "above 0"),
        ("0.5 epochs", "whole number"),
        ("5 epocs", "'epocs' (nearest known: 'epochs')"),
        ("5 minute iterations", "a number and a unit"),
        ("EPOCH_STARTED", "'EPOCH_STARTED' (nearest known: 'EPOCH_COMPLETED')"),
        ("EPOCH_COMPLETED(evry=2)", "unknown option 'evry' (nearest known: 'every')"),
        ("COMPLETED(every=2)", "takes no count"),
        ("EPOCH_COMPLETED(every=__import__('os').getpid())", "a number and a unit"),
        ("1 epoch,", "''"),
        ("", "''"),
        (True, "'True'"),
    ],
)
def test_refuses(text: str | int, reason: str) -> None:
    """Anything else is refused with the text, the reason and valid examples."""
    with pytest.raises(UsageError) as caught:
        parse_interval(text, allow_time=True)
    message = str(caught.value)
    assert reason in message
    assert "'500 iterations', '1 epoch, 10 minutes', 'EPOCH_COMPLETED(every=2)'" in message


def test_time_only_where_allowed() -> None:
    """A time is refused for what must fall on the same iteration in every run."""
    with pytest.raises(UsageError, match=r"'1 epoch, 30s' is a time"):
        parse_interval("1 epoch, 30s", allow_time=False)
    with pytest.raises(UsageError, match="is a time"):
        parse_interval(Interval((Every(30, Unit.SECOND),)), allow_time=False)
    assert parse_interval("1 epoch", allow_time=False) == Interval((Every(1, Unit.EPOCH),))


@given(INTERVALS)
def test_text_is_read_back(interval: Interval) -> None:
    """The text of an interval is read back as an equal interval."""
    assert parse_interval(str(interval), allow_time=True) == interval


def test_text_is_speech() -> None:
    """The text uses the greatest unit that fits, and the singular for one."""
    interval = parse_interval("7200s, 60s, 90s, 1, 2 epochs, COMPLETED", allow_time=True)
    assert str(interval) == "2 hours, 1 minute, 90 seconds, 1 iteration, 2 epochs, end"
    assert str(Interval()) == "never"


def test_shortest_period() -> None:
    """The period in seconds is the shortest of the times, and None without a time."""
    assert parse_interval("1 epoch, 2m, 90s", allow_time=True).seconds == 90
    assert parse_interval("1 epoch", allow_time=True).seconds is None


def due_by_definition(interval: Interval, iteration: int, epoch_length: int, total: int) -> bool:
    """Say whether ``iteration`` is due, term by term, in the words of the documentation."""
    for term in interval.terms:
        if term.unit is Unit.END and iteration == total:
            return True
        if term.unit in (Unit.ITERATION, Unit.EPOCH):
            count = int(term.count) * (epoch_length if term.unit is Unit.EPOCH else 1)
            if iteration == count or (isinstance(term, Every) and iteration % count == 0):
                return True
    return False


@given(INTERVALS, st.integers(0, 120), st.integers(1, 15), st.integers(1, 120))
def test_next_iteration(interval: Interval, after: int, epoch_length: int, total: int) -> None:
    """The next iteration is the first later one, up to the last, that is due by definition."""
    later = range(after + 1, total + 1)
    dues = [i for i in later if due_by_definition(interval, i, epoch_length, total)]
    assert interval.next_iteration(after, epoch_length, total) == min(dues, default=None)
    assert dues == [i for i in later if interval.due(i, epoch_length, total)]
