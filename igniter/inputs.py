"""A fingerprint of the data that a run reads, cheap enough to be taken at every start.

Names, sizes and times of files are looked at, never what is in them.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

_MOST_ENTRIES = 100_000
_SECONDS = 2.0
# A directory of a run: what training writes is none of its inputs.
_RUN_LOCK = "run.lock"


def fingerprint(
    path: Path,
    *,
    entries: int = _MOST_ENTRIES,
    seconds: float = _SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any] | None:
    """What is at ``path``: ``files``, ``bytes``, a ``digest`` of names and sizes, the ``newest``.

    The newest change is ISO-8601 in UTC. Left out are hidden files, Python's caches, directories
    of runs, and links to directories. None where there is nothing, where it cannot be read, or
    where it is more than ``entries`` or takes longer than ``seconds``: half of it would compare
    with nothing.
    """
    deadline = clock() + seconds
    found: list[tuple[str, int, int]] = []
    try:
        for name, status in _files(path):
            found.append((name, status.st_size, status.st_mtime_ns))
            if len(found) > entries or clock() > deadline:
                return None
    except OSError:
        return None
    if not found:
        return None
    listed = sorted((name, size) for name, size, _ in found)
    newest = max(changed for *_, changed in found) / 1e9
    return {
        "files": len(found),
        "bytes": sum(size for _, size in listed),
        "digest": hashlib.sha256(repr(listed).encode()).hexdigest()[:16],
        "newest": datetime.datetime.fromtimestamp(newest, datetime.timezone.utc).isoformat(),
    }


def changes(old: Mapping[str, Any], new: Mapping[str, Any], *, same_host: bool) -> list[str]:
    """How inputs differ from what they were, a line each, by name; unknown ones are left out.

    A time of change means something on the ``same_host`` alone: a copy has times of its own.
    """
    lines = []
    for name in sorted(old.keys() & new.keys()):
        before, now = old[name], new[name]
        if not (before and now):
            continue
        if before["digest"] != now["digest"]:
            lines.append(
                f"input {name} changed: {before['files']} files of {before['bytes']:,} bytes → "
                f"{now['files']} of {now['bytes']:,}"
            )
        elif same_host and before["newest"] < now["newest"]:
            lines.append(f"input {name} was written to at {now['newest'][:19]} UTC")
    return lines


def _files(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Each file at or below ``path``, by its name below it."""
    if not path.is_dir():
        yield path.name, path.stat()
        return
    waiting = [path]
    while waiting:
        directory = waiting.pop()
        if (directory / _RUN_LOCK).exists():
            continue
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "__pycache__":
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif entry.is_file():
                    yield os.path.relpath(entry.path, path), entry.stat()
