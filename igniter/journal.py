"""Reading the journal of a run, finished or in training.

Synopsis::

    import igniter

    for row in igniter.journal.read("output/digits-1a2b3c4d"):
        print(row.iteration, row.name, row.value)

    table = igniter.journal.to_pandas("output/digits-1a2b3c4d")
    table["eval/loss"].dropna().plot()
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from igniter.errors import UsageError
from igniter.rundir import Paths
from igniter.tracking import records
from igniter.tracking.records import Kind

if TYPE_CHECKING:
    import pandas


class Row(NamedTuple):
    """One value of one metric.

    Attributes:
        iteration: counted from 1 over the whole run.
        epoch: the epoch that the iteration is in, from 1.
        name: such as ``train/loss``, ``train/loss_epoch``, ``eval/accuracy``.
        value: exactly as it was logged; NaN and the infinities too.
        time: when it was logged, in seconds since 1970; never decreases.
        attempt: which start of the run logged it, from 1.
        kind: ``result``, a function of the run, or ``measured``: times, throughput, memory.
        repeat: its iteration ran again after a rude stop and came out different; the first value
            has a row of its own.
    """

    iteration: int
    epoch: int
    name: str
    value: float
    time: float
    attempt: int
    kind: Kind
    repeat: bool


def read(path: str | PathLike[str], *, repeats: bool = False) -> Iterator[Row]:
    """Give every value that a run has logged, in the order of the file.

    One row is read at a time, so a journal of any length takes no memory. A run that is being
    trained can be read: the rows end at the last whole line.

    Args:
        path: the run's directory, or its ``journal.jsonl``.
        repeats: also the values that came out different when iterations ran again; MLflow has
            only the first ones.

    Raises:
        UsageError: there is no journal, or it cannot be read.
    """
    return _rows(_journal(Path(path)), repeats)


def to_pandas(path: str | PathLike[str]) -> pandas.DataFrame:
    """The run as a table: a row for each iteration that logged, a column for each metric.

    The index is called ``iteration`` and ascends; a metric that an iteration did not log is NaN
    there, so that one metric alone is ``table["eval/loss"].dropna()``. For a table of one value a
    row, with time, epoch and attempt: ``pandas.DataFrame(igniter.journal.read(path))``.

    Raises:
        UsageError: there is no journal, or pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise UsageError(
            f"to_pandas needs pandas, which cannot be imported: {error}.\n"
            "Install it with `pip install pandas`, or use igniter.journal.read(path)."
        ) from error
    columns: dict[str, tuple[array[int], array[float]]] = {}
    for row in read(path):
        iterations, values = columns.setdefault(row.name, (array("q"), array("d")))
        iterations.append(row.iteration)
        values.append(row.value)
    series = []
    for name, (iterations, values) in columns.items():
        column = pandas.Series(values, index=iterations, name=name, dtype="float64")
        series.append(column[~column.index.duplicated()])
    table = pandas.concat(series, axis=1) if series else pandas.DataFrame()
    table.index = table.index.astype("int64").rename("iteration")
    return table.sort_index()


def _journal(path: Path) -> Path:
    journal = Paths(path).journal if path.is_dir() else path
    try:
        journal.open("rb").close()
    except OSError as error:
        raise UsageError(
            f"there is no journal to read at {journal}: {error.strerror}.\n"
            "Give a run's directory, such as output/train-1a2b3c4d, or its journal.jsonl."
        ) from error
    return journal


def _rows(journal: Path, repeats: bool) -> Iterator[Row]:
    for record in records.read(journal):
        if record.repeat and not repeats:
            continue
        seconds = record.time / 1000
        for name, value in record.metrics.items():
            yield Row(
                record.iteration,
                record.epoch,
                name,
                value,
                seconds,
                record.attempt,
                record.kind,
                record.repeat,
            )
