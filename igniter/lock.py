"""One process a run directory: an advisory lock that the kernel frees on any death.

The lock file also says who holds it, for the message, and counts a beat, for file systems whose
locks do not reach other hosts.
"""

from __future__ import annotations

import datetime
import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from igniter.errors import RunLocked

PATIENCE = 60.0
_BEAT_EVERY = 15.0
_POLL = 1.0

# `igniter runs` holds the lock for an instant when it looks whether it is free.
_LOOKS = 5
_LOOK = 0.02

# What a file system without locks answers.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}

_Inode = tuple[int, int]

# The locks of this process, by inode. Closing any descriptor of a file drops the locks that the
# process has on it, so none of these may be opened a second time.
_held: dict[_Inode, RunLock] = {}


@dataclass(frozen=True)
class Holder:
    """Who is at work in a run directory; ``start`` is ISO-8601 in UTC."""

    host: str
    pid: int
    start: str
    beat: int


class RunLock:
    """The lock of a run directory, held from :meth:`acquire` to :meth:`release` or death."""

    def __init__(
        self, path: Path, descriptor: int, holder: Holder, clock: Callable[[], float]
    ) -> None:
        """For :meth:`acquire`."""
        self.path = path
        self._descriptor = descriptor
        self._holder = holder
        self._clock = clock
        self._last_beat = clock()
        self._inode = _inode(os.fstat(descriptor))
        _held[self._inode] = self

    @classmethod
    def acquire(
        cls,
        path: Path,
        *,
        break_lock: bool = False,
        host: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        patience: float = PATIENCE,
        notify: Callable[[str], object] = lambda text: print(text, file=sys.stderr),
    ) -> RunLock:
        """Take the lock of the directory that ``path`` lies in.

        Where the file names another host, whose locks the file system may not show here, its beat
        is watched for ``patience`` seconds first, unless ``break_lock``.

        Raises:
            RunLocked: another process is at work there. ``break_lock`` does not change that for
                one that the kernel knows to hold the lock.
            OSError: the lock file cannot be made or read.
        """
        host = host or socket.gethostname()
        descriptor, kernel_locks = _open_locked(path, sleep)
        try:
            before = _read(descriptor)
            probed = kernel_locks and before is not None and before.host == host
            if before is not None and not probed and not break_lock:
                _watch(descriptor, before, path, clock, sleep, patience, notify)
            start = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
            holder = Holder(host, os.getpid(), start, beat=0)
            _write(descriptor, holder)
            return cls(path, descriptor, holder, clock)
        except BaseException:
            os.close(descriptor)
            raise

    def beat(self) -> None:
        """Show other hosts that this process lives. Writes at most every 15 seconds."""
        now = self._clock()
        if now - self._last_beat < _BEAT_EVERY:
            return
        self._last_beat = now
        self._holder = replace(self._holder, beat=self._holder.beat + 1)
        try:
            _write(self._descriptor, self._holder)
        except OSError:  # a sick file system stops the run when it saves, not here
            pass

    def release(self) -> None:
        """Let the directory go. Does nothing the second time, or in a forked child."""
        if self._holder.pid != os.getpid() or _held.pop(self._inode, None) is None:
            return
        try:
            os.ftruncate(self._descriptor, 0)
        except OSError:  # whoever comes next finds that the kernel holds no lock of ours
            pass
        os.close(self._descriptor)

    def __enter__(self) -> RunLock:
        """The lock itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release."""
        self.release()


def holder(path: Path) -> Holder | None:
    """Who holds the lock file ``path``, or None; changes nothing.

    A process on a host that cannot be probed is believed while its last beat is younger than
    ``PATIENCE``.
    """
    held = _held_here(path)
    if held is not None:
        return held
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # it may be a pipe
    except OSError:
        return None
    try:
        locked = _try_lock(descriptor, fcntl.LOCK_SH)
        named = _read(descriptor)
        age = time.time() - os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
    if locked is False:
        return named
    if locked and named is not None and named.host == socket.gethostname():
        return None
    return named if age < PATIENCE else None


def _open_locked(path: Path, sleep: Callable[[float], None]) -> tuple[int, bool]:
    """A descriptor of ``path`` that holds its lock; False where its file system has no locks."""
    named = None
    for _ in range(_LOOKS):
        held = _held_here(path)
        if held is not None:
            raise _locked(path, held)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        locked, inode = _try_lock(descriptor, fcntl.LOCK_EX), _inode(os.fstat(descriptor))
        # the directory may have been renamed, and made anew, since the file was opened
        if locked is not False and path.exists() and _inode(path.stat()) == inode:
            return descriptor, locked is True
        named = _read(descriptor)
        os.close(descriptor)
        sleep(_LOOK)
    raise _locked(path, named)


def _try_lock(descriptor: int, kind: int) -> bool | None:
    """Whether the lock was taken; None where the file system has no locks."""
    try:
        fcntl.lockf(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def _watch(
    descriptor: int,
    before: Holder,
    path: Path,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    patience: float,
    notify: Callable[[str], object],
) -> None:
    """Return when the holder that the file names lets go or shows no life; else raise RunLocked."""
    notify(
        f"{path.parent} was last held by pid {before.pid} on host {before.host}, since "
        f"{before.start}. Whether that process lives cannot be asked from here: watching its "
        f"heartbeat for {patience:.0f} s. If you know that it is gone, use --break-lock."
    )
    end = clock() + patience
    while clock() < end:
        sleep(_POLL)
        now = _read(descriptor)
        if now is None:
            return
        if now != before:
            raise _locked(path, now)


def _held_here(path: Path) -> Holder | None:
    """This process, if it holds ``path``, found without opening the file."""
    lock = _held.get(_inode(path.stat())) if path.exists() else None
    return None if lock is None else lock._holder


def _inode(status: os.stat_result) -> _Inode:
    return status.st_dev, status.st_ino


def _read(descriptor: int) -> Holder | None:
    """Whom the file names; None when it is empty or not a holder's."""
    try:
        return Holder(**json.loads(os.pread(descriptor, 4096, 0)))
    except (ValueError, TypeError):
        return None


def _write(descriptor: int, holder: Holder) -> None:
    # in place: the lock is on the inode, which a rename would replace
    data = json.dumps(asdict(holder)).encode("ascii")
    os.pwrite(descriptor, data, 0)
    os.ftruncate(descriptor, len(data))


def _locked(path: Path, held: Holder | None) -> RunLocked:
    by = "another process"
    if held is not None:
        by = f"pid {held.pid} on host {held.host}, since {held.start}"
    return RunLocked(
        f"{path.parent} is in use by {by}.\n"
        "Wait for it to end, stop it, or give this run another --output-dir."
    )
