"""What a result came from."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from igniter import provenance
from igniter._version import __version__
from igniter.provenance import Provenance, collect, drift
from igniter.rundir import RunRecord


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A script in no repository."""
    path = tmp_path / "project" / "train.py"
    path.parent.mkdir()
    path.write_text("print('training')\n")
    return path


def git(directory: Path, *arguments: str) -> str:
    """Run git as a user without settings of their own."""
    settings = ["-c", "user.name=me", "-c", "user.email=me@example.com"]
    command = ["git", *settings, *arguments]
    done = subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def a_repository(script: Path) -> str:
    """Make the script's directory a repository with one commit; return it."""
    git(script.parent, "init", "-q")
    git(script.parent, "add", "train.py")
    git(script.parent, "commit", "-q", "-m", "first")
    return git(script.parent, "rev-parse", "HEAD")


def test_everything_is_found_out(script: Path) -> None:
    """Checksum, commit, versions, host, process and command are recorded."""
    commit = a_repository(script)
    found = collect(script, ["python", "train.py", "--lr", "0.1"])
    assert found.script == str(script)
    assert found.script_sha256 == hashlib.sha256(script.read_bytes()).hexdigest()
    assert (found.git_commit, found.git_dirty) == (commit, False)
    assert found.versions["igniter"] == __version__
    assert set(found.versions) == {"python", "igniter", "torch", "numpy", "ignite"}
    assert found.pid == os.getpid()
    assert found.command == ["python", "train.py", "--lr", "0.1"]
    assert found.resume_command == "python train.py --lr 0.1"


def test_changed_files_are_told(script: Path) -> None:
    """A tracked file that differs from the commit counts, an untracked one does not."""
    a_repository(script)
    (script.parent / "notes.txt").write_text("x")
    assert collect(script).git_dirty is False
    script.write_text("print('changed')\n")
    assert collect(script).git_dirty is True


def test_no_repository_no_commit(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a repository, without a first commit and without git there is none to name."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(script.parent.parent))
    assert collect(script).git_commit is None
    git(script.parent, "init", "-q")
    assert collect(script).git_commit is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert collect(script).git_commit is None


def test_a_slow_git_does_not_hold_up(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git that does not answer is given up."""
    program = script.parent / "git"
    program.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent))
    monkeypatch.setattr(provenance, "_GIT_TIMEOUT", 0.1)
    assert collect(script).git_commit is None


def test_no_script_is_no_failure(tmp_path: Path) -> None:
    """A notebook has no script, and a script may be gone."""
    assert collect(None).script is None
    assert collect(None).script_sha256 is None
    assert collect(tmp_path / "gone" / "x.py").script_sha256 is None


def test_secrets_are_masked_in_both_commands(script: Path) -> None:
    """No secret reaches the record by the command line."""
    found = collect(script, ["python", "train.py", "--api-token", "hunter2", "--lr=0.1"])
    assert "hunter2" not in str(found)
    assert "--lr=0.1" in found.resume_command


def test_the_resume_command_is_what_was_typed(script: Path) -> None:
    """Interpreter options, -m and arguments with spaces come back through a shell."""
    (script.parent / "job.py").write_text(
        "from igniter.provenance import collect\nprint(collect(None).resume_command)\n"
    )
    command = [sys.executable, "-X", "utf8", "-m", "job", "--name", "two words; $HOME 'q'"]
    done = subprocess.run(
        command,
        cwd=script.parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shlex.split(done.stdout) == command


@pytest.mark.parametrize(
    ("once", "lasting"),
    [
        (["--resume", "never"], []),
        (["--resume=never"], []),
        (["--resume", "old/checkpoints/iteration-00000050"], []),
        (["--resume=old/checkpoint"], []),
        (["--override", "learning_rate", "--override=learning_rate"], []),
        (["--break-lock"], []),
        (["--resume"], []),
        (["--resume", "always", "--break-lock"], ["--resume", "always"]),
        (["--resume=must"], ["--resume=must"]),
        (["--resume", "auto"], ["--resume", "auto"]),
        (["--resumed", "never"], ["--resumed", "never"]),
        (["--", "--resume", "never"], ["--", "--resume", "never"]),
    ],
)
def test_what_was_asked_once_is_not_asked_again(once: list[str], lasting: list[str]) -> None:
    """A choice for one start is no part of the command that goes on with the run."""
    found = collect(None, ["python", "train.py", "--lr", "0.1", *once])
    assert found.command == ["python", "train.py", "--lr", "0.1", *once]
    assert found.resume_command == shlex.join(["python", "train.py", "--lr", "0.1", *lasting])


def test_nothing_heavy_is_imported() -> None:
    """Versions are read from metadata: torch, numpy and ignite stay unimported."""
    code = (
        "import sys; from igniter.provenance import collect; collect(None)\n"
        "assert not {'torch', 'numpy', 'ignite'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_it_makes_an_attempt(script: Path) -> None:
    """Its fields are those that an attempt records."""
    found = collect(script, ["python", "train.py"])
    record = RunRecord("name", str(script), "id", {}, {})
    attempt = record.begin_attempt(start="now", from_iteration=0, **found.attempt_fields())
    assert attempt.script_sha256 == found.script_sha256
    assert drift(attempt, found) == []


def changed(old: Provenance, **fields: Any) -> list[str]:
    """What is said of a change from ``old``."""
    return drift(old, dataclasses.replace(old, **fields))


def test_drift_names_what_changed(script: Path) -> None:
    """Script, versions and commit are told in a line each; nothing is told of nothing."""
    old = dataclasses.replace(
        collect(script), git_commit="a" * 40, git_dirty=False, versions={"torch": "2.12"}
    )
    assert changed(old) == []
    assert changed(old, script_sha256="0" * 64) == ["script changed"]
    assert changed(old, versions={"torch": "2.13", "numpy": "2"}) == ["torch 2.12 → 2.13"]
    assert changed(old, git_commit="b" * 40) == ["git commit aaaaaaaa → bbbbbbbb"]
    assert len(changed(old, git_dirty=True)) == 1
    assert changed(old, host="other", pid=1, git_commit=None, script_sha256=None) == []
