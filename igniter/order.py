"""The index order of one pass over a dataset: a permutation that can be entered anywhere.

An order is a function of a 64-bit key and the dataset's length alone. It does not change with
the version of torch or numpy, needs no pass-long memory for large datasets, and reading it from
the middle costs what reading it from the start does.

Up to ``_SORTED`` indices the permutation sorts them by a hash. Above, it is an unbalanced
Feistel network on the smallest power of two that holds the length, walking cycles to stay
inside it (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002); small
domains, where few rounds would show, are left to the sort.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from igniter.mixing import Words, mix, mix_words

_SORTED = 1 << 16
_ROUNDS = 8
_CHUNK = 1 << 15  # a whole one is worked out at a time: its fixed costs are those of a few

_Indices = npt.NDArray[np.int64]


class Sequential:
    """Indices ``0 … length - 1`` as they come."""

    def __init__(self, length: int) -> None:
        self.length = length

    def slice(self, start: int, stop: int) -> list[int]:
        """The indices at positions ``start`` up to ``stop``, fewer at the end."""
        return list(range(start, min(stop, self.length)))


class Shuffled:
    """The permutation of ``0 … length - 1`` that belongs to ``key`` (a 64-bit integer)."""

    def __init__(self, length: int, key: int) -> None:
        self.length = length
        self._key = key
        self._chunk: list[int] = []
        self._chunk_start = 0
        bits = max((length - 1).bit_length(), 2)
        self._low_bits = bits // 2
        self._high_bits = bits - self._low_bits
        self._round_keys = [np.uint64(mix(key ^ mix(round_))) for round_ in range(_ROUNDS)]

    def slice(self, start: int, stop: int) -> list[int]:
        """The indices at positions ``start`` up to ``stop``, fewer at the end."""
        stop = min(stop, self.length)
        indices: list[int] = []
        while start < stop:
            offset = start - self._chunk_start
            if not 0 <= offset < len(self._chunk):
                self._load_chunk(start)
                offset = start - self._chunk_start
            taken = self._chunk[offset : offset + stop - start]
            indices += taken
            start += len(taken)
        return indices

    def _load_chunk(self, position: int) -> None:
        if self.length <= _SORTED:
            self._chunk_start = 0
            self._chunk = self._sorted().tolist()
        else:
            self._chunk_start = position - position % _CHUNK
            stop = min(self._chunk_start + _CHUNK, self.length)
            self._chunk = self._permuted(
                np.arange(self._chunk_start, stop, dtype=np.uint64)
            ).tolist()

    def _sorted(self) -> _Indices:
        words = mix_words(mix_words(np.arange(self.length, dtype=np.uint64)) ^ np.uint64(self._key))
        return np.argsort(words)  # no two are equal, so that any way of sorting gives the same

    def _permuted(self, positions: Words) -> _Indices:
        words = self._encrypt(positions)
        outside = np.flatnonzero(words >= self.length)
        while outside.size:
            words[outside] = self._encrypt(words[outside])
            outside = outside[words[outside] >= self.length]
        return words.astype(np.int64)

    def _encrypt(self, words: Words) -> Words:
        """One bijection of ``0 … 2**bits - 1``; the halves change places each round."""
        low_bits, high_bits = self._low_bits, self._high_bits
        low = words & np.uint64((1 << low_bits) - 1)
        high = words >> np.uint64(low_bits)
        for key in self._round_keys:
            mask = np.uint64((1 << high_bits) - 1)
            low, high = high ^ (mix_words(low ^ key) & mask), low
            low_bits, high_bits = high_bits, low_bits
        whole: Words = (high << np.uint64(low_bits)) | low
        return whole
