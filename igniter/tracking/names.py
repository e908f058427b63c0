"""Names, values and batches in the form MLflow takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

MAX_METRICS = 1000
MAX_PARAMETERS = 100
MAX_PARAMETER_VALUE = 6000
MAX_TAG_VALUE = 8000
_MAX_NAME = 250

# igniter's own arguments that say how to start, and nothing of what was trained.
_BOOKKEEPING = frozenset(
    {"break_lock", "config", "override", "print_config", "progress", "resume", "strict"}
)

_REFUSED = re.compile(r"[^/\w.\- :]")

T = TypeVar("T")


class Point(NamedTuple):
    """A metric's value at an iteration; ``time`` in milliseconds since 1970."""

    name: str
    value: float
    time: int
    iteration: int


def legal(name: str) -> str:
    """Return ``name`` with what MLflow refuses in a name replaced by ``_``.

    It takes letters, digits and ``_ - . space : /`` in at most 250 characters, and no empty,
    ``.`` or ``..`` part between slashes.
    """
    parts = _REFUSED.sub("_", name)[:_MAX_NAME].split("/")
    return "/".join("_" if part in ("", ".", "..") else part for part in parts)[:_MAX_NAME]


def worth_keeping(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``parameters`` of igniter's command line without its bookkeeping.

    In parameters of another origin ``config`` may be what was trained: nothing is left out unless
    all of igniter's names are there.
    """
    if not parameters.keys() >= _BOOKKEEPING:
        return dict(parameters)
    return {name: value for name, value in parameters.items() if name not in _BOOKKEEPING}


def flat(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested ``parameters`` as one level of legal dotted names with text values.

    Values are cut to the 6000 characters that MLflow keeps.
    """
    found: dict[str, str] = {}
    for name, value in parameters.items():
        if isinstance(value, Mapping) and value:
            found.update(flat(value, f"{prefix}{name}."))
        else:
            found[legal(f"{prefix}{name}")] = str(value)[:MAX_PARAMETER_VALUE]
    return found


def batches(items: Iterable[T], size: int) -> Iterator[Sequence[T]]:
    """Yield ``items`` in lists of at most ``size``."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
