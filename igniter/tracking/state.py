"""``tracking.json``: the MLflow run of each tracking URI, and how much of the journal it has."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from igniter import atomic
from igniter.tracking.records import count_values, is_boundary


@dataclass(frozen=True)
class Destination:
    """One tracking URI: the run there, and what it holds already.

    ``offset`` is the byte of the journal up to which it was sent, ``attempt`` the last attempt
    whose parameters and tags were, ``artifacts`` the mark of each file that was, by its path in
    MLflow, ``problem`` why something could not be sent lately.
    """

    run_id: str | None = None
    offset: int = 0
    attempt: int = 0
    artifacts: dict[str, str] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class State:
    """All the destinations, by tracking URI with credentials masked; ``current`` names the last."""

    current: str | None = None
    destinations: dict[str, Destination] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> State:
        """Read the file. A missing or damaged one is empty: what it held can be found again."""
        try:
            with atomic.open_regular(path) as file:
                data = json.load(file)
            destinations = {str(uri): _destination(d) for uri, d in data["destinations"].items()}
            current = data["current"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return cls()
        return cls(current if current in destinations else None, destinations)

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            OSError: it did not reach the disk.
        """
        atomic.write_text(path, json.dumps(asdict(self), indent=1) + "\n")

    @property
    def destination(self) -> Destination:
        """The current one; an empty one before the first."""
        return self.destinations.get(self.current or "", Destination())

    def at(self, uri: str) -> State:
        """Return the state with ``uri`` the current destination."""
        return State(uri, {uri: Destination(), **self.destinations})

    def with_changes(self, **changes: Any) -> State:
        """Return the state with the current destination's fields set to ``changes``."""
        if self.current is None:
            raise ValueError("no current destination")
        changed = replace(self.destination, **changes)
        return State(self.current, {**self.destinations, self.current: changed})


@dataclass(frozen=True)
class Outcome:
    """How sending a run ended: values sent now, values the journal holds beyond what was sent.

    ``by_another`` says that the process which trains the run is sending it.
    """

    run_id: str | None
    sent: int
    left: int
    problem: str | None
    by_another: bool = False


def start_of_unsent(journal: Path, offset: int) -> int:
    """Return ``offset``, or 0 where the journal is not the one it was counted in.

    Sending from 0 again is safe: MLflow keeps an exact repeat once.
    """
    return offset if is_boundary(journal, offset) else 0


def count_unsent(journal: Path, offset: int) -> int:
    """Return how many metric values of the journal lie beyond ``offset`` and are for MLflow."""
    if not journal.is_file():
        return 0
    return count_values(journal, start_of_unsent(journal, offset))


def _destination(fields: dict[str, Any]) -> Destination:
    destination = Destination(**fields)
    kinds = tuple(type(fields.get(name)) for name in ("offset", "attempt", "artifacts"))
    if kinds != (int, int, dict) or not isinstance(destination.run_id, str | None):
        raise ValueError("not a destination")
    return destination
