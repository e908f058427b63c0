"""TensorBoard's files, made from the journal: each value once, whatever was killed."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support import ROOT, Small, Zygote, environment
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

from igniter.tracking import boards
from igniter.tracking.board import Board, Superseded
from igniter.tracking.records import line, read
from igniter.tracking.tracker import Feed

Shown = list[tuple[str, float, int, float]]


def shown(directory: Path) -> Shown:
    """What TensorBoard reads: name, value, iteration and time, of all files in the directory."""
    found = []
    for path in sorted(directory.iterdir()):
        if "tfevents" not in path.name:
            continue
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found.append((value.tag, value.simple_value, event.step, event.wall_time))
    return sorted(found)


def expected(journal: Path) -> Shown:
    """What the journal holds, in 32-bit floats."""
    return sorted(
        (name, float(np.float32(value)), record.iteration, record.time / 1000)
        for record in read(journal)
        if not record.repeat
        for name, value in record.metrics.items()
    )


def test_each_value_is_there_once_after_stops(tmp_path: Path) -> None:
    """Stopped twice: one file with all of the journal, in its order, with its times."""
    run = Small(tmp_path / "run")
    how = {"tensorboard": True, "log_every": 1}
    for stop in (5, 8, None):
        run.train(stop, **how)
        assert shown(tmp_path / "run" / "tensorboard") == expected(tmp_path / "run/journal.jsonl")
    assert len(shown(tmp_path / "run" / "tensorboard")) > 12
    names = [path.name for path in (tmp_path / "run" / "tensorboard").iterdir()]
    assert names == ["events.out.tfevents.attempt-3"]


def test_tensorboard_itself_draws_one_line(tmp_path: Path) -> None:
    """Its own reader of a whole tree of runs finds the run, with a point an epoch."""
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

    Small(tmp_path / "run").train(stop_at=5, tensorboard=True)
    Small(tmp_path / "run").train(tensorboard=True)
    reader = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    reader.Reload()
    points = reader.Tensors("run/tensorboard", "train/loss_epoch")
    assert [point.step for point in points] == [4, 8, 12]


@pytest.mark.slow
def test_killed_with_its_child_it_is_made_anew(tmp_path: Path, zygote: Zygote) -> None:
    """SIGKILL of training and of the child that writes: the next attempt's file has all, once."""
    argv = ["--tensorboard", "--no-mlflow", "--output-dir", "run", "--log-every", 1]
    argv += ["--save-every", "2 iterations"]
    running = zygote.start("simple.py", *argv, cwd=tmp_path, env={"TEST_DO": "wait"})
    deadline = time.monotonic() + 30
    while not (tmp_path / "waiting").exists() or not shown_names(tmp_path / "run"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    assert len(children) == 1
    os.kill(running.pid, signal.SIGKILL)
    os.kill(int(children[0]), signal.SIGKILL)
    running.wait()
    (tmp_path / "run" / "tensorboard" / ".attempt-1.part").write_text("left by one killed")
    done = zygote.run("simple.py", *argv, cwd=tmp_path)
    assert done.code == 0, done
    assert shown_names(tmp_path / "run") == ["events.out.tfevents.attempt-2"]
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    found = shown(tmp_path / "run" / "tensorboard")
    assert found == expected(tmp_path / "run" / "journal.jsonl")
    assert len({(name, step) for name, _, step, _ in found}) == len(found)


def shown_names(run_dir: Path) -> list[str]:
    """The files that TensorBoard would read."""
    return sorted(path.name for path in (run_dir / "tensorboard").glob("*tfevents*"))


def test_beside_mlflow_each_has_all(tmp_path: Path, store: str) -> None:
    """Both at once, and MLflow's being out of reach is nothing to TensorBoard."""
    how = {"mlflow": True, "mlflow_tracking_uri": "http://127.0.0.1:9", "tensorboard": True}
    from igniter import attempt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempt, "_WAIT_SECONDS", dict.fromkeys(attempt._WAIT_SECONDS, 0.1))
        Small(tmp_path / "run").train(**how)
    found = shown(tmp_path / "run" / "tensorboard")
    assert found == expected(tmp_path / "run" / "journal.jsonl") != []


def test_without_the_flag_there_is_none(tmp_path: Path) -> None:
    """The negative control: nothing writes there by itself."""
    Small(tmp_path / "run").train()
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_where_it_is_not_installed_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One warning with what to do; training goes on."""
    find = importlib.util.find_spec
    absent = lambda name: None if name == "tensorboard" else find(name)  # noqa: E731
    monkeypatch.setattr(boards, "find_spec", absent)
    assert Small(tmp_path / "run").train(tensorboard=True).status == "completed"
    assert capsys.readouterr().err.count("pip install tensorboard") == 1


def test_what_cannot_be_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file in the directory's place: one warning, and training completes."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").write_text("mine")
    assert Small(tmp_path / "run").train(tensorboard=True).status == "completed"
    said = capsys.readouterr().err
    assert said.count("no TensorBoard files: ") == 1
    assert "Traceback" not in said


def test_the_process_that_trains_imports_none_of_it(tmp_path: Path) -> None:
    """TensorBoard's libraries are the child's alone."""
    code = (
        "import sys; sys.path.insert(0, 'tests'); from support import Small; from pathlib import "
        f"Path; Small(Path({str(tmp_path)!r}) / 'run').train(tensorboard=True); "
        "assert 'tensorboard' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment())
    assert shown(tmp_path / "run" / "tensorboard")


def journal_of(path: Path, values: list[float], *, repeat: bool = False) -> Path:
    """A journal with one value an iteration."""
    with path.open("ab") as file:
        for iteration, value in enumerate(values, start=1):
            file.write(line(1000, 1, iteration, 0, "result", {"a": value}, repeat=repeat))
    return path


def test_repeats_are_left_out(tmp_path: Path) -> None:
    """Values that came out different when iterations ran again would be a second point there."""
    journal = journal_of(tmp_path / "journal", [1.0, 2.0])
    journal_of(journal, [9.0], repeat=True)
    board = Board(tmp_path / "board", 1)
    Feed(journal, board).catch_up(lambda: True)
    board.end()
    assert [value for _, value, _, _ in shown(tmp_path / "board")] == [1.0, 2.0]


def test_values_that_floats_cannot_hold(tmp_path: Path) -> None:
    """Too large, infinite, no number: they stop nothing."""
    journal = journal_of(tmp_path / "journal", [1e300, math.inf, -math.inf, math.nan, 1e-300])
    board = Board(tmp_path / "board", 1)
    Feed(journal, board).catch_up(lambda: True)
    board.end()
    by_step = {step: value for _, value, step, _ in shown(tmp_path / "board")}
    assert json.dumps([by_step[step] for step in range(1, 6)]) == (
        "[Infinity, Infinity, -Infinity, NaN, 0.0]"
    )


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    """Broken off in the midst of a long journal, an attempt leaves what was shown before."""
    journal = journal_of(tmp_path / "journal", [1.0] * 15_000)
    before = Board(tmp_path / "board", 1)
    Feed(journal, before).catch_up(lambda: True)
    before.end()
    broken_off = Board(tmp_path / "board", 2)
    feed = Feed(journal, broken_off)
    feed.catch_up(lambda: False)
    assert [p.name for p in (tmp_path / "board").glob("events*")] == [
        "events.out.tfevents.attempt-1"
    ]
    feed.catch_up(lambda: True)
    assert [p.name for p in (tmp_path / "board").iterdir()] == ["events.out.tfevents.attempt-2"]
    broken_off.end()
    assert len(shown(tmp_path / "board")) == 15_000


def test_an_earlier_attempts_child_gives_way(tmp_path: Path) -> None:
    """One that was still reading when the next had finished leaves no second file."""
    journal = journal_of(tmp_path / "journal", [1.0])
    late, later = Board(tmp_path / "board", 1), Board(tmp_path / "board", 2)
    Feed(journal, later).catch_up(lambda: True)
    with pytest.raises((Superseded, FileNotFoundError)):
        Feed(journal, late).catch_up(lambda: True)
    late.end()
    later.end()
    assert [p.name for p in (tmp_path / "board").iterdir()] == ["events.out.tfevents.attempt-2"]
    assert len(shown(tmp_path / "board")) == 1
