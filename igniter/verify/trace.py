"""What an attempt wrote down of itself, a line for each iteration: the format, and reading it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from igniter.verify.plan import Stop

Parts = Mapping[str, str]
"""Fingerprints by path."""


@dataclass(frozen=True)
class Begin:
    """A run begun or resumed: what it held before its next iteration; ``state`` is by name.

    ``own_root`` is where the run would be if it were not verified, ``after_everything`` whether
    it was resumed from the checkpoint of its completion, ``samples`` the size of its data set, and
    ``private`` the generators that its data set and samplers keep.
    """

    run: str
    name: str | None
    own_root: str
    iteration: int
    after_everything: bool
    total: int
    epoch_length: int
    samples: int | None
    private: list[str]
    state: Mapping[str, Parts]


@dataclass(frozen=True)
class Used:
    """What ``owner`` (such as "the step") uses and no checkpoint holds.

    ``stateful`` tells whether it has a ``state_dict``, and could be saved.
    """

    owner: str
    name: str
    type: str
    stateful: bool
    parts: Parts


@dataclass(frozen=True)
class Iteration:
    """What an iteration got, gave, and left behind after every handler; ``state`` is by name."""

    run: str
    iteration: int
    batch: Parts
    random: Parts
    output: Parts
    state: Mapping[str, Parts]
    used: list[Used]


@dataclass
class Trace:
    """All that the attempts in one directory wrote down, in order."""

    lines: list[Begin | Iteration | Stop] = field(default_factory=list)

    @property
    def begins(self) -> list[Begin]:
        """Each start of each run."""
        return [line for line in self.lines if isinstance(line, Begin)]

    @property
    def iterations(self) -> list[Iteration]:
        """Every iteration, those that were done again too."""
        return [line for line in self.lines if isinstance(line, Iteration)]

    @property
    def stops(self) -> list[Stop]:
        """The stops that were made."""
        return [line for line in self.lines if isinstance(line, Stop)]

    @property
    def runs(self) -> dict[str, Begin]:
        """The first start of each run, in order."""
        found: dict[str, Begin] = {}
        for begin in self.begins:
            found.setdefault(begin.run, begin)
        return found

    def at(self) -> dict[tuple[str, int], Iteration]:
        """The first record of each iteration by (run, iteration)."""
        found: dict[tuple[str, int], Iteration] = {}
        for line in self.iterations:
            found.setdefault((line.run, line.iteration), line)
        return found


_KINDS: dict[str, Any] = {"begin": Begin, "iteration": Iteration, "stop": Stop}


def line(entry: Begin | Iteration | Stop) -> bytes:
    """An entry as a line of the file."""
    kind = type(entry).__name__.lower()
    return json.dumps({"kind": kind, **asdict(entry)}, separators=(",", ":")).encode() + b"\n"


def read(path: Path) -> Trace:
    """Read a trace; one that is not there is empty, and a last line cut short is left out."""
    trace = Trace()
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return trace
    for row in text.splitlines(keepends=True):
        if not row.endswith(b"\n"):
            break
        values = json.loads(row)
        kind = _KINDS[values.pop("kind")]
        if kind is Iteration:
            values["used"] = [Used(**used) for used in values["used"]]
        assert values.keys() == {entry.name for entry in fields(kind)}
        trace.lines.append(kind(**values))
    return trace
