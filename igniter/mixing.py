"""A bijective scrambling of 64-bit integers: of one, and of each in an array.

The function is the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom
number generators", OOPSLA 2014).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15

Words = npt.NDArray[np.uint64]


def mix(value: int) -> int:
    """``value`` scrambled, from 0 to 2**64 - 1 like what comes back."""
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def mix_words(words: Words) -> Words:
    """:func:`mix` of each word of an array."""
    mixed: Words = words + np.uint64(_GOLDEN)  # what overflows is cut off, as the mask does above
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
