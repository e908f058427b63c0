"""Sending a run to MLflow once, whole: ``igniter sync``, and the lock that keeps senders apart."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from igniter.errors import IgniterError
from igniter.lock import holder
from igniter.rundir import Paths, RunRecord
from igniter.tracking.failures import Unavailable
from igniter.tracking.sender import Sender
from igniter.tracking.state import Outcome, State, count_unsent
from igniter.tracking.uri import resolve, with_credentials


class SendingLock:
    """Held by the one process that may send a run; released by the kernel on any death."""

    def __init__(self, paths: Paths) -> None:
        """Not yet held; see :meth:`acquire`."""
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
                return True
            except BlockingIOError:
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


def destination_uri(record: RunRecord, tracking_uri: str | None = None) -> str | None:
    """Return what to connect to for a run, None where its tracking is off.

    Raises:
        UsageError: MLflow cannot keep a run there.
    """
    if tracking_uri is None and record.tracking is None:
        return None
    uri = tracking_uri or str((record.tracking or {})["uri"])
    directory = Path.cwd()
    return with_credentials(resolve(uri, directory), os.environ, directory)


def sync_run(
    run_dir: Path,
    *,
    tracking_uri: str | None = None,
    patience: float = 60.0,
    warn: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Send to MLflow what it lacks of the run in ``run_dir``; safe to call any number of times.

    ``tracking_uri`` sends it elsewhere than the run was told to. While another process sends the
    same run, waits for it at most ``patience`` seconds. What goes wrong is in the outcome.

    Raises:
        FileNotFoundError: there is no run in ``run_dir``.
        RunRefused: its ``run.yaml`` cannot be read.
    """
    paths = Paths(run_dir)
    record = RunRecord.load(paths.run_yaml)
    try:
        uri = destination_uri(record, tracking_uri)
    except IgniterError as error:
        return _outcome(paths, 0, str(error))
    if uri is None:
        return _outcome(paths, 0, "tracking is off for this run; give --tracking-uri to send it")
    with SendingLock(paths) as lock:
        if not lock.acquire(patience):
            return _outcome(paths, 0, "another process is sending this run")
        sender = Sender(paths, uri, warn)
        sent = 0
        try:
            live = record.status == "running" and holder(paths.lock) is not None
            sent = sender.send(record, live=live)
            if not live:
                sender.end(record)
        except Unavailable as error:
            sender.note_problem(str(error))
        return _outcome(paths, sent, State.load(paths.tracking).destination.problem)


def _outcome(paths: Paths, sent: int, problem: str | None) -> Outcome:
    destination = State.load(paths.tracking).destination
    return Outcome(
        destination.run_id, sent, count_unsent(paths.journal, destination.offset), problem
    )
