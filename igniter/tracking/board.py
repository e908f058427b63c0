"""TensorBoard's event files, made from the journal by a child of the process that trains.

Each attempt makes one file anew from the whole journal, under a hidden name until it holds all
there is, then goes on with it and removes the files of earlier attempts. So whatever was killed,
each value is there once.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from igniter.atomic import remove_quietly
from igniter.rundir import Paths, RunRecord
from igniter.signals import ignore_stop_signals
from igniter.tracking.parent import Parent
from igniter.tracking.records import Record
from igniter.tracking.tracker import follow

_FILE = re.compile(r"events\.out\.tfevents\.attempt-(?P<attempt>\d+)")
# TensorBoard reads every file with "tfevents" in its name.
_PART = re.compile(r"\.attempt-(?P<attempt>\d+)\.part")


class Superseded(OSError):
    """A later attempt's file is there."""


class Board:
    """The event file of ``attempt`` in ``directory``, a :class:`~igniter.tracking.tracker.Tracker`.

    TensorBoard keeps values as 32-bit floats.
    """

    def __init__(self, directory: Path, attempt: int) -> None:
        """Begin it.

        Raises:
            OSError: the directory cannot be written to.
        """
        self._directory = directory
        self._attempt = attempt
        self._shown = False
        directory.mkdir(exist_ok=True)
        self._part = directory / f".attempt-{attempt}.part"
        self._file = self._part.open("wb")
        self._writer = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add(self, record: Record) -> None:
        """Take in the values of ``record``."""
        values = [
            Summary.Value(tag=name, simple_value=value) for name, value in record.metrics.items()
        ]
        event = Event(
            wall_time=record.time / 1000, step=record.iteration, summary=Summary(value=values)
        )
        self._write(event)

    def flush(self, *, complete: bool) -> None:
        """Have what was taken in read by TensorBoard, once it is ``complete``.

        Raises:
            Superseded: a later attempt has made a file of its own, which has all that this one has.
            OSError: it cannot be kept.
        """
        self._file.flush()
        if not complete or self._shown:
            return
        shown = self._directory / f"events.out.tfevents.attempt-{self._attempt}"
        self._part.rename(shown)
        self._shown = True
        # Whichever of two attempts gives its file its name last sees that of the other.
        others = [(self._number(path), path) for path in self._directory.iterdir()]
        if any(number > self._attempt for number, path in others if _FILE.fullmatch(path.name)):
            remove_quietly(shown)
            raise Superseded(f"{shown} is a later attempt's by now")
        for number, path in others:
            if 0 <= number < self._attempt:
                remove_quietly(path)

    def end(self) -> None:
        """Close the file; one that was never complete is removed."""
        self._file.close()
        remove_quietly(self._part)

    def _write(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())

    @staticmethod
    def _number(path: Path) -> int:
        """The attempt that a file is of, -1 for what is no file of ours."""
        match = _FILE.fullmatch(path.name) or _PART.fullmatch(path.name)
        return -1 if match is None else int(match["attempt"])


def main(root: str, parent_pid: str) -> None:
    """Follow the run in ``root`` for the process ``parent_pid``, whose pipe is standard input."""
    ignore_stop_signals()
    os.nice(5)
    paths = Paths(Path(root))
    try:
        board = Board(paths.tensorboard, RunRecord.load(paths.run_yaml).attempts[-1].number)
        follow(paths.journal, board, Parent(int(parent_pid), sys.stdin.fileno()))
    except OSError as error:
        sys.exit(f"no TensorBoard files: {error}")
