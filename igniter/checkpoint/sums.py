"""The checksums of a checkpoint's files, and how a manifest names them.

They tell damage, not forgery: who can write the file can write its manifest. So speed decides.
XXH3 (128 bits; Yann Collet, https://xxhash.com) reads as fast as memory gives, some twenty times
faster than sha256, its Python package is kept by its author's community and lets other threads run
meanwhile, and 2^-128 is the chance that damage goes unseen. Files of format version 1 have sha256.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import xxhash


class Sum(Protocol):
    """A checksum that is being taken."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take in more bytes."""

    def hexdigest(self) -> str:
        """The checksum of all that was taken in, in lower-case hexadecimal."""


_ALGORITHMS: Mapping[str, tuple[Callable[[], Sum], re.Pattern[str]]] = {
    "xxh3_128": (xxhash.xxh3_128, re.compile(r"[0-9a-f]{32}")),
    "sha256": (hashlib.sha256, re.compile(r"[0-9a-f]{64}")),
}
WRITTEN = "xxh3_128"


def new(algorithm: str = WRITTEN) -> Sum:
    """A checksum of nothing yet."""
    return _ALGORITHMS[algorithm][0]()


def algorithm_of(entry: Mapping[str, Any]) -> str | None:
    """Which checksum a file's entry in a manifest holds; None unless it is one, well formed."""
    found = [name for name in _ALGORITHMS if name in entry]
    if len(found) != 1 or not _ALGORITHMS[found[0]][1].fullmatch(str(entry[found[0]])):
        return None
    return found[0]
