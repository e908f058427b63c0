"""Python's generator set from 32 bits, at half the cost of ``random.seed``.

Python's generator and numpy's legacy one are the same Mersenne Twister, seeded differently:
``random.seed`` goes over its 624 words three times (4.1 µs), numpy once (1.6 µs, the initialisation
of Matsumoto and Nishimura's mt19937ar, which torch has too). Seeding comes before each batch and
each step, where ``random.seed`` was the largest cost of the loop. So a twister of numpy's is seeded
in private, and its words become the state of python's.

``random.setstate`` takes them as 624 integers, in some 20 µs. CPython keeps them as an array in the
generator's own memory, behind an index. Where reading a generator's memory shows them there they
are copied (0.2 µs); elsewhere ``setstate`` sets the same words. No number depends on which it was.
"""

from __future__ import annotations

import ctypes
import functools
import random
import struct
import sys
import sysconfig
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

_WORDS = 624
_VERSION = 3  # of the states that random.getstate gives
_INDEX = struct.Struct("=i")
_STATE = struct.Struct(f"=i{_WORDS}I")


def seed_python(seed: int) -> None:
    """Set python's global generator from ``seed``, at least 0 and below 2**32."""
    _seeding()(seed)


@functools.cache
def _seeding() -> Callable[[int], None]:
    """The way that this process goes."""
    generator = getattr(random.seed, "__self__", None)
    through_memory = _through_memory(generator) if type(generator) is random.Random else None
    return through_memory or _through_setstate(random.setstate)


def _through_setstate(
    setstate: Callable[[tuple[int, tuple[int, ...], None]], None],
) -> Callable[[int], None]:
    """What seeds a generator by its ``setstate``."""
    twister = np.random.RandomState(np.random.MT19937(0))

    def seed_generator(seed: int) -> None:
        twister.seed(seed)
        setstate((_VERSION, (*_words(twister).tolist(), _WORDS), None))

    return seed_generator


def _through_memory(generator: random.Random) -> Callable[[int], None] | None:
    """What seeds ``generator`` by copying words; None where they are not found in its memory."""
    offset = _state_offset()
    if offset is None:
        return None
    bits = np.random.MT19937(0)
    twister = np.random.RandomState(bits)
    words = _memory(bits.ctypes.state_address, _STATE.size - _INDEX.size)
    if words != _words(twister).tobytes():
        return None
    state = _memory(id(generator) + offset, _STATE.size)
    index, copied = state[: _INDEX.size], state[_INDEX.size :]
    all_used = _INDEX.pack(_WORDS)

    def seed_generator(seed: int) -> None:
        twister.seed(seed)
        copied[:] = words
        index[:] = all_used
        generator.gauss_next = None  # type: ignore[attr-defined]

    return seed_generator


def _state_offset() -> int | None:
    """Where index and words are in a generator's memory; None where this cannot be relied on."""
    # PyPy's addresses are no addresses; without the GIL another thread may be drawing meanwhile.
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return None
    generator = random.Random(0)
    offsets = set()
    for _ in range(2):
        *words, index = generator.getstate()[1]
        memory = ctypes.string_at(id(generator), random.Random.__basicsize__)
        offsets.add(memory.find(_STATE.pack(index, *words)))
        generator.random()
    (offset, *others) = offsets
    return None if others or offset < 0 else offset


def _words(twister: np.random.RandomState) -> npt.NDArray[np.uint32]:
    words: npt.NDArray[np.uint32] = twister.get_state(legacy=False)["state"]["key"]
    return words


def _memory(address: int, size: int) -> memoryview:
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")
