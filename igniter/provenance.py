"""What a result came from: script, git commit, versions, data, host and command of an attempt."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from igniter._version import __version__
from igniter.inputs import changes, fingerprint
from igniter.secrets import mask_argv

_GIT_TIMEOUT = 5.0
# What --resume may say each time. "never" and a checkpoint's path are meant for one start.
_LASTING = ("auto", "always", "must")
_INSTALLED = {"site-packages", "dist-packages"}
_DISTRIBUTIONS = {"torch": "torch", "numpy": "numpy", "ignite": "pytorch-ignite"}


class Recorded(Protocol):
    """What :func:`drift` compares: a :class:`Provenance`, or an attempt from ``run.yaml``."""

    @property
    def script_sha256(self) -> str | None:
        """The checksum of the script's text."""

    @property
    def sources(self) -> Mapping[str, str]:
        """The checksum of each module from below the script's directory, by its path there."""

    @property
    def inputs(self) -> Mapping[str, Any]:
        """What :func:`igniter.inputs.fingerprint` found of each input, by its name."""

    @property
    def host(self) -> str:
        """The name of the machine."""

    @property
    def git_commit(self) -> str | None:
        """The commit checked out in the script's repository."""

    @property
    def git_dirty(self) -> bool | None:
        """Whether tracked files differ from that commit."""

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of Python and the libraries."""


@dataclass(frozen=True)
class Provenance:
    """Where and from what one attempt runs. What could not be found out is None.

    ``command`` is the command line as it was typed. ``resume_command`` goes on with the run: the
    same as one line for a shell, to be given in the same directory, without what was asked for
    that one start. Secrets are masked in both.
    """

    script: str | None
    script_sha256: str | None
    sources: dict[str, str]
    inputs: dict[str, Any]
    git_commit: str | None
    git_dirty: bool | None
    versions: dict[str, str]
    host: str
    pid: int
    command: list[str]
    resume_command: str

    def attempt_fields(self) -> dict[str, Any]:
        """What of it is recorded with an attempt, by the attempt's field names."""
        return {name: value for name, value in vars(self).items() if name != "script"}


def collect(
    script: str | Path | None,
    argv: Sequence[str] | None = None,
    inputs: Mapping[str, str | Path] | None = None,
) -> Provenance:
    """Find out the provenance of this process; imports none of the libraries it names.

    Args:
        script: the file that trains, if there is one.
        argv: the whole command line, interpreter included; this process's own by default.
        inputs: files and directories that the script reads, by name.
    """
    path = None if script is None else Path(script).absolute()
    command = mask_argv(sys.orig_argv if argv is None else argv)
    commit, dirty = (None, None) if path is None else _git(path.parent)
    return Provenance(
        script=None if path is None else str(path),
        script_sha256=None if path is None else _sha256(path),
        sources={} if path is None else _sources(path),
        inputs={name: fingerprint(Path(where)) for name, where in (inputs or {}).items()},
        git_commit=commit,
        git_dirty=dirty,
        versions=_versions(),
        host=socket.gethostname(),
        pid=os.getpid(),
        command=command,
        resume_command=shlex.join(
            without(
                command,
                valued=("--resume", "--override"),
                lasting=_LASTING,
                switches=("--break-lock",),
            )
        ),
    )


def without(
    argv: Sequence[str],
    *,
    valued: Collection[str],
    lasting: Collection[str] = (),
    switches: Collection[str] = (),
) -> list[str]:
    """``argv`` without the flags ``valued``, each with its value, and without ``switches``.

    A flag whose value is one of ``lasting`` stays, and so does all that follows ``--``.
    """
    kept: list[str] = []
    tokens = iter(argv)
    for token in tokens:
        if token == "--":
            return [*kept, token, *tokens]
        flag, equals, value = token.partition("=")
        words = [token]
        if flag in valued and not equals:
            value = next(tokens, "")
            words.append(value)
        dropped = flag in switches or (flag in valued and value not in lasting)
        if not dropped:
            kept += words
    return kept


def drift(old: Recorded, new: Recorded) -> list[str]:
    """What changed between two attempts, a line each. What one of them lacks is not compared."""
    lines = []
    if old.script_sha256 and new.script_sha256 and old.script_sha256 != new.script_sha256:
        lines.append("script changed")
    changed = [
        name
        for name in sorted(old.sources.keys() & new.sources.keys())
        if old.sources[name] != new.sources[name]
    ]
    if changed:
        lines.append(f"{', '.join(changed)} changed")
    lines += changes(old.inputs, new.inputs, same_host=old.host == new.host)
    for name in sorted(old.versions.keys() & new.versions.keys()):
        if old.versions[name] != new.versions[name]:
            lines.append(f"{name} {old.versions[name]} → {new.versions[name]}")
    if old.git_commit and new.git_commit:
        if old.git_commit != new.git_commit:
            lines.append(f"git commit {old.git_commit[:8]} → {new.git_commit[:8]}")
        if new.git_dirty and not old.git_dirty:
            lines.append("git: files differ from the commit, which they did not before")
    return lines


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _sources(script: Path) -> dict[str, str]:
    """The modules that are loaded from below the script's directory, installed ones left out."""
    roots = {f"{script.parent}{os.sep}", f"{script.resolve().parent}{os.sep}"}
    left_out = (sysconfig.get_path("stdlib"), str(Path(__file__).parent))
    found = {}
    for module in list(sys.modules.values()):
        file = str(getattr(module, "__file__", None) or "")
        root = next((root for root in roots if file.startswith(root)), None)
        if root is None or not file.endswith(".py") or file.startswith(left_out):
            continue
        name = file.removeprefix(root)
        digest = _sha256(Path(file))
        if name != script.name and not _INSTALLED & set(Path(name).parts) and digest is not None:
            found[Path(name).as_posix()] = digest[:16]
    return dict(sorted(found.items()))


def _git(directory: Path) -> tuple[str | None, bool | None]:
    """The commit checked out around ``directory``, and whether tracked files differ from it."""
    command = ["git", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        status = subprocess.run(
            command,
            cwd=directory,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # looking writes nothing
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_GIT_TIMEOUT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None, None
    lines = status.stdout.splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid")), None)
    if commit is None or commit == "(initial)":
        return None, None
    return commit, any(not line.startswith("#") for line in lines)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "igniter": __version__}
    for name, distribution in _DISTRIBUTIONS.items():
        try:
            found[name] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            pass  # a version without metadata cannot be compared
    return found
