"""Names, values and batches in the form MLflow takes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, TypeVar

MAX_METRICS = 1000
MAX_PARAMETERS = 100
MAX_PARAMETER_VALUE = 6000
MAX_TAG_VALUE = 8000
MAX_NAME = 250
RULE = "it takes letters, digits, spaces and _-.:/ in at most 250 characters"

# igniter's own arguments that say how to start and where files go, and nothing of what is trained.
# MLflow's pages put all parameters in front of each figure: among many it is out of sight.
_BOOKKEEPING = frozenset(
    {
        "break_lock",
        "checkpoint",
        "checkpoint_dir",
        "config",
        "eval_only",
        "export",
        "keep_best",
        "keep_every",
        "keep_last",
        "mlflow",
        "model_dir",
        "output_dir",
        "override",
        "picture",
        "print_config",
        "print_every",
        "progress",
        "resume",
        "save_every",
        "stop_after",
        "stop_signals",
        "strict",
        "tensorboard",
    }
)
_OF_SOME_SCRIPTS = "subcommand"
_OF_TRACKING = "mlflow_"

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
    parts = _REFUSED.sub("_", name)[:MAX_NAME].split("/")
    return "/".join("_" if part in ("", ".", "..") else part for part in parts)[:MAX_NAME]


def legal_and_free(name: str, taken: Container[str]) -> str:
    """Return :func:`legal` of ``name``, with a checksum of ``name`` after it where it is taken."""
    wanted = legal(name)
    if wanted not in taken:
        return wanted
    mark = f"-{_digest(name)}"
    return f"{wanted[: MAX_NAME - len(mark)]}{mark}"


class MetricNames:
    """What the metrics of a run are called in MLflow: their own names, wherever it takes them.

    What another name was chosen for is remembered in the run's tags, so that whoever sends later,
    from wherever, uses the same.
    """

    _TAG = "igniter.metric."
    _SEPARATOR = " = "  # no name that MLflow takes has a "="

    def __init__(self, tags: Mapping[str, str]) -> None:
        """``tags`` are those of the run."""
        self._chosen = {
            key.removeprefix(self._TAG): value.partition(self._SEPARATOR)[0]
            for key, value in tags.items()
            if key.startswith(self._TAG)
        }

    def find(self, name: str) -> str | None:
        """Return what ``name`` is called, None where that is to be chosen."""
        if name == legal(name) and name not in self._chosen.values():
            return name
        return self._chosen.get(_digest(name)) if self._chosen else None

    def choose(self, name: str, taken: Iterable[str]) -> tuple[str, str]:
        """Choose another name for ``name`` than those ``taken``; return the tag to remember it."""
        sent_as = legal_and_free(name, {*taken, *self._chosen.values()})
        self._chosen[_digest(name)] = sent_as
        return f"{self._TAG}{_digest(name)}", f"{sent_as}{self._SEPARATOR}{name}"


@dataclass(frozen=True)
class Flat:
    """Parameters as MLflow takes them; ``notes`` say what is not there as it was given."""

    values: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def worth_keeping(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``parameters`` of igniter's command line without its bookkeeping.

    In parameters of another origin ``config`` may be what was trained: nothing is left out unless
    all of igniter's names are there.
    """
    if not parameters.keys() >= _BOOKKEEPING:
        return dict(parameters)
    return {
        name: value
        for name, value in parameters.items()
        if name not in (*_BOOKKEEPING, _OF_SOME_SCRIPTS) and not name.startswith(_OF_TRACKING)
    }


def flat(parameters: Mapping[str, Any]) -> Flat:
    """Return nested ``parameters`` as one level of dotted names, each legal, with text values."""
    found = Flat()
    for name, value in _leaves(parameters, ""):
        sent_as = legal_and_free(name, found.values)
        if sent_as != name:
            found.notes.append(
                f"the parameter {name!r:.300} is called {sent_as!r} in MLflow: {RULE}"
            )
        text = str(value)
        if len(text) > MAX_PARAMETER_VALUE:
            found.notes.append(
                f"the parameter {sent_as!r} is cut from {len(text)} to {MAX_PARAMETER_VALUE} "
                "characters in MLflow; the artifact config.yaml has the whole"
            )
        found.values[sent_as] = text[:MAX_PARAMETER_VALUE]
    return found


def batches(items: Iterable[T], size: int) -> Iterator[Sequence[T]]:
    """Yield ``items`` in lists of at most ``size``."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _leaves(parameters: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in parameters.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
