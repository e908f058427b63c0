"""The ``igniter`` command, on run directories as training leaves them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from igniter import cli
from igniter.checkpoint import manifest
from igniter.lock import RunLock
from igniter.rundir import Paths, RunRecord
from igniter.tracking.journal import Journal
from igniter.tracking.state import State

ENVIRON = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    for name in ("MLFLOW_TRACKING_URI", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_run(root: Path, status: Any = "completed", **changes: Any) -> Paths:
    """Leave a run as two attempts leave one, the first killed."""
    root.mkdir(parents=True)
    paths = Paths(root)
    record = RunRecord(
        name=root.name,
        script="train.py",
        identity="1a2b3c4d",
        arguments={"learning_rate": 0.001},
        parameters={"learning_rate": 0.001, "workers": 2},
        iteration=1200,
        epoch=3,
        total_iterations=5000,
        metrics={"train/loss": 0.123456, "eval/accuracy": 0.97},
        best={"metric": "eval/accuracy", "value": 0.97, "iteration": 1000},
        tracking={"uri": f"sqlite:///{root.parent}/mlflow.db", "experiment_name": "digits"},
    )
    for start in ("2026-11-21T10:00:00+00:00", "2026-11-21T11:00:00+00:00"):
        record.begin_attempt(
            start=start,
            host=socket.gethostname(),
            pid=1,
            from_iteration=0,
            command=["train.py"],
            resume_command="python train.py --learning-rate 0.001",
        )
    if status != "running":
        record.end_attempt(status, end="2026-11-21T12:00:00+00:00", reason="SIGTERM")
    for name, value in changes.items():
        setattr(record, name, value)
    record.save(paths.run_yaml)
    return paths


def make_checkpoint(paths: Paths, iteration: int) -> Path:
    """Leave a checkpoint whose one file is 5000 bytes."""
    import hashlib

    content = os.urandom(5000)
    path = paths.checkpoints / manifest.name_of(iteration, final=False)
    path.mkdir(parents=True)
    described = {"size": 5000, "sha256": hashlib.sha256(content).hexdigest()}
    for name in (manifest.STATE, manifest.RANK_STATE):
        (path / name).write_bytes(content)
    body = {
        "format_version": 1,
        "iteration": iteration,
        "epoch": 2,
        "reason": "1 epoch",
        "final": False,
        "world_size": 1,
        "created": "2026-11-21T11:00:00+00:00",
        "files": {manifest.STATE: described, manifest.RANK_STATE: described},
    }
    (path / manifest.MANIFEST).write_bytes(manifest.serialise(body))
    return path


def run_in_process(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Call the command; return its code, output and errors."""
    code = cli.main(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("argv", [["--help"], ["runs"], ["show", "output/digits"], ["show", "-h"]])
def test_looking_loads_neither_torch_nor_mlflow(place: Path, argv: list[str]) -> None:
    """Help, the list and one run come without the second that torch and mlflow take to load."""
    make_checkpoint(make_run(place / "output" / "digits"), 1000)
    code = (
        "import sys, igniter.cli\n"
        "try: code = igniter.cli.main(sys.argv[1:])\n"
        "except SystemExit as error: code = error.code\n"
        "print(sorted({'torch', 'mlflow', 'ignite', 'numpy'} & set(sys.modules)), code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, env=ENVIRON
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "[] 0"


def test_the_list_is_aligned_and_fits(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each run has its line: columns begin where their headings do, within 100 characters."""
    metrics = {f"eval/metric{number}": 0.5 for number in range(9)}
    make_checkpoint(make_run(place / "output" / "digits"), 1000)
    make_run(place / "output" / "second" / "deeper", "failed", metrics=metrics)
    code, out, _ = run_in_process(capsys, "runs")
    assert code == 0
    heading, first, second = out.splitlines()
    assert first.split()[:6] == ["output/digits", "completed", "1200/5000", "3", "2", "1"]
    assert "train/loss 0.1235  eva" in first
    assert second.startswith("output/second/deeper  failed")
    assert heading.index("STATUS") == first.index("completed") == second.index("failed")
    assert max(map(len, out.splitlines())) <= 100


def test_a_killed_run_is_told_from_a_live_one(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recorded as running, a run is so only while a process holds its lock."""
    paths = make_run(place / "output" / "digits", "running")
    _, out, _ = run_in_process(capsys, "runs")
    assert "stopped (killed)" in out
    _, out, _ = run_in_process(capsys, "show", "digits")
    assert out.splitlines()[0].endswith("stopped (killed)")
    assert out.count("killed") == 3
    with RunLock.acquire(paths.lock):
        _, out, _ = run_in_process(capsys, "runs")
    assert "running" in out
    assert "killed" not in out


def test_the_list_as_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON is strict, NaN included, and says the same."""
    make_run(place / "elsewhere" / "digits", metrics={"train/loss": float("nan")})
    code, out, _ = run_in_process(capsys, "runs", "elsewhere", "--json")
    assert code == 0
    (entry,) = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert entry["directory"] == "elsewhere/digits"
    assert entry["iteration"] == 1200
    assert entry["metrics"] == {"train/loss": "nan"}
    assert entry["checkpoints"] == 0


def test_where_there_is_no_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty place is said to be empty; a place that is not there is a usage error."""
    assert run_in_process(capsys, "runs") == (0, f"no runs in {place}\n", "")
    code, out, err = run_in_process(capsys, "runs", "absent")
    assert (code, out) == (2, "")
    assert "absent" in err


def test_an_unreadable_record_hides_no_other(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged run.yaml is reported on stderr with exit code 3, and the other runs listed."""
    make_run(place / "output" / "digits")
    make_run(place / "output" / "torn").run_yaml.write_text("{")
    code, out, err = run_in_process(capsys, "runs")
    assert code == 3
    assert "output/digits" in out
    assert "output/torn/run.yaml" in err


def test_show_says_all_of_a_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Identity, arguments, attempts, checkpoints, MLflow and the command that resumes it."""
    paths = make_run(place / "output" / "digits", "interrupted")
    make_checkpoint(paths, 1000)
    Journal.open(paths.journal, attempt=1, warn=print).log(1, 0, {"a": 1.0, "b": 2.0})
    State().at("sqlite:////x.db").with_changes(run_id="r1", problem="down").save(paths.tracking)
    code, out, err = run_in_process(capsys, "show", "output/digits")
    assert (code, err) == (0, "")
    for text in (
        "output/digits: interrupted",
        "1a2b3c4d",
        "learning_rate = 0.001",
        "1200/5000 (epoch 3)",
        "eval/accuracy 0.97 at iteration 1000",
        "iteration-00001000  2      10.",
        "run r1 at sqlite:////x.db",
        "2 values not sent yet: igniter sync output/digits",
        "last problem: down",
        "SIGTERM",
    ):
        assert text in out
    assert out.splitlines()[-1] == "  python train.py --learning-rate 0.001"


def test_show_verifies_on_request(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--verify reads every file: a flipped byte is found, named, and makes the exit code 3."""
    paths = make_run(place / "output" / "digits")
    make_checkpoint(paths, 900)
    damaged = make_checkpoint(paths, 1000) / manifest.STATE
    code, out, _ = run_in_process(capsys, "show", "digits", "--verify")
    assert code == 0
    assert out.count("verified") == 2
    content = bytearray(damaged.read_bytes())
    content[2500] ^= 1
    damaged.write_bytes(content)
    assert run_in_process(capsys, "show", "digits")[0] == 0
    code, out, _ = run_in_process(capsys, "show", "digits", "--verify", "--json")
    assert code == 3
    sound, unsound = json.loads(out)["checkpoints"]
    assert (sound["verified"], sound["damage"]) == (True, None)
    assert not unsound["verified"]
    assert str(damaged) in str(place / unsound["damage"])


def test_an_unknown_run_gets_the_nearest_name(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name mistyped is a usage error that proposes what is there."""
    make_run(place / "output" / "digits")
    code, out, err = run_in_process(capsys, "show", "output/digit")
    assert (code, out) == (2, "")
    assert "did you mean output/digits?" in err


def test_a_reader_that_has_seen_enough_is_no_error(place: Path) -> None:
    """Output into a closed pipe ends the command without a traceback."""
    make_run(place / "output" / "digits")
    code = "import sys, igniter.cli; sys.exit(igniter.cli.main(['runs']))"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, env=ENVIRON
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_ui_without_a_database_says_how_one_comes_to_be(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing was trained there is nothing to serve, and no empty database is made."""
    code, _, err = run_in_process(capsys, "ui")
    assert code == 2
    assert f"{place}/mlflow.db" in err
    assert list(place.iterdir()) == []
    assert run_in_process(capsys, "ui", "--tracking-uri", "file:///x")[0] == 2
    code, out, _ = run_in_process(capsys, "ui", "--tracking-uri", "http://host:5000")
    assert code == 0
    assert "http://host:5000" in out


def test_ui_becomes_a_small_server(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker, no job processes, no telemetry, the database in the environment."""
    (place / "mlflow.db").touch()
    called: list[Any] = []

    def execve(*args: Any) -> None:
        called.append(args)
        raise SystemExit(0)

    monkeypatch.setattr(os, "execve", execve)
    with pytest.raises(SystemExit):
        cli.main(["ui", "--port", "5001", "--", "--host", "0.0.0.0"])
    ((program, command, environ),) = called
    assert program == sys.executable
    assert " ".join(command[1:]) == "-m mlflow server --port 5001 --workers 1 --host 0.0.0.0"
    assert environ["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{place}/mlflow.db"
    assert environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_sync_sends_each_run_and_can_be_repeated(place: Path) -> None:
    """The first time everything goes, the second nothing; the exit code says all is there."""
    paths = make_run(place / "output" / "digits")
    Journal.open(paths.journal, attempt=2, warn=print).log(1, 0, {"a": 1.0, "b": 2.0})
    code = "import sys, igniter.cli; sys.exit(igniter.cli.main(sys.argv[1:]))"
    lines = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code, "sync", "output"],
            capture_output=True,
            text=True,
            env=ENVIRON,
        )
        assert (done.returncode, done.stderr) == (0, "")
        lines.append(done.stdout)
    run_id = State.load(paths.tracking).destination.run_id
    assert lines == [
        f"output/digits: {sent} values sent, 0 left, MLflow run {run_id}\n" for sent in (2, 0)
    ]


def test_sync_says_what_is_left(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be sent is counted and explained, with exit code 1; no runs is a usage error."""
    assert run_in_process(capsys, "sync")[0] == 2
    paths = make_run(place / "output" / "digits", tracking=None)
    Journal.open(paths.journal, attempt=2, warn=print).log(1, 0, {"a": 1.0})
    code, out, err = run_in_process(capsys, "sync")
    assert code == 1
    assert out == "output/digits: 0 values sent, 1 left\n"
    assert "--tracking-uri" in err
