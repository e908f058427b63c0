"""What an attempt finds in the journal of the attempts before it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from igniter.tracking.records import Record, is_boundary, read

# How far before the offset to look for the time of the last settled record, in bytes.
_TAIL = 65_536


class Awaited:
    """The values that iterations to come logged before the run was stopped.

    They are read from the file as the iterations come, so that a checkpoint that lies far back
    costs no memory. What one attempt wrote is in ascending order of iteration; what another wrote
    after it begins anew. So the file is a few ascending ``parts``, given as (start, end) in bytes
    and read side by side.
    """

    def __init__(self, path: Path, parts: list[tuple[int, int]]) -> None:
        self._parts = [_Part(read(path, start, end)) for start, end in parts]
        self._iteration = -1
        self._values: dict[str, float] = {}

    @property
    def offset(self) -> int | None:
        """Where an attempt has to read from to find the last iteration asked for and those after.

        None when none of them is in the file.
        """
        return min((part.start for part in self._parts), default=None)

    def values(self, iteration: int) -> Mapping[str, float]:
        """What ``iteration`` logged, the first value of each name; to be asked in ascending order.

        What is held of earlier iterations is given up.
        """
        if iteration > self._iteration:
            self._iteration, self._values = iteration, {}
            for part in self._parts:
                part.advance(iteration, self._values)
            self._parts = [part for part in self._parts if not part.passed]
        return self._values if iteration == self._iteration else {}


class _Part:
    """Records in ascending order of iteration; ``start`` is that of the first one not passed."""

    def __init__(self, records: Iterator[Record]) -> None:
        self._records = (record for record in records if not record.repeat)
        self._next = next(self._records, None)
        self.start = 0 if self._next is None else self._next.start
        self.passed = self._next is None

    def advance(self, iteration: int, values: dict[str, float]) -> None:
        """Pass the records before ``iteration`` and add what it logged to ``values``."""
        record = self._next
        while record is not None and record.iteration < iteration:
            record = next(self._records, None)
        self.passed = record is None
        if record is not None:
            self.start = record.start
        while record is not None and record.iteration == iteration:
            for name, value in record.metrics.items():
                values.setdefault(name, value)
            record = next(self._records, None)
        self._next = record


@dataclass(frozen=True, slots=True)
class Recovered:
    """What is awaited beyond the offset; the file's end (bytes) and its latest time (ms)."""

    awaited: Awaited
    end: int
    last_time: int


def recover(path: Path, offset: int, warn: Callable[[str], None]) -> Recovered:
    """Read the journal at ``path`` beyond ``offset`` and cut it back to its last good line.

    A last line that was cut short is the ordinary trace of a kill and goes in silence; whatever
    else is amiss is reported through ``warn``.
    """
    size = path.stat().st_size
    if not is_boundary(path, offset):
        warn(
            f"the checkpoint counts on {offset} bytes of the journal {path}, which now has {size}: "
            "metrics logged before the checkpoint are missing from it"
        )
        offset = 0
    starts: list[int] = []
    end = offset
    last_time = last_iteration = 0
    for record in read(path, max(0, offset - _TAIL)):
        last_time = max(last_time, record.time)
        if record.end <= offset:
            continue
        if record.start != end:
            warn(f"bytes {end} to {record.start} of the journal {path} are damaged: passed over")
        end = record.end
        if record.repeat:
            continue
        if not starts or record.iteration < last_iteration:
            starts.append(record.start)
        last_iteration = record.iteration
    if end < size:
        _cut(path, end, size, warn)
    return Recovered(Awaited(path, list(pairwise([*starts, end]))), end, last_time)


def _cut(path: Path, end: int, size: int, warn: Callable[[str], None]) -> None:
    with path.open("rb") as file:
        file.seek(end)
        torn = not any(b"\n" in block for block in iter(lambda: file.read(1 << 20), b""))
    if not torn:
        warn(f"the last {size - end} bytes of the journal {path} are damaged: removed")
    os.truncate(path, end)
