"""The paths of a run, and its record."""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igniter import directories
from igniter.errors import RunRefused, UsageError
from igniter.rundir import Attempt, Paths, RunRecord


def a_record(**fields: Any) -> RunRecord:
    """A record with every required field."""
    required: dict[str, Any] = {
        "name": "digits-1a2b3c4d",
        "script": "/home/me/train.py",
        "identity": "1a2b3c4d",
        "arguments": {"seed": 0},
        "parameters": {"seed": 0, "workers": 2},
    }
    return RunRecord(**{**required, **fields})


def begin(record: RunRecord, from_iteration: int = 0) -> Attempt:
    """Begin an attempt with every required field."""
    return record.begin_attempt(
        start="2026-11-21T10:00:00+00:00",
        host="node1",
        pid=4711,
        from_iteration=from_iteration,
        command=["python", "train.py"],
        resume_command="python train.py",
    )


def test_paths_lie_in_the_root_unless_given() -> None:
    """Checkpoints and model are in the run's directory by default, elsewhere when asked."""
    paths = Paths(Path("out/run"))
    assert paths.checkpoints == Path("out/run/checkpoints")
    assert paths.model == Path("out/run/model")
    assert paths.run_yaml == Path("out/run/run.yaml")
    assert paths.journal == Path("out/run/journal.jsonl")
    assert paths.tracking == Path("out/run/tracking.json")
    assert paths.lock == Path("out/run/run.lock")
    assert Paths(Path("out"), checkpoints=Path("/big"), model=Path("/m")).checkpoints == Path(
        "/big"
    )


def test_record_comes_back_whole(tmp_path: Path) -> None:
    """Every field survives the file, attempts included."""
    record = a_record(
        iteration=1200,
        epoch=3,
        total_iterations=None,
        best={"metric": "eval/accuracy", "mode": "max", "value": 0.97, "ranking": [[0.97, 1200]]},
        tracking={"uri": "sqlite:///mlflow.db", "experiment_name": "e", "run_name": None},
        mlflow_run_id="abc",
        origin="/elsewhere",
    )
    begin(record)
    record.end_attempt("interrupted", end="2026-11-21T11:00:00+00:00", reason="signal 15")
    record.save(tmp_path / "run.yaml")
    assert RunRecord.load(tmp_path / "run.yaml") == record
    assert record.status == record.attempts[0].outcome == "interrupted"


@given(value=st.floats())
def test_metrics_come_back_bit_for_bit(
    value: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any float, NaN and infinities included, is the same one after the file."""
    path = tmp_path_factory.getbasetemp() / "floats.yaml"
    a_record(metrics={"train/loss": value}).save(path)
    again = RunRecord.load(path).metrics["train/loss"]
    if math.isnan(value):
        assert math.isnan(again)
    else:
        assert struct.pack("d", again) == struct.pack("d", value)


def test_odd_text_comes_back(tmp_path: Path) -> None:
    """Text that YAML could take for something else, and bytes that are no UTF-8, survive."""
    texts = ["1e-3", "no", "012", "1:30", "~", "", "a: b", "- x", "ü", os.fsdecode(b"\xff"), "a\nb"]
    record = a_record(parameters={"texts": texts})
    record.save(tmp_path / "run.yaml")
    assert RunRecord.load(tmp_path / "run.yaml").parameters["texts"] == texts


def test_an_attempt_that_never_ended_was_killed() -> None:
    """The next attempt closes it; attempts that ended keep their outcome."""
    record = a_record()
    begin(record)
    record.end_attempt("failed", end="2026-11-21T10:30:00+00:00", reason="ValueError")
    begin(record)
    third = begin(record, from_iteration=500)
    assert [attempt.outcome for attempt in record.attempts] == ["failed", "killed", "running"]
    assert (third.number, third.from_iteration, record.status) == (3, 500, "running")


def test_a_missing_record_is_said_to_be_missing(tmp_path: Path) -> None:
    """No file is no damage: a fresh run has none."""
    with pytest.raises(FileNotFoundError):
        RunRecord.load(tmp_path / "run.yaml")


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("iteration: 0", "iteration: abc", "iteration is str 'abc'"),
        ("iteration: 0", "iterations: 0", "iterations"),
        ("name: digits-1a2b3c4d\n", "", "name"),
        ("arguments:", "arguments: [", "run.yaml"),
        ("attempts: []", "attempts: [3]", "int 3"),
        ("attempts: []", "attempts:", "attempts is empty"),
        ("name: digits", "name: \0", "run.yaml"),
    ],
)
def test_a_damaged_record_is_refused_with_a_way_on(
    tmp_path: Path, old: str, new: str, names: str
) -> None:
    """What is wrong is named, and what to do."""
    path = tmp_path / "run.yaml"
    a_record().save(path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(RunRefused) as refusal:
        RunRecord.load(path)
    assert names in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert "--resume never" in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"\xff\xfe\x00", b"42"])
def test_a_record_that_is_no_mapping_is_refused(tmp_path: Path, content: bytes) -> None:
    """An empty file, a list, a number and binary data are all refused."""
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(RunRefused, match=r"run\.yaml"):
        RunRecord.load(path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """A record of a later igniter is not guessed at."""
    path = tmp_path / "run.yaml"
    path.write_text("format_version: 2\nsomething: new\n")
    with pytest.raises(RunRefused, match="format version 2; this igniter reads up to 1"):
        RunRecord.load(path)


def test_create_makes_the_directories_and_again(tmp_path: Path) -> None:
    """They are made once and accepted when there."""
    paths = Paths(tmp_path / "a" / "b", model=tmp_path / "m")
    directories.create(paths)
    directories.create(paths)
    assert paths.checkpoints.is_dir()
    assert (tmp_path / "m").is_dir()


def test_create_names_a_directory_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in the way, or no permission to write, is a usage error that names the path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file/run: Not a directory"):
        directories.create(Paths(tmp_path / "file" / "run"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(UsageError, match=r"run: it is read-only(.|\n)*--output-dir"):
        directories.create(Paths(tmp_path / "run"))


def test_set_aside_renames_and_never_overwrites(tmp_path: Path) -> None:
    """Two runs set aside in one second get two names, each with its content."""
    paths = Paths(tmp_path / "run")
    names = []
    for text in ("first", "second"):
        directories.create(paths)
        (paths.root / "content").write_text(text)
        moved = directories.set_aside(paths, clock=lambda: 0.0)
        names.append(moved.name)
        assert (moved / "content").read_text() == text
    assert names == ["run.old-19700101-000000", "run.old-19700101-000000-2"]
    assert not paths.root.exists()


def test_set_aside_takes_directories_outside_along(tmp_path: Path) -> None:
    """Checkpoints kept elsewhere would else be found by the fresh run."""
    paths = Paths(tmp_path / "run", checkpoints=tmp_path / "big")
    directories.create(paths)
    directories.set_aside(paths, clock=lambda: 0.0)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [
        "big.old-19700101-000000",
        "run.old-19700101-000000",
    ]


def test_set_aside_that_fails_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that cannot be renamed is named, with a way on."""
    paths = Paths(tmp_path / "run")
    directories.create(paths)

    def fail(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(UsageError, match=r"run aside.*not permitted(.|\n)*--output-dir"):
        directories.set_aside(paths)
