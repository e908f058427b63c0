"""The ``igniter`` command, on run directories as training leaves them."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from igniter import cli
from igniter.checkpoint import manifest
from igniter.cli import ui
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
    starts = ("2026-11-21T10:00:00.123+00:00", "2026-11-21T11:00:00.123+00:00")
    for start, done in zip(starts, (0, 62), strict=True):
        record.begin_attempt(
            start=start,
            host=socket.gethostname(),
            pid=1,
            from_iteration=done,
            command=["train.py"],
            resume_command="python train.py --learning-rate 0.001",
        )
    if status != "running":
        record.end_attempt(status, end="2026-11-21T12:00:00.123+00:00", reason="SIGTERM")
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


def set_activity(paths: Paths, seconds: float) -> None:
    """Let the run have written last at ``seconds`` since 1970."""
    os.utime(paths.run_yaml, (seconds, seconds))


def test_the_list_is_aligned_and_newest_first(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each run has its line, the last to have been active first, under the headings."""
    older = make_run(place / "output" / "digits")
    make_checkpoint(older, 1000)
    newer = make_run(place / "output" / "second" / "deeper", "failed")
    set_activity(older, 1000)
    set_activity(newer, 2000)
    code, out, _ = run_in_process(capsys, "runs")
    assert code == 0
    heading, first, second = out.splitlines()
    assert second.split()[:6] == ["output/digits", "completed", "1200/5000", "3", "2", "1"]
    assert first.startswith("output/second/deeper  failed")
    assert heading.index("STATUS") == first.index("failed") == second.index("completed")
    set_activity(older, 3000)
    _, out, _ = run_in_process(capsys, "runs")
    assert out.splitlines()[1:] != [first, second]
    assert out.splitlines()[1].startswith("output/digits")


def test_the_list_fits_the_terminal_and_is_whole_in_a_pipe(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines are cut to a terminal's width, whatever it is, and nowhere else."""
    make_run(place / "output" / ("long" * 30))
    monkeypatch.setenv("COLUMNS", "70")
    _, out, _ = run_in_process(capsys, "runs")
    assert "eval/accuracy 0.97" in out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for columns in (70, 110):
        monkeypatch.setenv("COLUMNS", str(columns))
        _, out, _ = run_in_process(capsys, "runs")
        assert {len(line) for line in out.splitlines() if line.endswith("…")} == {columns}
        assert max(map(len, out.splitlines())) == columns


@pytest.mark.parametrize(
    ("followed", "metrics", "shown"),
    [
        ("test/f1", {"train/loss": 0.123456, "eval/loss": 2.0, "test/f1": 3.0}, "test/f1 3"),
        (None, {"train/loss": 0.123456, "eval/loss": 2.0, "test/f1": 3.0}, "eval/loss 2"),
        (None, {"train/accuracy": 1.0, "train/loss": 0.123456}, "train/loss 0.1235"),
        (None, {"train/accuracy": 1.0}, "train/accuracy 1"),
        ("eval/f1", {}, ""),
    ],
)
def test_the_list_shows_the_metric_that_tells_most(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    followed: str | None,
    metrics: dict[str, float],
    shown: str,
) -> None:
    """One value a run: the metric that it follows, else an evaluation's first, else the loss."""
    parameters = {"best_metric": followed}
    make_run(place / "output" / "digits", best=None, metrics=metrics, parameters=parameters)
    _, out, _ = run_in_process(capsys, "runs")
    heading, line = out.splitlines()
    assert line[heading.index("METRIC") :] == shown


def test_a_killed_run_is_told_from_a_live_one(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recorded as running, a run is so only while a process holds its lock."""
    paths = make_run(place / "output" / "digits", "running")
    _, out, _ = run_in_process(capsys, "runs")
    assert out.splitlines()[1].split()[1] == "killed"
    _, out, _ = run_in_process(capsys, "show", "digits")
    assert out.splitlines()[0].endswith(": killed")
    assert out.count("killed") == 3
    assert " 63–1200 " in out
    assert "to resume it" in out
    with RunLock.acquire(paths.lock):
        _, out, _ = run_in_process(capsys, "runs")
        _, shown, _ = run_in_process(capsys, "show", "digits")
    assert "running" in out
    assert "killed" not in out
    assert " 63–  " in shown
    assert "to resume it" not in shown


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
    assert [line.split()[3] for line in out.splitlines() if "2026-11-21T1" in line] == [
        "1–62",
        "63–1200",
    ]
    best = [line for line in out.splitlines() if line.endswith("  best")]
    assert [line.split()[0] for line in best] == ["iteration-00001000"]
    assert out.splitlines()[-2:] == ["to resume it:", "  python train.py --learning-rate 0.001"]


def test_show_writes_values_as_people_do(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments are not shown as Python, and a value of a metric has four digits."""
    best = {"metric": "eval/accuracy", "value": 2 / 3, "iteration": 1000}
    arguments = {"epoch_length": None, "cache": True, "sizes": [1, None], "name": "it's"}
    make_run(place / "output" / "digits", arguments=arguments, best=best)
    _, out, _ = run_in_process(capsys, "show", "digits")
    assert "eval/accuracy 0.6667 at iteration 1000" in out
    for text in ("epoch_length = –", "cache = true", "sizes = [1, null]", "name = it's"):
        assert f"  {text}\n" in out


def end_of_show(capsys: pytest.CaptureFixture[str], paths: Paths, command: str) -> list[str]:
    """What ``show`` says after the heading of the command that goes on with the run."""
    record = RunRecord.load(paths.run_yaml)
    record.attempts[-1] = dataclasses.replace(record.attempts[-1], resume_command=command)
    record.save(paths.run_yaml)
    _, out, _ = run_in_process(capsys, "show", "digits")
    heading, *lines = out.rpartition("\n\n")[2].splitlines()
    assert heading.startswith("to ")
    return lines


def test_show_says_how_to_train_on(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command of a completed run is one that trains: it asks for more than the run has done."""
    paths = make_run(place / "output" / "digits", parameters={"max_epochs": 5})
    for command, longer in (
        ("python train.py", "python train.py --max-epochs 6"),
        ("python train.py --max-epochs 5 --lr 1", "python train.py --lr 1 --max-epochs 6"),
        ("python train.py --max-iterations=9 -- x", "python train.py --max-epochs 6 -- x"),
    ):
        assert end_of_show(capsys, paths, command) == [f"  {longer}"]


def test_show_without_max_epochs_says_what_to_change(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program that does not have igniter's flags gets its own command."""
    paths = make_run(place / "output" / "digits")
    assert end_of_show(capsys, paths, "python train.py") == ["  python train.py"]


def test_show_asks_for_what_it_masks(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A command with a masked secret does not run as it stands, and is not said to."""
    paths = make_run(place / "output" / "digits", "interrupted")
    command = "python train.py --api-token '***'"
    note = "  (put the values in for ***)"
    assert end_of_show(capsys, paths, command) == [f"  {command}", note]


def test_show_tells_an_attempt_of_which_nothing_was_kept(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed before its first checkpoint: none; gone back behind: the end is not known."""
    paths = make_run(place / "output" / "digits")
    for first, second, spans in ((0, 0, ["none", "1–1200"]), (62, 20, ["63–", "21–1200"])):
        record = RunRecord.load(paths.run_yaml)
        record.attempts = [
            dataclasses.replace(attempt, from_iteration=done)
            for attempt, done in zip(record.attempts, (first, second), strict=True)
        ]
        record.save(paths.run_yaml)
        _, out, _ = run_in_process(capsys, "show", "digits")
        lines = [line for line in out.splitlines() if "2026-11-21T1" in line]
        assert [line.split()[3] for line in lines] == spans


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


def test_a_part_of_a_name_is_enough(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run is found by the end of its name, or by any part that no other has."""
    make_run(place / "output" / "train-513da64c")
    make_run(place / "output" / "train-513da64c.old-20261121-100000")
    make_run(place / "output" / "other-99" / "fold-1")
    for name, found in (
        ("513da64c", "train-513da64c"),
        (".old", "train-513da64c.old-20261121-100000"),
        ("99", "other-99/fold-1"),
    ):
        code, out, _ = run_in_process(capsys, "show", name)
        assert code == 0
        assert out.startswith(f"output/{found}: completed\n")
    code, _, err = run_in_process(capsys, "show", "513")
    assert code == 2
    assert "several runs: output/train-513da64c, output/train-513da64c.old-" in err


def test_an_unknown_run_gets_the_nearest_name(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name mistyped is a usage error that proposes what is there."""
    make_run(place / "output" / "digits")
    code, out, err = run_in_process(capsys, "show", "output/digit")
    assert (code, out) == (2, "")
    assert err == "igniter: no run called output/digit; did you mean output/digits?\n"


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
    monkeypatch.setattr(ui, "_check_free", lambda port: None)  # another test's server may be there
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


def test_ui_refuses_a_port_that_cannot_be_had(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A busy port is said to be so at once, with what to do, as is one that does not exist."""
    (place / "mlflow.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert run_in_process(capsys, "ui", "--port", str(port)) == (
            2,
            "",
            f"igniter: port {port} is in use; choose another with --port\n",
        )
    assert run_in_process(capsys, "ui", "--port", "65536")[0] == 2


def test_ui_ends_at_ctrl_c(place: Path) -> None:
    """The server is stopped without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (place / "mlflow.db").touch()
    code = "import sys, igniter.cli; sys.exit(igniter.cli.main(sys.argv[1:]))"
    served = subprocess.Popen(
        [sys.executable, "-c", code, "ui", "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRON,
        start_new_session=True,
    )
    with served:
        assert served.stdout is not None
        said = ""
        for line in served.stdout:
            said += line
            if "Uvicorn running" in line:
                os.killpg(served.pid, signal.SIGINT)
    assert "Uvicorn running" in said
    assert "Traceback" not in said


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
        f"output/digits: 2 values sent, 0 left, MLflow run {run_id}\n",
        f"output/digits: up to date (MLflow run {run_id})\n",
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
