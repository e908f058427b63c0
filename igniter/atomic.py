"""Files and directories that are whole or absent: write, fsync, rename, fsync the parent.

What is being made or removed carries a name that no reader takes for the thing itself: it begins
with a dot and ends in ``.part``, ``.removed`` or ``.replaced``. A process that dies in between
leaves only such names behind, and :func:`sweep` puts that right.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterable
from io import BufferedReader
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


def begin_flushing(descriptor: int, start: int, length: int) -> None:
    """Let the system begin to bring what was written to the disk, before fsync waits for it.

    A hint where there is one: of Linux it is known (mm/fadvise.c) that pages which are not on the
    disk yet are sent there, and stay in memory.
    """
    if hasattr(os, "posix_fadvise"):
        try:
            os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_DONTNEED)
        except OSError:
            pass  # what cannot take the hint is flushed by fsync


def open_regular(path: Path) -> BufferedReader:
    """The file ``path`` open for reading; anything else, a link too, is refused without waiting.

    A pipe put in the place of a file would keep its reader waiting for ever.

    Raises:
        OSError: it cannot be opened; EINVAL where it is no regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a socket
            raise OSError(errno.EINVAL, "it is not a regular file", str(path)) from None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def make_directory(path: Path) -> None:
    """Make the directory ``path`` and those above it, each durably, where they are missing.

    Raises:
        OSError: one cannot be made, or a file has its name.
    """
    if path.is_dir():
        return
    if not path.parent.exists():
        make_directory(path.parent)
    path.mkdir(exist_ok=True)
    fsync_directory(path.parent)


def put_directory(part: Path, path: Path) -> None:
    """Give the directory ``part`` the name ``path``, durably, in the place of what has that name.

    No system call exchanges two directories everywhere; a death between the two renames is what
    :func:`sweep` puts right.

    Raises:
        OSError: ``path`` is as before, or it is ``part`` and perhaps not yet durable.
    """
    replaced = path.with_name(f".{path.name}{REPLACED}")
    if os.path.lexists(path):
        if os.path.lexists(replaced):  # an earlier replacement could not remove it
            _delete(replaced)
        path.rename(replaced)
    try:
        part.rename(path)
    except OSError:
        if os.path.lexists(replaced):
            replaced.rename(path)
        raise
    fsync_directory(path.parent)
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


def hide(path: Path) -> None:
    """Take a file or a tree from its name, so that only :func:`empty` is left to do.

    Raises:
        OSError: it is as before.
    """
    hidden = path.with_name(f".{path.name}.{os.getpid()}{REMOVED}")
    if os.path.lexists(hidden):
        _delete(hidden)
    path.rename(hidden)


def empty(directory: Path) -> None:
    """Delete what was hidden in ``directory``, by this process or an earlier one.

    First it is made durable that it has no name any more: a power cut must not bring the name back
    and its files not.

    Raises:
        OSError: some of it cannot be deleted, and is for the next call; the rest is gone.
    """
    hidden = [path for path in directory.iterdir() if path.match(f".*{REMOVED}")]
    if hidden:
        fsync_directory(directory)
    _each(hidden, _delete)


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

    Raises:
        OSError: something cannot be put right; the rest is.
    """
    _each((path for path in directory.iterdir() if path.name.startswith(".")), _put_right)


def _put_right(path: Path) -> None:
    original = path.with_name(path.name[1:].removesuffix(REPLACED))
    if path.name.endswith(REPLACED) and not os.path.lexists(original):
        path.rename(original)
    elif path.name.endswith((PART, REMOVED, REPLACED)):
        _delete(path)


def _each(paths: Iterable[Path], act: Callable[[Path], None]) -> None:
    """Let ``act`` have every path; the first failure is raised when all have been tried."""
    failure = None
    for path in sorted(paths):
        try:
            act(path)
        except OSError as error:
            failure = failure or error
    if failure is not None:
        raise failure


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
