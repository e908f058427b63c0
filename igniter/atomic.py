"""Files and directories that are whole or absent: write, fsync, rename, fsync the parent.

What is being made or removed carries a name that no reader takes for the thing itself: it begins
with a dot and ends in ``.part``, ``.removed`` or ``.replaced``. A process that dies in between
leaves only such names behind, and :func:`sweep` puts that right.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

PART = ".part"
REMOVED = ".removed"
REPLACED = ".replaced"

# What a file system that cannot fsync a directory answers; it has nothing to be made durable.
_NO_DIRECTORY_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}


def part_name(path: Path) -> Path:
    """The temporary sibling under which ``path`` is made by this process."""
    return path.with_name(f".{path.name}.{os.getpid()}{PART}")


def write_bytes(path: Path, data: bytes) -> None:
    """Make ``path`` hold ``data``, durably, or leave it as it was.

    Raises:
        OSError: the data did not reach the disk; ``path`` is as before and nothing is left over.
    """
    part = part_name(path)
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        part.replace(path)
    except BaseException:
        remove_quietly(part)
        raise
    fsync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    """:func:`write_bytes` of ``text`` in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of ``data``; one ``os.write`` may take only a part of it."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def put_directory(part: Path, path: Path) -> None:
    """Give the directory ``part`` the name ``path``, durably, in the place of what has that name.

    No system call exchanges two directories everywhere; a death between the two renames is what
    :func:`sweep` puts right.

    Raises:
        OSError: ``path`` is as before, or it is ``part`` and perhaps not yet durable.
    """
    replaced = path.with_name(f".{path.name}{REPLACED}")
    if path.exists():
        path.rename(replaced)
    try:
        part.rename(path)
    except OSError:
        if replaced.exists():
            replaced.rename(path)
        raise
    fsync_directory(path.parent)
    if replaced.exists():
        remove_quietly(replaced)


def fsync_directory(path: Path) -> None:
    """Make the names in the directory ``path`` durable, where its file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or a tree; it is gone under its name before any part of it goes.

    Raises:
        OSError: it could not be renamed (it is as before), or not be removed wholly (what is left
            is hidden, and for :func:`sweep`).
    """
    hidden = path.with_name(f".{path.name}.{os.getpid()}{REMOVED}")
    if os.path.lexists(hidden):
        _delete(hidden)
    path.rename(hidden)
    _delete(hidden)


def unused(path: Path) -> Path:
    """``path``, or with the first counter after its name that is not taken: ``path-2``, …"""
    name, count = path, 1
    while os.path.lexists(name):
        count += 1
        name = path.with_name(f"{path.name}-{count}")
    return name


def remove_quietly(path: Path) -> None:
    """Remove what a failed write left; its own failure must not hide the first one's."""
    try:
        _delete(path)
    except OSError:
        pass


def sweep(directory: Path) -> None:
    """Put right what writes, removals and replacements cut short left in ``directory``.

    Only for a directory in which no other process is writing: their temporaries look the same.
    """
    for path in list(directory.iterdir()):
        if not path.name.startswith("."):
            continue
        original = directory / path.name[1:].removesuffix(REPLACED)
        if path.name.endswith(REPLACED) and not original.exists():
            path.rename(original)
        elif path.name.endswith((PART, REMOVED, REPLACED)):
            _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
