"""The index order of a pass: a permutation that can be entered anywhere."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igniter.order import Sequential, Shuffled

BORDER = 1 << 16
lengths = st.one_of(st.integers(0, 70), st.integers(BORDER - 2, BORDER + 300))
keys = st.integers(0, 2**64 - 1)


@settings(max_examples=60, deadline=None)
@given(length=lengths, key=keys, data=st.data())
def test_a_permutation_entered_anywhere(length: int, key: int, data: st.DataObject) -> None:
    """Each index comes once, and a part read from the middle is the part of the whole."""
    whole = Shuffled(length, key).slice(0, length)
    assert sorted(whole) == list(range(length))
    start = data.draw(st.integers(0, length))
    stop = data.draw(st.integers(start, length + 5))
    assert Shuffled(length, key).slice(start, stop) == whole[start:stop]


@pytest.mark.parametrize("length", [50, BORDER + 1])
def test_another_key_is_another_order(length: int) -> None:
    """Two keys give orders that have nothing to do with each other; one key gives one order."""
    first, again, second = (Shuffled(length, key).slice(0, 50) for key in (1, 1, 2))
    assert first == again
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 10


@pytest.mark.parametrize("length", [1000, BORDER + 1000])
def test_evenly_mixed(length: int) -> None:
    """Neighbours do not stay neighbours, and the first positions see indices from everywhere."""
    found = Shuffled(length, 5).slice(0, 1000)
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert sum(abs(step) == 1 for step in steps) < 20
    assert 0.42 * length < sum(found) / len(found) < 0.58 * length


def test_orders_that_runs_were_begun_with() -> None:
    """An order never changes from one igniter to the next: runs are resumed with it."""
    assert Shuffled(10, 7).slice(0, 10) == ORDER_OF_10
    assert Shuffled(BORDER + 10, 7).slice(0, 5) == ORDER_OF_MANY


def test_sequential() -> None:
    """As they come, and no more of them than there are."""
    assert Sequential(5).slice(3, 9) == [3, 4]
    assert Sequential(5).slice(5, 9) == []


ORDER_OF_10 = [2, 6, 7, 4, 0, 1, 9, 5, 8, 3]
ORDER_OF_MANY = [50346, 12083, 5361, 8689, 20435]
