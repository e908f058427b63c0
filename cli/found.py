"""The runs and checkpoints on disk, found without loading torch or mlflow."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igniter.checkpoint import manifest
from igniter.errors import RunRefused, UsageError
from igniter.lock import holder
from igniter.rundir import Paths, RunRecord

DEFAULT_DIRECTORY = Path("output")
_DEPTH = 5


@dataclass(frozen=True)
class FoundRun:
    """A run directory with its record; ``live`` while a process is at work in it."""

    paths: Paths
    record: RunRecord
    live: bool

    @property
    def status(self) -> str:
        """What became of the run. One recorded as running with no process in it was killed."""
        if self.record.status == "running" and not self.live:
            return "killed"
        return self.record.status

    @property
    def last_activity(self) -> float:
        """When the run last wrote something, in seconds since 1970."""
        files = (self.paths.run_yaml, self.paths.journal)
        return max(file.stat().st_mtime for file in files if file.exists())


@dataclass(frozen=True)
class FoundCheckpoint:
    """A checkpoint and what its manifest says; ``size`` is in bytes.

    ``damage`` says what is wrong with it. ``verified`` means that every byte was read and is right.
    """

    name: str
    iteration: int
    epoch: int | None
    reason: str | None
    size: int
    verified: bool
    damage: str | None


def directories(given: Sequence[Path]) -> Sequence[Path]:
    """Return where to look for runs: what was given, or else ``output``, or else here.

    Raises:
        UsageError: a directory given does not exist.
    """
    for directory in given:
        if not directory.is_dir():
            raise UsageError(f"there is no directory {directory}")
    if given:
        return given
    return [DEFAULT_DIRECTORY if DEFAULT_DIRECTORY.is_dir() else Path()]


def run_directories(directory: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Yield the run directories at or under ``directory``, in order of name.

    Hidden directories, links and what cannot be read are passed over.
    """
    try:
        with os.scandir(directory) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError:
        return
    if any(entry.name == "run.yaml" and entry.is_file() for entry in entries):
        yield directory
    elif depth > 0:
        for entry in entries:
            if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                yield from run_directories(directory / entry.name, depth - 1)


def open_run(directory: Path) -> FoundRun:
    """Read the run in ``directory``.

    Raises:
        RunRefused: its ``run.yaml`` cannot be read.
    """
    record = RunRecord.load(directory / "run.yaml")
    paths = Paths.of(directory, record)
    return FoundRun(paths, record, holder(paths.lock) is not None)


def find_runs(given: Sequence[Path]) -> tuple[list[FoundRun], list[str]]:
    """Return the runs under the directories ``given``, and what is wrong with those unreadable.

    The run that wrote something last comes first.
    """
    runs: list[FoundRun] = []
    problems: list[str] = []
    for directory in directories(given):
        for path in run_directories(directory):
            try:
                runs.append(open_run(path))
            except RunRefused as error:
                problems.append(str(error))
    return sorted(runs, key=lambda run: run.last_activity, reverse=True), problems


def named_run(name: str) -> FoundRun:
    """Return the run whose directory is ``name``, here or in ``output``.

    ``name`` may also be the end or a part of the directory's name that only one run has.

    Raises:
        UsageError: there is none, or there are several; the nearest names are given.
        RunRefused: its ``run.yaml`` cannot be read.
    """
    for directory in (Path(name), DEFAULT_DIRECTORY / name):
        if (directory / "run.yaml").is_file():
            return open_run(directory)
    (top,) = directories([])
    known = {str(path.relative_to(top)): path for path in run_directories(top)}
    ending = [path for each, path in known.items() if each.endswith(name)]
    matching = ending or [path for each, path in known.items() if name in each]
    if len(matching) == 1:
        return open_run(matching[0])
    if matching:
        names = ", ".join(map(str, matching))
        raise UsageError(f"{name} is in the names of several runs: {names}")
    near = [str(known[each]) for each in difflib.get_close_matches(name, known, cutoff=0.4)]
    advice = f"did you mean {' or '.join(near)}?" if near else "`igniter runs DIR` lists runs"
    raise UsageError(f"no run called {name}; {advice}")


def checkpoints(directory: Path, *, verify: bool = False) -> list[FoundCheckpoint]:
    """Return the checkpoints in ``directory``, the oldest first.

    With ``verify`` every file is read and compared with its checksum.
    """
    return [_describe(checkpoint, verify) for checkpoint in manifest.scan(directory)]


def _describe(checkpoint: manifest.Checkpoint, verify: bool) -> FoundCheckpoint:
    said: dict[str, Any] = {}
    damage = None
    try:
        said = manifest.verify(checkpoint) if verify else manifest.read(checkpoint.path)
    except RunRefused as error:
        damage = str(error)
    return FoundCheckpoint(
        name=checkpoint.path.name,
        iteration=checkpoint.iteration,
        epoch=said.get("epoch"),
        reason=said.get("reason"),
        size=sum(file.lstat().st_size for file in checkpoint.path.iterdir()),
        verified=verify and damage is None,
        damage=damage,
    )
