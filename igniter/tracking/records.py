"""The format of ``journal.jsonl``: a record, its line, and reading the file by line.

A line is one record::

    {"time":1764000000000,"attempt":1,"iteration":100,"epoch":2,"kind":"result","metrics":{"a":0.5}}

``time`` is milliseconds since 1970. Floats are written so that they read back bit for bit; NaN and
the infinities are the strings "nan", "inf" and "-inf", which keeps each line strict JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["result", "measured"]

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a journal; ``start`` and ``end`` are the byte offsets round it.

    ``time`` is in milliseconds since 1970. ``repeat`` marks values of iterations that ran again
    and came out different.
    """

    time: int
    attempt: int
    iteration: int
    epoch: int
    kind: Kind
    metrics: dict[str, float]
    repeat: bool
    start: int
    end: int


def line(
    time: int,
    attempt: int,
    iteration: int,
    epoch: int,
    kind: Kind,
    metrics: Mapping[str, float],
    *,
    repeat: bool,
) -> bytes:
    """Return a record as a line of the file, newline included."""
    fields: dict[str, object] = {
        "time": time,
        "attempt": attempt,
        "iteration": iteration,
        "epoch": epoch,
        "kind": kind,
        "metrics": metrics,
    }
    if repeat:
        fields["repeat"] = True
    try:
        text = _encode(fields)
    except ValueError:
        fields["metrics"] = {n: v if math.isfinite(v) else repr(v) for n, v in metrics.items()}
        text = _encode(fields)
    return text.encode() + b"\n"


def read(path: Path, start: int = 0) -> Iterator[Record]:
    """Yield the records of the journal at ``path`` from byte ``start`` on.

    Ends at the last complete line, so that a file being written can be read. A line that is no
    record is passed over: the next record's ``start`` is then not the ``end`` of the one before.
    A missing file has no records.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(start)
        end = start
        for text in file:
            if not text.endswith(b"\n"):
                return
            begin, end = end, end + len(text)
            record = _parse(text, begin, end)
            if record is not None:
                yield record


def is_boundary(path: Path, offset: int) -> bool:
    """Whether ``offset`` is the start or the end of a line of the journal at ``path``."""
    if offset <= 0:
        return offset == 0
    try:
        with path.open("rb") as file:
            file.seek(offset - 1)
            return file.read(1) == b"\n"
    except FileNotFoundError:
        return False


def _parse(text: bytes, start: int, end: int) -> Record | None:
    try:
        fields = json.loads(text)
        return Record(
            time=int(fields["time"]),
            attempt=int(fields["attempt"]),
            iteration=int(fields["iteration"]),
            epoch=int(fields["epoch"]),
            kind=fields["kind"],
            metrics={str(name): float(value) for name, value in fields["metrics"].items()},
            repeat=bool(fields.get("repeat", False)),
            start=start,
            end=end,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
