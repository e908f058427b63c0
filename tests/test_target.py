"""Where a run is tracked over its attempts."""

from __future__ import annotations

from pathlib import Path

import pytest

from igniter.rundir import RunRecord
from igniter.settings import Settings
from igniter.target import Target, choose_target


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory of its own, and nothing said by the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


def chosen(root: Path, before: Target | None = None, uri: str | None = None) -> tuple[Target, str]:
    """What an attempt chooses after one that chose ``before``, and what it says of that."""
    record = None
    if before is not None:
        record = RunRecord(name="run", script="", identity="", arguments={}, parameters={})
        record.tracking = dict(before.written)
    said: list[str] = []
    target = choose_target(
        Settings(max_epochs=1, mlflow_tracking_uri=uri), None, root, record, said.append
    )
    assert target is not None
    return target, " ".join(said)


def test_a_resumed_run_stays_where_it_is_tracked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell without the variable, or in another directory, makes no second MLflow run of it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example.org:5000")
    first, said = chosen(tmp_path / "run")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    again, said_again = chosen(tmp_path / "run", first)
    assert again == first
    assert said == said_again == ""
    default, _ = chosen(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again, _ = chosen(tmp_path / "run", default)
    assert again.written["uri"] == default.written["uri"] == f"sqlite:///{tmp_path}/mlflow.db"
    anew, _ = chosen(tmp_path / "run")  # what it would be for a run that is new
    assert anew.written["uri"] != default.written["uri"]


def test_another_place_is_said_to_be_a_second_run(tmp_path: Path) -> None:
    """It is obeyed, with both places named; the same place told again is not worth a word."""
    first, _ = chosen(tmp_path / "run", uri="http://a.example.org")
    again, said = chosen(tmp_path / "run", first, uri="http://me:secret@a.example.org")
    other, said_of_other = chosen(tmp_path / "run", first, uri="http://b.example.org")
    assert other.written["uri"] == "http://b.example.org"
    assert "http://a.example.org" in said_of_other
    assert "http://b.example.org" in said_of_other
    assert "secret" not in said
    assert "secret" not in str(again.written)
