"""Another tracker than MLflow, fed from the journal: what it must offer, and how it is fed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from igniter.tracking.parent import POLL_SECONDS, Parent
from igniter.tracking.records import Record, read


class Tracker(Protocol):
    """Takes in all the values of a run, from the first on, at each attempt anew.

    What an earlier attempt's made is to be replaced: each value is to stand there once.
    """

    def add(self, record: Record) -> None:
        """Take in the values of one record; they come in the journal's order, none of them twice.

        Raises:
            OSError: they cannot be kept.
        """

    def flush(self, *, complete: bool) -> None:
        """Show what was taken in; it is ``complete`` when it is all that the journal holds.

        Raises:
            OSError: it cannot be kept.
        """

    def end(self) -> None:
        """Nothing will come any more."""


class Feed:
    """Feeds ``tracker`` from the journal at ``path``."""

    def __init__(self, path: Path, tracker: Tracker) -> None:
        self._path = path
        self._tracker = tracker
        self._offset = 0

    def catch_up(self, go_on: Callable[[], bool]) -> None:
        """Hand over what is new in the journal, breaking off where ``go_on`` says no.

        Raises:
            OSError: the journal cannot be read, or the tracker cannot keep it.
        """
        complete = True
        for number, record in enumerate(read(self._path, self._offset), start=1):
            # A repeat differs from a value that was handed over: a second one at its iteration.
            if not record.repeat:
                self._tracker.add(record)
            self._offset = record.end
            if number % 10_000 == 0 and not go_on():
                complete = False
                break
        self._tracker.flush(complete=complete)


def follow(journal: Path, tracker: Tracker, parent: Parent) -> None:
    """Keep ``tracker`` up with the journal until ``parent`` has gone, and end it.

    Raises:
        OSError: the journal cannot be read, or the tracker cannot keep it.
    """
    feed = Feed(journal, tracker)
    try:
        ended = False
        while not ended:
            ended = parent.gone
            feed.catch_up(lambda: parent.time_left() > 0)
            parent.wait(POLL_SECONDS)
    finally:
        tracker.end()
