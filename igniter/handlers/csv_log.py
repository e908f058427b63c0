"""The journal's metrics as a table, ``metrics.csv``, kept up while training goes on."""

from __future__ import annotations

import csv
import io
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igniter import atomic
from igniter.errors import UsageError
from igniter.rundir import Paths
from igniter.tracking import records

if TYPE_CHECKING:
    from igniter.engine import StepEngine

_SECONDS = 1.0  # at least, from one writing to the next
_SHARE = 0.01  # of the time, at most, for the writing

_Row = tuple[int, dict[str, float]]


class CSVLog:
    """Writes a row for each iteration that logged something, and a column for each metric.

    The table is made from the journal, so it has the values of all attempts, each once, whatever
    stops there were. What an iteration did not log is empty; numbers read back bit for bit. It is
    written whole: when an attempt starts, every second in training (less often where it is so long
    that this would take more than 1 % of the time), and when the attempt ends.

    Args:
        path: of the file; ``metrics.csv`` in the run's directory by default.
        clock: gives seconds from any origin.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = None if path is None else Path(path)
        self._clock = clock
        self._due = 0.0
        self._is_failing = False

    def attach(self, trainer: StepEngine) -> None:
        """See that there is a journal to read.

        Raises:
            UsageError: there is none.
        """
        if trainer.run_dir is None:
            raise UsageError("CSVLog shows a run's journal, and there is no run here; leave it out")
        self._due = 0.0
        self._is_failing = False

    def on_batch_start(self, trainer: StepEngine, batch: Any) -> None:
        """Write it where that is due."""
        if self._clock() >= self._due:
            self._write(trainer)

    def on_attempt_end(self, trainer: StepEngine) -> None:
        """Write it with all that the attempt logged."""
        self._write(trainer)

    def _write(self, trainer: StepEngine) -> None:
        assert trainer.run_dir is not None  # see attach
        path = self._path or trainer.run_dir / "metrics.csv"
        began = self._clock()
        try:
            atomic.write_text(path, _table(Paths(trainer.run_dir).journal))
            self._is_failing = False
        except OSError as error:
            if not self._is_failing:  # else it was said
                trainer.warn(f"{path} cannot be written: {error}. The journal has what it lacks")
            self._is_failing = True
        now = self._clock()
        self._due = now + max(_SECONDS, (now - began) / _SHARE)


def _table(journal: Path) -> str:
    """The journal as comma-separated values, a header first."""
    columns: dict[str, None] = {}
    spans: list[tuple[int, int]] = []  # in bytes: parts in which iterations ascend
    last = math.inf
    for record in records.read(journal):
        columns |= dict.fromkeys(record.metrics)
        begins = record.start if record.iteration < last else spans.pop()[0]
        spans.append((begins, record.end))
        last = record.iteration
    parts = [_rows(journal, *span) for span in spans]
    text = io.StringIO()
    table = csv.DictWriter(text, ["iteration", *columns], lineterminator="\n")
    table.writeheader()
    # Of equal iterations merge gives what was logged first before the rest: its values stand.
    by_iteration = itertools.groupby(merge(*parts, key=itemgetter(0)), itemgetter(0))
    for iteration, found in by_iteration:
        row: dict[str, Any] = {}
        for _, values in found:
            row = values | row
        table.writerow({"iteration": iteration, **row})
    return text.getvalue()


def _rows(journal: Path, start: int, stop: int) -> Iterator[_Row]:
    """What the journal holds from byte ``start`` to byte ``stop``."""
    for record in records.read(journal, start, stop):
        if not record.repeat:
            yield record.iteration, record.metrics
