"""The child process that sends a run to MLflow while another process trains it.

It follows the journal until the training process ends, however rudely, then sends what is left and
sets the run's final status.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from igniter.errors import IgniterError
from igniter.rundir import Paths, RunRecord
from igniter.secrets import mask_uri
from igniter.signals import ignore_stop_signals
from igniter.tracking.failures import Unavailable
from igniter.tracking.parent import DRAIN_SECONDS, POLL_SECONDS, Parent
from igniter.tracking.place import place_of
from igniter.tracking.sender import Listener, Sender
from igniter.tracking.state import State
from igniter.tracking.sync import SendingLock
from igniter.tracking.system_metrics import SystemMetrics

_BACKOFF_SECONDS = 0.5
_LONGEST_BACKOFF_SECONDS = 30.0
# Longer than an earlier attempt's process can take to send what it has left.
_LOCK_PATIENCE_SECONDS = 2 * DRAIN_SECONDS + 60.0


def backoff(failures: int, uniform: Callable[[float, float], float] = random.uniform) -> float:
    """Return the seconds to wait after so many ``failures`` in a row, with jitter."""
    longest = min(_LONGEST_BACKOFF_SECONDS, _BACKOFF_SECONDS * 2.0 ** min(failures, 10))
    return uniform(longest / 2, longest)


def follow(paths: Paths, parent: Parent) -> None:
    """Send the run until it is all sent and ``parent`` gone, or for 30 s after that."""
    record = RunRecord.load(paths.run_yaml)
    try:
        place = place_of(record, paths.root)
    except IgniterError as error:
        _note_unusable(paths, record, str(error))
        return
    if place is None:
        return
    with SendingLock(paths) as lock:
        if lock.acquire(_LOCK_PATIENCE_SECONDS):
            listener = Listener(_log, go_on=lambda: parent.time_left() > 0)
            wanted = (record.tracking or {}).get("system_metrics")
            machine = SystemMetrics(place.uri, _log) if wanted else None
            _follow(paths, Sender(paths, place, listener), parent, lock, machine)


def _follow(
    paths: Paths,
    sender: Sender,
    parent: Parent,
    lock: SendingLock,
    machine: SystemMetrics | None,
) -> None:
    failures = 0
    while lock.in_place():
        ended = parent.gone
        try:
            record = RunRecord.load(paths.run_yaml)
            sender.send(record, live=not ended)
            run_id = State.load(paths.tracking).destination.run_id
            if machine is not None and run_id is not None and not ended:
                machine.keep(run_id)
            if ended:
                if machine is not None:
                    machine.finish()
                # Also where not all could be sent in time: how the run ended is true all the same.
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
        elif pause < parent.time_left():
            time.sleep(pause)
        else:
            return


def _note_unusable(paths: Paths, record: RunRecord, problem: str) -> None:
    _log(problem)
    uri = mask_uri(str((record.tracking or {}).get("uri")))
    State.load(paths.tracking).at(uri).with_changes(problem=problem).save(paths.tracking)


def _log(text: str) -> None:
    print(time.strftime("%Y-%m-%dT%H:%M:%S%z"), text, flush=True)


def main(root: str, parent_pid: str) -> None:
    """Follow the run in ``root`` for the process ``parent_pid``, whose pipe is standard input."""
    ignore_stop_signals()
    os.nice(5)
    follow(Paths(Path(root)), Parent(int(parent_pid), sys.stdin.fileno()))
