"""The surroundings of an attempt as text: the packages installed, and uncommitted changes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from igniter.secrets import MASK, is_secret, mask_uri

_GIT_TIMEOUT = 20.0
_LONGEST = 1 << 24  # bytes of a diff
_SHORTEST_SECRET = 6  # a shorter value would be masked wherever it stands in a word

# name = value, name: value and "name": value, as programs and settings have it.
_SETS = re.compile(
    r"""(?P<name>[A-Za-z_][\w.-]*)["']?\s*(?::[^=,]*=|:=?|=)(?!=)\s*(?P<value>\S.*)"""
)


def installed() -> str:
    """Return the packages that this process finds, as ``name==version`` lines, by name.

    Taken from the names of their directories: reading what is in them takes long.
    """
    found: dict[str, str] = {}
    for name, version in _distributions():
        found.setdefault(name.lower(), f"{name}=={version}")
    return "".join(f"{found[key]}\n" for key in sorted(found))


def _distributions() -> Iterator[tuple[str, str]]:
    for entry in sys.path:
        try:
            there = list(Path(entry).iterdir())
        except OSError:
            continue
        for path in there:
            if path.suffix == ".dist-info":
                package, _, version = path.stem.partition("-")
                yield package, version


def git_diff(directory: Path, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return how tracked files differ from the commit checked out around ``directory``, masked.

    Empty where they do not; None where there is no repository, or where the text is too long.
    Files that git does not track are not in it.
    """
    try:
        done = subprocess.run(
            ["git", "diff", "--no-color", "--no-ext-diff", "HEAD"],
            cwd=directory,
            env={**environ, "GIT_OPTIONAL_LOCKS": "0"},  # looking writes nothing
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_TIMEOUT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    if len(done.stdout) > _LONGEST:
        return None
    return mask_code(done.stdout.decode(errors="replace"), environ)


def mask_code(text: str, environ: Mapping[str, str]) -> str:
    """Return lines of code with what secret names are set to masked, to the end of the line.

    So are the values that secret names have in ``environ``, wherever they stand.
    """
    for name, value in environ.items():
        if is_secret(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, MASK)
    return "".join(_mask_line(line) for line in text.splitlines(keepends=True))


def _mask_line(line: str) -> str:
    for match in _SETS.finditer(line):
        if is_secret(match["name"]):
            return f"{line[: match.start('value')]}{MASK}\n"
    return mask_uri(line)
