"""Numbers, times and tables as text for a terminal."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def table(rows: Sequence[Sequence[str]], *, indent: str = "") -> list[str]:
    """Return ``rows`` as aligned lines, the first one a heading; cut to fit a terminal."""
    width = _width()
    columns = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(size) for cell, size in zip(row, columns, strict=True)]
        line = f"{indent}{'  '.join(cells)}".rstrip()
        lines.append(line if width is None or len(line) <= width else line[: width - 1] + "…")
    return lines


def _width() -> int | None:
    """The terminal's width in characters, None where the output is not one."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def value(argument: Any) -> str:
    """Return an argument's value as one writes it: text plain, nothing as a dash."""
    if argument is None:
        return "–"
    if isinstance(argument, str):
        return argument
    return json.dumps(argument, ensure_ascii=False, default=str)


def metrics(values: Mapping[str, float]) -> str:
    """Return metrics on one line, with four digits each."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


def ago(seconds: float) -> str:
    """Return how long ago something was, in its largest whole unit."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{max(0, int(seconds))} s ago"


def size(count: float) -> str:
    """Return a number of bytes in a readable unit."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def progress(iteration: int, total: int | None) -> str:
    """Return ``iteration/total``, or the iteration alone where there is no total."""
    return str(iteration) if total is None else f"{iteration}/{total}"


def as_json(value: Any) -> str:
    """Return ``value`` as strict JSON: NaN and the infinities are text, as in the journal."""
    return json.dumps(_finite(value), indent=2, default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value
