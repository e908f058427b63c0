"""Output that cannot be written never stops training nor changes its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

import pexpect
import pytest
from support import SCRIPTS, environment

from igniter.outputs import flush_or_drop
from igniter.rundir import RunRecord

FLAGS = ("--no-mlflow", "--output-dir", "run", "--max-epochs", "2")


def unwritable(place: str) -> TextIO:
    """A stream that fails when it is flushed: its disk is full, or its pipe has no reader."""
    if place == "full disk":
        return open("/dev/full", "w", encoding="utf-8")  # noqa: PTH123
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", encoding="utf-8")  # noqa: PTH123


@pytest.mark.parametrize("place", ["full disk", "no reader"])
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_what_cannot_be_written_is_dropped(
    place: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that fails every flush, by what it holds, fails none after; new text is tried."""
    stream = unwritable(place)
    monkeypatch.setattr(sys, name, stream)
    stream.write("held")
    for _ in range(2):  # the control: it would go on failing
        with pytest.raises(OSError, match=r"No space|Broken pipe"):
            stream.flush()
    flush_or_drop()
    stream.flush()
    stream.write("new")
    with pytest.raises(OSError, match=r"No space|Broken pipe"):
        stream.flush()
    flush_or_drop()
    stream.close()


def test_training_goes_on(tmp_path: Path) -> None:
    """With workers, whose start flushes all output, a run whose log's disk is full completes."""
    command = [sys.executable, str(SCRIPTS / "simple.py"), *FLAGS, "--workers", "1"]
    env = environment()
    del env["PYTHONUNBUFFERED"]
    with unwritable("full disk") as stdout:
        done = subprocess.run(
            command, cwd=tmp_path, env=env, stdout=stdout, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")
    assert RunRecord.load(tmp_path / "run/run.yaml").status == "completed"


def test_exit_code_when_the_terminal_is_hung_up(tmp_path: Path) -> None:
    """A terminal that goes away stops training as SIGHUP does: 129, with a checkpoint.

    Found by the chaos run: the last flush failed, and the exit code was 1.
    """
    env = {**environment(), "TEST_DO": "wait"}
    del env["PYTHONUNBUFFERED"]
    command = [str(SCRIPTS / "simple.py"), *FLAGS]
    child = pexpect.spawn(sys.executable, command, cwd=str(tmp_path), env=env, timeout=60)
    child.expect("begins at iteration 1")
    end = time.monotonic() + 60
    while not (tmp_path / "waiting").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    os.close(child.child_fd)
    (tmp_path / "go").touch()
    _, status = os.waitpid(child.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    assert (tmp_path / "run/checkpoints/iteration-00000008").exists()
