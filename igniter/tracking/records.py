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
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["result", "measured"]

# In a line besides the metrics, where it is no repeat.
_OTHER_FIELDS = 6

_quoted = lru_cache(maxsize=4096)(json.dumps)
_decode = json.JSONDecoder().decode


class Record(NamedTuple):
    """One line of a journal; ``start`` and ``end`` are the byte offsets round it.

    ``time`` is in milliseconds since 1970. ``repeat`` marks values of iterations that ran again
    and came out different. A tuple, since a journal has millions of them: a frozen dataclass takes
    a third of the time that reading a line takes.
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
    # Composed by hand in a third of the time that a JSON encoder takes. A finite float's repr is
    # its JSON, and reads back bit for bit.
    values = ",".join(
        f"{_quoted(name)}:{value!r}" if math.isfinite(value) else f'{_quoted(name)}:"{value!r}"'
        for name, value in metrics.items()
    )
    mark = ',"repeat":true' if repeat else ""
    return (
        f'{{"time":{time},"attempt":{attempt},"iteration":{iteration},"epoch":{epoch},'
        f'"kind":"{kind}","metrics":{{{values}}}{mark}}}\n'
    ).encode()


def read(path: Path, start: int = 0, stop: int | None = None) -> Iterator[Record]:
    """Yield the records of the journal at ``path`` from byte ``start`` on, up to byte ``stop``.

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
            if end == stop or not text.endswith(b"\n"):
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
    except (FileNotFoundError, OverflowError, ValueError):  # the others: no file is that long
        return False


def count_values(path: Path, start: int = 0) -> int:
    """Return how many metric values the records from byte ``start`` on hold, repeats left out.

    Counted without being read, at millions of records a second: each value stands after a ``":``,
    as do the six other fields. A name with a quote in it may hold that too, and is read.
    """
    count = 0
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return 0
    with file:
        file.seek(start)
        for text in file:
            if b'\\"' in text:
                record = _parse(text, 0, 0)
                count += 0 if record is None or record.repeat else len(record.metrics)
            elif text.startswith(b'{"time":') and text.endswith(b"}}\n"):
                count += text.count(b'":') - _OTHER_FIELDS
    return count


def _parse(text: bytes, start: int, end: int) -> Record | None:
    try:
        fields = _decode(text.decode())
        return Record(
            int(fields["time"]),
            int(fields["attempt"]),
            int(fields["iteration"]),
            int(fields["epoch"]),
            fields["kind"],
            {str(name): float(value) for name, value in fields["metrics"].items()},
            bool(fields.get("repeat", False)),
            start,
            end,
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
