"""CSVLog: the journal's values, each once, whatever stops there were; and what a disk may do."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from handled import Part, attempt
from support import Zygote, assert_same_run, points, save_at_once

from igniter import journal
from igniter.errors import UsageError
from igniter.handlers import CSVLog
from igniter.tracking.records import line


def table(path: Path) -> list[tuple[int, str, str]]:
    """The values in a table as (iteration, name, value), in order of iteration."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    iterations = [int(row["iteration"]) for row in rows]
    assert iterations == sorted(set(iterations)), "a row for each iteration, ascending"
    return sorted(
        (int(row["iteration"]), name, value)
        for row in rows
        for name, value in row.items()
        if value and name != "iteration"
    )


def logged(run_dir: Path) -> list[tuple[int, str, str]]:
    """The same of the journal, the first of each."""
    found: dict[tuple[int, str], str] = {}
    for row in journal.read(run_dir):
        found.setdefault((row.iteration, row.name), repr(row.value))
    return sorted((*key, value) for key, value in found.items())


def build() -> Part:
    """A run with a table."""
    return Part([CSVLog()])


def test_the_table_is_the_journal(tmp_path: Path) -> None:
    """A row for each iteration that logged, a column for each metric; numbers read back."""
    attempt(tmp_path, build)
    assert table(tmp_path / "metrics.csv") == logged(tmp_path)
    assert points(tmp_path) == [p for p in table(tmp_path / "metrics.csv") if "perf" not in p[1]]
    header = (tmp_path / "metrics.csv").read_text("utf-8").splitlines()[0]
    assert header.startswith("iteration,train/loss,lr,epoch,")


def test_stopped_and_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value stands there once after stops and kills, and the header once.

    Trap: a log file's header repeated at each start (AR).
    """
    save_at_once(monkeypatch)
    attempt(tmp_path / "straight", build)
    for stop, how in ((3, "SIGTERM"), (9, "crash"), (8, "SIGTERM"), (12, "crash")):
        attempt(tmp_path / "stopped", build, stop, how=how)
        assert table(tmp_path / "stopped/metrics.csv") == logged(tmp_path / "stopped")
    attempt(tmp_path / "stopped", build)
    results = [
        [point for point in table(tmp_path / run / "metrics.csv") if "perf/" not in point[1]]
        for run in ("straight", "stopped")
    ]
    assert results[0] == results[1]
    lines = (tmp_path / "stopped/metrics.csv").read_text("utf-8").splitlines()
    assert [line.startswith("iteration,") for line in lines] == [True, *[False] * 6]


@pytest.mark.slow
def test_in_real_processes(zygote: Zygote, tmp_path: Path) -> None:
    """Killed and terminated in processes of its own, a run and its table are as never stopped."""
    for folder, stops in (("straight", [""]), ("stopped", ["3:SIGTERM", "9:SIGKILL", "11:SIGINT"])):
        (tmp_path / folder).mkdir()
        for stop in dict.fromkeys([*stops, ""]):
            done = zygote.run("handled_run.py", cwd=tmp_path / folder, env={"TEST_STOP": stop})
            assert done.code == (-9 if "KILL" in stop else 0), done
    runs = [tmp_path / "straight/run", tmp_path / "stopped/run"]
    assert_same_run(*runs)
    for run in runs:
        assert table(run / "metrics.csv") == logged(run)


def test_a_value_of_an_earlier_attempt_stands(tmp_path: Path) -> None:
    """What an attempt logged beyond its checkpoint is in order, and not replaced by the next one's.

    Measured values are logged again when iterations run again, and differ.
    """
    attempt(tmp_path, build, 5)
    odd = "odd,\nname"
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(line(0, 1, 8, 2, "measured", {"perf/data_wait_share": 7.5}, repeat=False))
        file.write(line(0, 1, 9, 3, "measured", {odd: float("nan")}, repeat=False))
        file.write(line(0, 1, 9, 3, "result", {"lr": 0.3}, repeat=True))
    attempt(tmp_path, build)
    found = table(tmp_path / "metrics.csv")
    assert [point for point in found if point[1] == odd] == [(9, odd, "nan")]
    assert (8, "perf/data_wait_share", "7.5") in found
    assert found == logged(tmp_path)
    assert "0.3" not in [value for *_, value in found]


def test_kept_up_while_training(tmp_path: Path) -> None:
    """It is written again a second after it was, and less often where that takes long."""
    now, written = 0.0, []

    class Clock:
        """Ten iterations a second, and a writing takes ``cost`` seconds."""

        cost = 0.0

        def on_batch_end(self, trainer: Any, batch: Any, output: Any) -> None:
            """Let time pass, and note what there is."""
            nonlocal now
            now += 0.3
            written.append(len(table(tmp_path / "run/metrics.csv")))

    attempt(tmp_path / "run", lambda: Part([Clock(), CSVLog(clock=lambda: now)]), log_every=1)
    # Written before iterations 1, 5 (1.2 seconds later) and 9.
    assert [i for i in range(1, 13) if written[i - 1] != ([0, *written])[i - 1]] == [5, 9]
    times = iter(float(n) for n in range(1000))
    log = CSVLog(clock=lambda: next(times))  # each writing takes a second by this clock
    attempt(tmp_path / "slow", lambda: Part([log]))
    assert log._due > 100


def test_another_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path may be given; two tables of one run are the same."""
    monkeypatch.chdir(tmp_path)
    attempt(tmp_path / "run", lambda: Part([CSVLog("own.csv"), CSVLog()]))
    assert Path("own.csv").read_bytes() == (tmp_path / "run/metrics.csv").read_bytes()


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    """Nothing stays open after a run. Trap: descriptors leak (AR)."""
    attempt(tmp_path / "first", build)
    before = sorted(Path("/proc/self/fd").iterdir())
    attempt(tmp_path / "run", build, 5)
    attempt(tmp_path / "run", build)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_a_disk_that_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table that cannot be written is warned of once, and training goes on."""
    times = iter(range(0, 10_000, 10))
    log = CSVLog(tmp_path / "nowhere/own.csv", clock=lambda: float(next(times)))
    result = attempt(tmp_path / "run", lambda: Part([log]))
    assert result is not None
    assert result.status == "completed"
    err = capsys.readouterr().err
    assert err.count("own.csv cannot be written") == 1
    assert "The journal has what it lacks" in err


def test_without_a_run() -> None:
    """Outside of a run there is no journal, which is said."""
    from types import SimpleNamespace

    trainer: Any = SimpleNamespace(run_dir=None)
    with pytest.raises(UsageError, match="there is no run here"):
        CSVLog().attach(trainer)
