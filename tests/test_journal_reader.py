"""Reading a run's journal as a user does: rows, and a table for plotting."""

from __future__ import annotations

import math
import os
import sys
import tracemalloc
from pathlib import Path

import pytest
from support import Small, run_fresh

import igniter
from igniter.errors import UsageError
from igniter.journal import Row
from igniter.tracking.journal import Journal


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """The directory of a run whose second attempt logged one value again, differently."""
    path = tmp_path / "journal.jsonl"
    first = Journal.open(path, attempt=1, clock=lambda: 1764.5, warn=lambda _: None)
    first.log(1, 1, {"train/loss": 0.5, "lr": 0.1})
    first.log(2, 1, {"train/loss": 0.25, "lr": 0.1})
    first.log(2, 1, {"perf/samples_per_second": 10.0}, kind="measured")
    again = Journal.open(path, attempt=2, clock=lambda: 1765.0, warn=lambda _: None)
    again.log(2, 1, {"train/loss": 0.3, "lr": 0.1})
    again.log(3, 2, {"train/loss": -0.0, "eval/loss": math.nan})
    again.close()
    return tmp_path


def test_a_row_is_a_value_with_all_that_is_known_of_it(run_dir: Path) -> None:
    """Each value is a row, in the order of the file; a value that came out anew is left out."""
    rows = list(igniter.journal.read(run_dir))
    assert rows[0] == Row(1, 1, "train/loss", 0.5, 1764.5, 1, "result", False)
    assert [(row.iteration, row.name, repr(row.value), row.attempt, row.kind) for row in rows] == [
        (1, "train/loss", "0.5", 1, "result"),
        (1, "lr", "0.1", 1, "result"),
        (2, "train/loss", "0.25", 1, "result"),
        (2, "lr", "0.1", 1, "result"),
        (2, "perf/samples_per_second", "10.0", 1, "measured"),
        (3, "train/loss", "-0.0", 2, "result"),
        (3, "eval/loss", "nan", 2, "result"),
    ]


def test_repeats_come_when_they_are_asked_for(run_dir: Path) -> None:
    """A value that differed when its iteration ran again has a row of its own, marked."""
    rows = [row for row in igniter.journal.read(run_dir, repeats=True) if row.repeat]
    assert rows == [Row(2, 1, "train/loss", 0.3, 1765.0, 2, "result", True)]


def test_the_file_can_be_given_as_well(run_dir: Path) -> None:
    """A path as text, of the directory or of the file, gives the same rows."""
    rows = [repr(row) for row in igniter.journal.read(run_dir)]
    for path in (str(run_dir), run_dir / "journal.jsonl", str(run_dir / "journal.jsonl")):
        assert [repr(row) for row in igniter.journal.read(path)] == rows


def test_a_file_that_is_being_written_is_read_up_to_its_last_whole_line(run_dir: Path) -> None:
    """A reader beside training sees whole records, and goes on where there are more."""
    path = run_dir / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    rows = igniter.journal.read(run_dir)
    first = next(rows)
    assert first.iteration == 1
    assert [row.iteration for row in rows] == [1, 2, 2, 2]


@pytest.mark.parametrize("path", ["absent", ".", "file/journal.jsonl"])
def test_what_has_no_journal_is_refused_at_once(tmp_path: Path, path: str) -> None:
    """The call itself, not the first row, says which file is missing and what to give."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"no journal to read at .*\n.*run's directory"):
        igniter.journal.read(tmp_path / path)


def test_a_table_has_a_column_for_each_metric(run_dir: Path) -> None:
    """Iterations are the index, ascending, and what was not logged is NaN."""
    table = igniter.journal.to_pandas(run_dir)
    assert table.index.name == "iteration"
    assert list(table.index) == [1, 2, 3]
    assert list(table.columns) == ["train/loss", "lr", "perf/samples_per_second", "eval/loss"]
    assert list(table["train/loss"]) == [0.5, 0.25, -0.0]
    assert table["lr"].isna().tolist() == [False, False, True]
    assert table["perf/samples_per_second"].dropna().to_dict() == {2: 10.0}


def test_a_table_of_what_stands_out_of_order_ascends(tmp_path: Path) -> None:
    """An iteration that only a later attempt logged comes at its place; a double counts once."""
    path = tmp_path / "journal.jsonl"
    for attempt, iterations in ((1, (2, 4)), (2, (1, 3)), (3, (3,))):
        # Each is told that the file is settled, so that the third doubles a value.
        size = path.stat().st_size if path.exists() else 0
        journal = Journal.open(path, attempt=attempt, offset=size, warn=lambda _: None)
        for iteration in iterations:
            journal.log(iteration, 1, {"loss": iteration + attempt / 10})
    table = igniter.journal.to_pandas(tmp_path)
    assert table["loss"].to_dict() == {1: 1.2, 2: 2.1, 3: 3.2, 4: 4.1}


def test_a_table_of_nothing_is_empty(tmp_path: Path) -> None:
    """A run that has logged nothing yet gives a table without rows, with its index."""
    (tmp_path / "journal.jsonl").touch()
    table = igniter.journal.to_pandas(tmp_path)
    assert len(table) == 0
    assert table.index.name == "iteration"


def test_pandas_takes_the_rows_as_they_are(run_dir: Path) -> None:
    """The long table that the docs name: a row a value, a column for each thing known of it."""
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(igniter.journal.read(run_dir))
    assert list(table.columns) == list(Row._fields)
    assert len(table) == 7


def test_without_pandas_it_says_what_to_do(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """to_pandas names the missing library and the way that works without."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match=r"pip install pandas.*igniter\.journal\.read"):
        igniter.journal.to_pandas(run_dir)


def test_reading_takes_no_memory(tmp_path: Path) -> None:
    """Reading row by row holds no more for a long journal than for a short one."""
    text = b'{"time":1,"attempt":1,"iteration":7,"epoch":1,"kind":"result","metrics":{"a":0.5}}\n'
    (tmp_path / "journal.jsonl").write_bytes(text * 10_000)
    tracemalloc.start()
    try:
        count = sum(1 for _ in igniter.journal.read(tmp_path))
        peak = tracemalloc.get_traced_memory()[1]
        held = list(igniter.journal.read(tmp_path))
        control = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == len(held) == 10_000
    assert peak < 300_000
    assert control > 1_500_000


def test_a_real_run_is_read(tmp_path: Path) -> None:
    """What training has logged comes out, with the metrics that its result names."""
    result = Small(tmp_path).train(log_every=1)
    losses = [row for row in igniter.journal.read(result.run_dir) if row.name == "train/loss"]
    assert [row.iteration for row in losses] == list(range(1, 13))
    assert losses[-1].value == result.metrics["train/loss"]


def test_reading_imports_no_heavy_library(run_dir: Path, tmp_path: Path) -> None:
    """A notebook that looks at a journal does not wait for torch."""
    script = tmp_path / "look.py"
    script.write_text(
        "import sys, igniter\n"
        f"print(len(list(igniter.journal.read({os.fspath(run_dir)!r}))))\n"
        "print(sorted({'torch', 'mlflow', 'numpy', 'pandas'} & set(sys.modules)))\n",
        encoding="utf-8",
    )
    done = run_fresh(os.fspath(script), cwd=tmp_path)
    assert done.out == "7\n[]\n", done
