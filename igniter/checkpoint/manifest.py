"""What a checkpoint's directory says of itself: its name, ``manifest.json``, and its files' sums.

No torch here, so that ``igniter show`` lists and verifies checkpoints without loading them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from igniter import atomic
from igniter.checkpoint import sums
from igniter.errors import CheckpointDamaged, RunRefused

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
STATE = "state.pt"
RANK_STATE = "rank-00000.pt"

_NAME = re.compile(r"iteration-([0-9]{8,})(-final)?(?:\+(.+))?")
_NOT_IN_LABEL = re.compile(r"[^A-Za-z0-9._=,-]+")
_LONGEST_LABEL = 80
_FILE = re.compile(r"state\.pt|rank-[0-9]{5}\.pt")
_CHUNK = 1 << 20
_LONGEST = 1 << 26  # bytes of a manifest; a longer one is no manifest
# A name that leads to no file at all, to something else, or to a bad sector. What else can go wrong
# with reading may pass: no permission, a server that is away, a stale handle.
_DAMAGE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EIO}


@dataclass(frozen=True, order=True)
class Checkpoint:
    """One checkpoint on disk: the state after ``iteration`` iterations of the whole run.

    ``final`` is the one made when the run completed, after all that follows its last iteration.
    Ordered by position.
    """

    iteration: int
    final: bool
    path: Path

    @property
    def position(self) -> tuple[int, bool]:
        """Where in the run it is; what more there is in its name is for people."""
        return self.iteration, self.final

    @property
    def manifest(self) -> Path:
        """Its manifest's path."""
        return self.path / MANIFEST


def name_of(iteration: int, final: bool, label: str = "") -> str:
    """The name of a checkpoint's directory; what a name cannot hold of ``label`` becomes ``-``."""
    name = f"iteration-{iteration:08d}{'-final' if final else ''}"
    return f"{name}+{_NOT_IN_LABEL.sub('-', label)[:_LONGEST_LABEL]}" if label else name


def scan(directory: Path) -> list[Checkpoint]:
    """Every directory in ``directory`` named as a checkpoint, sound or not, in order of position.

    A directory that does not exist holds none.

    Raises:
        RunRefused: it cannot be listed.
    """
    found = []
    try:
        entries = list(directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunRefused(
            f"{directory} cannot be listed: {error.strerror}.\nMend that and start again."
        ) from error
    for path in entries:
        match = _NAME.fullmatch(path.name)
        if match is None or not _is_directory(path):
            continue
        checkpoint = Checkpoint(int(match[1]), match[2] is not None, path)
        if path.name == name_of(checkpoint.iteration, checkpoint.final, match[3] or ""):
            found.append(checkpoint)
    return sorted(found)


def _is_directory(path: Path) -> bool:
    """Whether it is one itself, not a link to one; by one call, since thousands may be kept."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def serialise(body: Mapping[str, Any]) -> bytes:
    """The bytes of ``manifest.json`` for ``body``: canonical JSON, with its own checksum added."""
    plain = json.loads(json.dumps(body))  # as a reader will see it: keys are strings
    return _canonical({**plain, "checksum": _checksum(plain)})


def read(path: Path) -> dict[str, Any]:
    """The manifest of the checkpoint in the directory ``path``, its own checksum verified.

    Raises:
        CheckpointDamaged: it is missing, or not byte for byte what igniter writes.
        RunRefused: a newer igniter wrote it.
    """
    file = path / MANIFEST
    try:
        with atomic.open_regular(file) as stream:
            data = stream.read(_LONGEST)
    except OSError as error:
        raise unreadable(file, error) from error
    try:
        manifest: dict[str, Any] = json.loads(data)
        checksum = manifest.pop("checksum")
        sound = checksum == _checksum(manifest) and serialise(manifest) == data
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise CheckpointDamaged(f"{file} is damaged: it is not what was written.")
    version = manifest.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise RunRefused(
            f"{file} has format version {version}; this igniter reads up to {FORMAT_VERSION}.\n"
            "A newer igniter wrote this checkpoint: go on with that one."
        )
    _check_form(file, manifest)
    return manifest


def open_verified(path: Path, name: str, manifest: Mapping[str, Any]) -> BufferedReader:
    """The file ``name`` of the checkpoint in ``path``, open at its start, its content verified.

    What is read from the returned file is what was verified, whatever happens to the name.

    Raises:
        CheckpointDamaged: it is missing, or its size or checksum is not the manifest's.
    """
    file, expected = path / name, manifest["files"][name]
    try:
        stream = atomic.open_regular(file)
        try:
            _compare(file, stream, expected)
            stream.seek(0)
        except BaseException:
            stream.close()
            raise
    except OSError as error:
        raise unreadable(file, error) from error
    return stream


def verify(checkpoint: Checkpoint) -> dict[str, Any]:
    """Read every byte of ``checkpoint`` and return its manifest.

    Raises:
        CheckpointDamaged: a file is not what the manifest says, or the manifest not that of this
            position; names the file and what differs.
        RunRefused: a newer igniter wrote it.
    """
    manifest = read(checkpoint.path)
    check_position(checkpoint, manifest)
    for name in manifest["files"]:
        open_verified(checkpoint.path, name, manifest).close()
    return manifest


def check_position(checkpoint: Checkpoint, manifest: Mapping[str, Any]) -> None:
    """See that the manifest is of the position that the directory's name says.

    Raises:
        CheckpointDamaged: it is of another one.
    """
    name = name_of(manifest["iteration"], manifest["final"], manifest.get("label", ""))
    if name != checkpoint.path.name:
        raise CheckpointDamaged(f"{checkpoint.manifest} is that of {name}: the directory is not.")


def _check_form(file: Path, manifest: dict[str, Any]) -> None:
    """Refuse a manifest with the right checksum that igniter would not have written."""
    files = manifest.get("files")
    sound = (
        type(manifest.get("iteration")) is int
        and manifest["iteration"] >= 0
        and type(manifest.get("epoch")) is int
        and type(manifest.get("final")) is bool
        and type(manifest.get("journal_offset", 0)) is int
        and isinstance(manifest.get("arguments", {}), dict)
        and isinstance(manifest.get("label", ""), str)
        and isinstance(files, dict)
        and {STATE, RANK_STATE} <= set(files)
        and all(
            _FILE.fullmatch(name)
            and isinstance(entry, dict)
            and type(entry.get("size")) is int
            and sums.algorithm_of(entry) is not None
            for name, entry in files.items()
        )
    )
    if not sound:
        raise CheckpointDamaged(f"{file} is damaged: igniter writes no manifest like it.")


def _canonical(body: Mapping[str, Any]) -> bytes:
    return (json.dumps(body, sort_keys=True, indent=1) + "\n").encode("ascii")


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(body)).hexdigest()


def _compare(file: Path, stream: BufferedReader, expected: Mapping[str, Any]) -> None:
    """See that the open ``file`` has the size and the checksum of its manifest entry."""
    size, algorithm = os.fstat(stream.fileno()).st_size, sums.algorithm_of(expected)
    if size != expected["size"]:  # known without reading what may be endless
        raise CheckpointDamaged(
            f"{file} is damaged: it has {size} bytes, its manifest says {expected['size']}."
        )
    assert algorithm is not None  # a manifest was read only if each of its files has one
    digest, chunk = sums.new(algorithm), memoryview(bytearray(_CHUNK))
    while length := stream.readinto(chunk):
        digest.update(chunk[:length])
    found, said = digest.hexdigest(), expected[algorithm]
    if found != said:
        raise CheckpointDamaged(
            f"{file} is damaged: its {algorithm} is {found[:12]}…, its manifest says {said[:12]}…."
        )


def unreadable(file: Path, error: OSError) -> RunRefused:
    """The error for a file that cannot be read: damage, or what may pass and is not."""
    if error.errno in _DAMAGE:
        return CheckpointDamaged(f"{file} is damaged: {error.strerror}.")
    return RunRefused(f"{file} cannot be read: {error.strerror}.\nMend that and start again.")
