"""The child process that sends a run to MLflow while another process trains it.

It follows the journal until the training process ends, however rudely, then sends what is left and
sets the run's final status. The end is known by the closing of the standard input, which the
training process holds open. Its forked loader workers hold it open too and may outlive it by
seconds, so a change of the parent's id counts as well.
"""

from __future__ import annotations

import os
import random
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

from igniter.errors import IgniterError
from igniter.rundir import Paths, RunRecord
from igniter.secrets import mask_uri
from igniter.signals import ignore_stop_signals
from igniter.tracking.failures import Unavailable
from igniter.tracking.sender import Sender
from igniter.tracking.state import State
from igniter.tracking.sync import SendingLock, destination_uri

POLL_SECONDS = 1.0
DRAIN_SECONDS = 30.0
_BACKOFF_SECONDS = 0.5
_LONGEST_BACKOFF_SECONDS = 30.0
# Longer than an earlier attempt's process can take to send what it has left.
_LOCK_PATIENCE_SECONDS = 2 * DRAIN_SECONDS + 60.0


def backoff(failures: int, uniform: Callable[[float, float], float] = random.uniform) -> float:
    """Return the seconds to wait after so many ``failures`` in a row, with jitter."""
    longest = min(_LONGEST_BACKOFF_SECONDS, _BACKOFF_SECONDS * 2.0**failures)
    return uniform(longest / 2, longest)


class Parent:
    """The process that trains, watched from its child."""

    def __init__(self, pid: int, stdin: int) -> None:
        """``pid`` is its process id, ``stdin`` the descriptor of the pipe it holds open."""
        self._pid = pid
        self._stdin = stdin
        self.gone = False

    def wait(self, seconds: float) -> None:
        """Return when ``seconds`` are over or the process has ended, whichever comes first."""
        deadline = time.monotonic() + seconds
        while not self.gone:
            rest = deadline - time.monotonic()
            if rest <= 0:
                return
            ready, _, _ = select.select([self._stdin], [], [], min(rest, POLL_SECONDS))
            ended = bool(ready) and os.read(self._stdin, 4096) == b""
            self.gone = ended or os.getppid() != self._pid


def follow(paths: Paths, parent: Parent) -> None:
    """Send the run until it is all sent and ``parent`` gone, or for 30 s after that."""
    record = RunRecord.load(paths.run_yaml)
    try:
        uri = destination_uri(record)
    except IgniterError as error:
        _note_unusable(paths, record, str(error))
        return
    if uri is None:
        return
    with SendingLock(paths) as lock:
        if lock.acquire(_LOCK_PATIENCE_SECONDS):
            _follow(paths, Sender(paths, uri, _log), parent, lock)


def _follow(paths: Paths, sender: Sender, parent: Parent, lock: SendingLock) -> None:
    failures = 0
    deadline = float("inf")
    while lock.in_place():
        ended = parent.gone
        if ended:
            deadline = min(deadline, time.monotonic() + DRAIN_SECONDS)
        try:
            record = RunRecord.load(paths.run_yaml)
            sender.send(record, live=not ended)
            if ended:
                sender.end(record)
                return
            failures = 0
            pause = POLL_SECONDS
        except (Unavailable, IgniterError, OSError) as error:
            sender.note_problem(str(error))
            failures += 1
            pause = backoff(failures)
        if not ended:
            parent.wait(pause)
        elif time.monotonic() + pause < deadline:
            time.sleep(pause)
        else:
            return


def _note_unusable(paths: Paths, record: RunRecord, problem: str) -> None:
    _log(problem)
    uri = mask_uri(str((record.tracking or {}).get("uri")))
    State.load(paths.tracking).at(uri).with_changes(problem=problem).save(paths.tracking)


def _log(text: str) -> None:
    print(time.strftime("%Y-%m-%dT%H:%M:%S%z"), text, flush=True)


def main(root: str, parent_pid: int) -> None:
    """Follow the run in ``root`` for the process ``parent_pid``, whose pipe is standard input."""
    ignore_stop_signals()
    os.nice(5)
    follow(Paths(Path(root)), Parent(parent_pid, sys.stdin.fileno()))
