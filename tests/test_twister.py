"""Python's generator set quickly: the same numbers whichever way it was done."""

from __future__ import annotations

import random
import struct
import sysconfig

import numpy as np
import pytest

from igniter import twister
from igniter.rng import set_generators

SEEDS = [0, 1, 5, 2**31, 2**32 - 1]


@pytest.mark.parametrize("seed", SEEDS)
def test_both_ways_give_one_state(seed: int) -> None:
    """Copied into memory or through setstate: the state is the same, with no Gaussian kept."""
    copied, set_ = random.Random(7), random.Random(8)
    for generator in (copied, set_):
        generator.gauss(0, 1)
        generator.random()
    through_memory = twister._through_memory(copied)
    assert through_memory is not None
    through_memory(seed)
    twister._through_setstate(set_.setstate)(seed)
    assert copied.getstate() == set_.getstate()
    assert [copied.gauss(0, 1) for _ in range(700)] == [set_.gauss(0, 1) for _ in range(700)]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_words_are_those_of_the_reference(seed: int) -> None:
    """The initialisation is mt19937ar's, as numpy has it: equal draws of 53 bits."""
    twister.seed_python(seed)
    assert [random.random() for _ in range(1300)] == list(np.random.RandomState(seed).rand(1300))


def test_this_process_takes_the_quick_way() -> None:
    """CPython's generators are laid out as expected; other seeds give other numbers."""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("without the GIL the slower way is the one that is safe")
    assert twister._state_offset() is not None
    first, second = (random.random() for seed in (1, 2) if twister.seed_python(seed) is None)
    assert first != second


def test_memory_that_is_laid_out_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the words are not found in a generator's memory nothing is written there.

    The numbers that training draws are the same.
    """
    set_generators(0x0123456789ABCDEF)
    quick = [random.random() for _ in range(5)]
    monkeypatch.setattr(twister, "_STATE", struct.Struct(">i624I"))  # as no machine here has it
    assert twister._through_memory(random.Random(1)) is None
    monkeypatch.setattr(twister, "_seeding", twister._seeding.__wrapped__)
    set_generators(0x0123456789ABCDEF)
    assert [random.random() for _ in range(5)] == quick


@pytest.mark.parametrize("without", ["cpython", "gil", "generator"])
def test_other_interpreters(without: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere than in CPython with its GIL, or with another ``random.seed``, memory is let be."""
    written: list[object] = []
    if without == "cpython":
        monkeypatch.setattr(twister.sys.implementation, "name", "pypy")
    elif without == "gil":
        monkeypatch.setattr(twister.sysconfig, "get_config_var", lambda name: 1)
    else:
        monkeypatch.setattr(random, "seed", lambda seed: None)
    monkeypatch.setattr(twister, "_memory", lambda *where: written.append(where))
    twister._seeding.__wrapped__()(3)
    assert not written
    assert random.random() == np.random.RandomState(3).rand()


def test_generators_are_unrelated() -> None:
    """python's and numpy's are of one kind, and are set from different parts of a seed."""
    for seed in (0x0000000500000005, 0x0000000700000003, 2**64 - 1):
        set_generators(seed)
        assert random.random() != np.random.rand()
