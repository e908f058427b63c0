"""What is in a run's directory: every path, and ``run.yaml``, the record of the run."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from igniter import atomic, yamlfile
from igniter.errors import IgniterError, RunRefused

FORMAT_VERSION = 1

Status = Literal["running", "completed", "interrupted", "failed"]
Outcome = Literal["running", "completed", "interrupted", "failed", "killed"]


_Entry = TypeVar("_Entry")


@dataclass(frozen=True)
class Paths:
    """Where everything of one run is. ``checkpoints`` and ``model`` may lie outside ``root``."""

    root: Path
    checkpoints: Path
    model: Path

    def __init__(
        self, root: Path, checkpoints: Path | None = None, model: Path | None = None
    ) -> None:
        """What is not given lies in ``root`` under its usual name."""
        object.__setattr__(self, "root", root)
        object.__setattr__(self, "checkpoints", checkpoints or root / "checkpoints")
        object.__setattr__(self, "model", model or root / "model")

    @classmethod
    def of(cls, root: Path, record: RunRecord) -> Paths:
        """Where everything of the run is whose ``record`` was found in ``root``."""
        parts = {name: root / where for name, where in record.elsewhere.items()}
        return cls(root, parts.get("checkpoints"), parts.get("model"))

    @property
    def elsewhere(self) -> dict[str, str]:
        """What lies outside of ``root``, seen from there."""
        parts = (("checkpoints", self.checkpoints), ("model", self.model))
        return {
            name: os.path.relpath(path, self.root)
            for name, path in parts
            if path != self.root / name
        }

    @property
    def run_yaml(self) -> Path:
        """The record of the run, a :class:`RunRecord`."""
        return self.root / "run.yaml"

    @property
    def journal(self) -> Path:
        """Every logged metric, once, in order."""
        return self.root / "journal.jsonl"

    @property
    def tracking(self) -> Path:
        """How far the journal has been sent to MLflow."""
        return self.root / "tracking.json"

    @property
    def pictures(self) -> tuple[Path, Path]:
        """The metrics over iterations, as PNG and SVG; drawn whenever an attempt ends."""
        return self.root / "metrics.png", self.root / "metrics.svg"

    @property
    def figures(self) -> Path:
        """What the steps and handlers drew: ``<name>/iteration-<8 digits>.png`` below it."""
        return self.root / "figures"

    @property
    def environment(self) -> Path:
        """The packages that were installed when the last attempt began."""
        return self.root / "environment.txt"

    @property
    def git_diff(self) -> Path:
        """The uncommitted changes when the last attempt began, where they were asked for."""
        return self.root / "git.diff"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files, where they were asked for."""
        return self.root / "tensorboard"

    @property
    def lock(self) -> Path:
        """Held by the process at work in the directory."""
        return self.root / "run.lock"


@dataclass(frozen=True)
class Attempt:
    """One process start of a run. Times are ISO-8601 in UTC; ``command`` is masked."""

    number: int
    start: str
    host: str
    pid: int
    from_iteration: int
    command: list[str]
    resume_command: str
    end: str | None = None
    outcome: Outcome = "running"
    reason: str | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None
    versions: dict[str, str] = field(default_factory=dict)
    script_sha256: str | None = None
    sources: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)


@dataclass
class RunRecord:
    """What is known of a run over all its attempts, kept in ``run.yaml``.

    ``arguments`` are those that shape the result, ``parameters`` all of them, both as plain values
    with secrets masked. ``iteration`` and ``epoch`` are those of the last checkpoint or end.
    ``kept`` are iterations whose checkpoints are kept for ever. ``elsewhere`` is
    :attr:`Paths.elsewhere`, ``datasets`` what the loaders load, by name.
    """

    format_version: int = field(default=FORMAT_VERSION, kw_only=True)
    name: str
    script: str
    identity: str
    arguments: dict[str, Any]
    parameters: dict[str, Any]
    status: Status = "running"
    iteration: int = 0
    epoch: int = 0
    total_iterations: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    best: dict[str, Any] | None = None
    kept: list[int] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    tracking: dict[str, Any] | None = None
    mlflow_run_id: str | None = None
    origin: str | None = None
    elsewhere: dict[str, str] = field(default_factory=dict)
    datasets: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> RunRecord:
        """Read ``run.yaml``.

        Raises:
            FileNotFoundError: there is none.
            RunRefused: it cannot be read, or was written by a newer igniter.
        """
        try:
            data = yamlfile.load(path)
        except FileNotFoundError:
            raise
        except (OSError, IgniterError, UnicodeDecodeError) as error:
            raise _damaged(path, str(error)) from error
        version = data.get("format_version") if isinstance(data, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise RunRefused(
                f"{path} has format version {version}; this igniter reads up to {FORMAT_VERSION}.\n"
                "A newer igniter wrote it: use that one, or another --output-dir."
            )
        record = _build(path, cls, data)
        record.attempts = [_build(path, Attempt, attempt) for attempt in record.attempts]
        return record

    def save(self, path: Path) -> None:
        """Write ``run.yaml``, whole or not at all.

        Raises:
            OSError: it did not reach the disk; the earlier file stands.
        """
        self.metrics = {name: float(value) for name, value in self.metrics.items()}
        atomic.write_text(path, yamlfile.dump(dataclasses.asdict(self)))

    def begin_attempt(self, **fields: Any) -> Attempt:
        """Append an attempt, of which ``fields`` tells all but the number, and return it.

        An earlier attempt that never ended is closed as killed, its end unknown: whoever begins
        one holds the run's lock, so no other process can still be at work.
        """
        for index, earlier in enumerate(self.attempts):
            if earlier.outcome == "running":
                self.attempts[index] = dataclasses.replace(earlier, outcome="killed")
        attempt = Attempt(number=len(self.attempts) + 1, **fields)
        self.attempts.append(attempt)
        self.status = "running"
        return attempt

    def end_attempt(self, status: Status, *, end: str, reason: str | None = None) -> None:
        """Close the last attempt, and the run with it, as ``status``."""
        last = self.attempts[-1]
        self.attempts[-1] = dataclasses.replace(last, outcome=status, end=end, reason=reason)
        self.status = status


# The types of the fields that are never null, of the run and of its attempts.
_TYPES: dict[type, tuple[str, ...]] = {
    str: ("name", "script", "identity", "status", "start", "host", "outcome", "resume_command"),
    int: ("format_version", "iteration", "epoch", "number", "pid", "from_iteration"),
    dict: (
        *("arguments", "parameters", "metrics", "versions", "sources", "inputs"),
        *("elsewhere", "datasets"),
    ),
    list: ("attempts", "command", "kept"),
}


def _build(path: Path, cls: type[_Entry], data: object) -> _Entry:
    """An entry of ``run.yaml`` as its class, or RunRefused saying what is wrong with it."""
    if not isinstance(data, dict):
        raise _damaged(path, f"{_kind(data)} stands where a mapping is expected")
    for kind, names in _TYPES.items():
        for name in names:
            if name in data and not isinstance(data[name], kind):
                raise _damaged(path, f"{name} is {_kind(data[name])}")
    try:
        return cls(**data)
    except TypeError as error:  # a field that is missing, or that no version had
        raise _damaged(path, str(error)) from error


def _kind(value: object) -> str:
    return "empty" if value is None else f"{type(value).__name__} {value!r:.40}"


def _damaged(path: Path, what: str) -> RunRefused:
    return RunRefused(
        f"{path} cannot be used: {what}.\n"
        "The checkpoints beside it are untouched. Mend the file or put a copy of it back; or start "
        "afresh with --resume never, which renames this run and deletes nothing."
    )
