"""The child process that sends while another trains: started, ended, killed round."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tracked import Run

from igniter.tracking import follow, shipper

# sqlalchemy warns of what mlflow does with it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ENVIRON = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


_TRAIN = """
import os, sys, time
from pathlib import Path
from igniter.rundir import Paths
from igniter.tracking import shipper
from igniter.tracking.journal import Journal
paths = Paths(Path(sys.argv[1]))
sending = shipper.start(paths)
journal = Journal.open(paths.journal, attempt=1, warn=print)
for iteration in range(1, 301):
    journal.log(iteration, 0, {"train/loss": iteration / 7})
if os.fork() == 0:  # a loader worker: holds the pipe open, outlives its parent
    time.sleep(60)
    os._exit(0)
assert not {"mlflow", "torch"} & set(sys.modules)
print(sending._process.pid, flush=True)
time.sleep(60)
"""


def _gone(pid: int) -> bool:
    try:
        with Path(f"/proc/{pid}/stat").open() as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_sigkill_of_the_training_process(run: Run) -> None:
    """The child sends all that was logged and says KILLED, even as a worker holds its pipe."""
    training = subprocess.Popen(
        [sys.executable, "-c", _TRAIN, str(run.paths.root)],
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRON,
        start_new_session=True,
    )
    with training:
        assert training.stdout is not None
        child = int(training.stdout.readline())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            deadline = time.monotonic() + 30
            while not (run.paths.root / "tracking.lock").exists():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            os.kill(child, number)
        training.kill()
        deadline = time.monotonic() + 60
        while not _gone(child):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(training.pid, signal.SIGKILL)
    stored = run.mlflow()
    assert stored.run.info.status == "KILLED"
    assert stored.points() == run.expected()
    assert len(stored.points()) == 300


def test_finish_waits_for_the_child_and_says_what_it_did(run: Run) -> None:
    """The training process starts the child at once and ends it with all sent and FINISHED."""
    begun = time.perf_counter()
    child = shipper.start(run.paths)
    assert time.perf_counter() - begun < 0.25
    run.log(1, 20)
    run.end("completed")
    outcome = child.finish(60)
    assert (outcome.sent, outcome.left, outcome.problem) == (20, 0, None)
    assert outcome.run_id == child.run_id() == run.mlflow().run.info.run_id
    assert run.mlflow().run.info.status == "FINISHED"


def test_modules_beside_the_script_do_not_stand_in_for_others(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's own http.py or queue.py is not what the child imports under that name."""
    for name in ("http.py", "queue.py", "mlflow.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong one')")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    child = shipper.start(run.paths)
    run.log(1, 2)
    run.end("completed")
    outcome = child.finish(60)
    assert (outcome.sent, outcome.left, outcome.problem) == (2, 0, None)


def test_finish_does_not_wait_for_a_server_that_is_down(run: Run) -> None:
    """The wait is bounded, what is left is counted, and the child's log is the only output."""
    assert run.record.tracking is not None
    run.record.tracking["uri"] = "http://127.0.0.1:9"
    run.save()
    child = shipper.start(run.paths)
    run.log(1, 20)
    run.end("completed")
    begun = time.monotonic()
    outcome = child.finish(0.2)
    assert time.monotonic() - begun < 2
    assert (outcome.sent, outcome.left) == (0, 20)
    os.kill(child._process.pid, signal.SIGKILL)


def test_a_file_store_is_reported_through_the_child(run: Run) -> None:
    """A tracking URI that cannot be used ends the child, and the handle says why."""
    assert run.record.tracking is not None
    run.record.tracking["uri"] = "file:///tmp/mlruns"
    run.save()
    child = shipper.start(run.paths)
    outcome = child.finish(30)
    assert outcome.problem is not None
    assert "sqlite:///mlflow.db" in outcome.problem
    assert "file:///tmp/mlruns" in (run.paths.root / "tracking.log").read_text()


def test_backoff_grows_with_jitter_to_half_a_minute() -> None:
    """Waits double from one second on, between half and all of it, and never exceed 30 s."""
    longest = [follow.backoff(failures, lambda low, high: high) for failures in range(1, 9)]
    shortest = [follow.backoff(failures, lambda low, high: low) for failures in range(1, 9)]
    assert longest == [1, 2, 4, 8, 16, 30, 30, 30]
    assert shortest == [wait / 2 for wait in longest]


def test_the_parent_is_gone_when_the_pipe_closes_or_its_id_changes() -> None:
    """Either sign ends the wait at once; without one the wait lasts its time."""
    reading, writing = os.pipe()
    here = follow.Parent(os.getppid(), reading)
    here.wait(0.01)
    assert not here.gone
    another = follow.Parent(os.getppid() + 1, reading)
    another.wait(1e-3)
    assert another.gone
    os.close(writing)
    here.wait(60)
    assert here.gone
    os.close(reading)
