"""What ``igniter verify`` prints: values, places and the table."""

from __future__ import annotations

import re
from collections.abc import Mapping

from igniter.verify.comparison import Comparison, Difference
from igniter.verify.trace import Begin

_HASH = re.compile(r"[0-9a-f]{16}( |$)")


def shown(first: str, second: str) -> tuple[str, str] | None:
    """Two fingerprints as values; None where they say no more than that they differ."""
    if _HASH.match(first) and _HASH.match(second):
        return None
    a, b = ("other values" if _HASH.match(text) else _plain(text) for text in (first, second))
    short = _short(a), _short(b)
    return short if short[0] != short[1] else (a, b)


def held(path: str, first: str, second: str, when: tuple[str, str]) -> str:
    """What was at ``path``, ``when`` (such as "in the straight run") the one and the other."""
    pair = shown(first, second)
    if pair is None:
        return f"{path} had other values {when[1]} than {when[0]}"
    return f"{path} was {pair[0]} {when[0]} and {pair[1]} {when[1]}"


def _plain(text: str) -> str:
    """``0.25 torch.float32 ()`` as ``0.25``."""
    return re.sub(r" torch\.\w+ \(.*\)$", "", text)


def _short(text: str) -> str:
    """A floating-point number with six digits."""
    try:
        return f"{float(text):.6g}" if "." in text or "e" in text else text
    except ValueError:
        return text


def table(compared: Comparison, runs: Mapping[str, Begin]) -> list[str]:
    """A line for each thing compared."""
    width = max(len(row.what) for row in compared.rows) + 2
    return [f"  {row.what.ljust(width)}{_outcome(row.difference, runs)}" for row in compared.rows]


def label(run: str, runs: Mapping[str, Begin]) -> str:
    """`` (fold-1)`` where there are several runs."""
    begin = runs[run]
    return "" if len(runs) == 1 else f" ({begin.name or begin.own_root})"


def _outcome(difference: Difference | None, runs: Mapping[str, Begin]) -> str:
    if difference is None:
        return "equal"
    of = label(difference.run, runs)
    pair = shown(difference.first, difference.second)
    where = difference.path + ("" if pair is None else f": {pair[0]} and {pair[1]}")
    if difference.iteration is None:
        return f"differs at the end{of}: {where}"
    if difference.iteration == 0:
        return f"differs{of}: {where}"
    return f"differs from iteration {difference.iteration}{of}: {where}"
