"""Sending a run to MLflow once, whole: ``igniter sync``, and the lock that keeps senders apart."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from igniter import atomic
from igniter.errors import IgniterError
from igniter.lock import holder
from igniter.rundir import Paths, RunRecord
from igniter.tracking.failures import Unavailable
from igniter.tracking.place import Place, place_of
from igniter.tracking.sender import Listener, Sender
from igniter.tracking.state import Outcome, State, count_unsent

PATIENCE_SECONDS = 60.0

# What a file system without locks answers.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class SendingLock:
    """Held by the one process that may send a run; released by the kernel on any death.

    On a file system without locks everyone holds it: two who send the same send it once, since
    MLflow keeps an exact repeat once.
    """

    def __init__(self, paths: Paths) -> None:
        """Not yet held; see :meth:`acquire`.

        Raises:
            OSError: the run's directory cannot be written to.
        """
        self._path = paths.root / "tracking.lock"
        self._file = self._path.open("a")

    def acquire(
        self,
        patience: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> bool:
        """Take the lock, waiting at most ``patience`` seconds; return whether it is held."""
        deadline = clock() + patience
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for left in self._path.parent.glob(f".tracking.json.*{atomic.PART}"):
                    atomic.remove_quietly(left)  # of a sender that died while writing
                return True
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    return True
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
            if clock() >= deadline:
                return False
            sleep(0.1)

    def in_place(self) -> bool:
        """Whether the run's directory is still where it was when the lock was opened.

        A run set aside is renamed, and another may have taken its path.
        """
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except OSError:
            return False

    def __enter__(self) -> SendingLock:
        """Return the lock, not yet held."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release it."""
        self._file.close()


def sync_run(
    run_dir: Path,
    *,
    tracking_uri: str | None = None,
    patience: float = PATIENCE_SECONDS,
    warn: Callable[[str], None] = lambda text: None,
    progress: Callable[[int], None] = lambda sent: None,
) -> Outcome:
    """Send to MLflow what it lacks of the run in ``run_dir``; safe to call any number of times.

    ``tracking_uri`` sends it elsewhere than the run was told to. While another process sends the
    same run, waits for it at most ``patience`` seconds; not for one that trains it, which may take
    days. ``progress`` is told how many values were sent so far. What goes wrong is in the outcome.

    Raises:
        FileNotFoundError: there is no run in ``run_dir``.
        RunRefused: its ``run.yaml`` cannot be read.
    """
    paths = Paths(run_dir)
    record = RunRecord.load(paths.run_yaml)
    if not record.attempts:
        return _outcome(paths, 0, "no attempt of this run is recorded: there is nothing to send")
    try:
        place = place_of(record, run_dir, tracking_uri)
    except IgniterError as error:
        return _outcome(paths, 0, str(error))
    if place is None:
        return _outcome(paths, 0, "this run was told no place to be sent to; give --tracking-uri")
    live = record.status == "running" and holder(paths.lock) is not None
    try:
        lock = SendingLock(paths)
    except OSError as error:
        return _outcome(
            paths,
            0,
            f"cannot write to {run_dir}: {error.strerror}. What was sent is noted there; copy the "
            "directory to where you may write and sync the copy: MLflow keeps each value once",
        )
    with lock:
        if lock.acquire(0.0 if live else patience):
            return _send(paths, record, place, live, Listener(warn, progress))
    if live and tracking_uri is None:
        problem = State.load(paths.tracking).destination.problem
        return _outcome(paths, 0, problem, by_another=True)
    return _outcome(paths, 0, "another process is sending this run; try again later")


def _send(paths: Paths, record: RunRecord, place: Place, live: bool, listener: Listener) -> Outcome:
    sender = Sender(paths, place, listener)
    try:
        sender.send(record, live=live)
        if not live:
            sender.end(record)
    except (Unavailable, OSError) as error:
        sender.note_problem(str(error))
    return _outcome(paths, sender.sent, State.load(paths.tracking).destination.problem)


def _outcome(paths: Paths, sent: int, problem: str | None, *, by_another: bool = False) -> Outcome:
    destination = State.load(paths.tracking).destination
    left = count_unsent(paths.journal, destination.offset)
    return Outcome(destination.run_id, sent, left, problem, by_another)
