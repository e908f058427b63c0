"""What an attempt finds in the journal of the attempts before it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from igniter.tracking.records import is_boundary, read

# How far before the offset to look for the time of the last settled record, in bytes.
_TAIL = 65_536


@dataclass(frozen=True, slots=True)
class Held:
    """The values an iteration logged before the run was stopped; it will come by them again.

    ``offset`` is where a later attempt has to read from to find this iteration and all after it.
    """

    iteration: int
    offset: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class Recovered:
    """The iterations held beyond the offset, ascending; the file's end and its latest time (ms)."""

    held: deque[Held]
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
    values: dict[int, dict[str, float]] = {}
    starts: dict[int, int] = {}
    end = offset
    last_time = 0
    for record in read(path, max(0, offset - _TAIL)):
        last_time = max(last_time, record.time)
        if record.end <= offset:
            continue
        if record.start != end:
            warn(f"bytes {end} to {record.start} of the journal {path} are damaged: passed over")
        end = record.end
        if record.repeat:
            continue
        starts.setdefault(record.iteration, record.start)
        first = values.setdefault(record.iteration, {})
        for name, value in record.metrics.items():
            first.setdefault(name, value)
    if end < size:
        _cut(path, end, size, warn)
    return Recovered(_ascending(values, starts, end), end, last_time)


def _ascending(
    values: dict[int, dict[str, float]], starts: dict[int, int], end: int
) -> deque[Held]:
    held: deque[Held] = deque()
    # An earlier iteration may stand later in the file (it was logged only by a second attempt), so
    # an iteration's offset is the least of its own start and those of all iterations after it.
    least = end
    for iteration in sorted(values, reverse=True):
        least = min(least, starts[iteration])
        held.appendleft(Held(iteration, least, values[iteration]))
    return held


def _cut(path: Path, end: int, size: int, warn: Callable[[str], None]) -> None:
    with path.open("rb") as file:
        file.seek(end)
        torn = b"\n" not in file.read()
    if not torn:
        warn(f"the last {size - end} bytes of the journal {path} are damaged: removed")
    os.truncate(path, end)
