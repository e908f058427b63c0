"""Which run it is, from where it goes on, and the exit code: real processes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support import Done, Small, Zygote, assert_same_run, checkpoint, differing, run_fresh

FLAGS = ("--no-mlflow", "--output-dir", "run", "--max-epochs", "2", "--progress", "plain",
         "--save-every", "1 epoch")  # fmt: skip


@pytest.fixture
def start(zygote: Zygote, tmp_path: Path) -> Any:
    """Start the small script, in the test's own directory."""

    def run(*flags: object, do: str = "", **env: str) -> Done:
        return zygote.run("simple.py", *FLAGS, *flags, cwd=tmp_path, env={"TEST_DO": do, **env})

    return run


@pytest.fixture(scope="module")
def straight(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that was never stopped."""
    cwd = tmp_path_factory.mktemp("straight")
    done = zygote.run("simple.py", *FLAGS, cwd=cwd, env={"TEST_DO": ""})
    assert done.code == 0, done
    return cwd / "run"


def status(cwd: Path) -> tuple[str, str]:
    """The run's status, and how its last attempt ended."""
    record = yaml.safe_load((cwd / "run/run.yaml").read_text(encoding="utf-8"))
    return record["status"], record["attempts"][-1]["outcome"]


def test_first_and_last_line(start: Any, tmp_path: Path) -> None:
    """The first line says which run this is and where it resumes, the last one how to go on."""
    done = start(do="signal SIGTERM")
    assert done.code == 143
    first, *_, last = done.out.splitlines()
    assert first.startswith("run run, attempt 1: begins at iteration 1 of 12; files in ")
    assert "stopped by SIGTERM" in done.out
    assert "iteration 8 of 12" in done.out
    assert "o go on: " in done.out
    assert "simple.py --no-mlflow --output-dir run" in last
    assert status(tmp_path) == ("interrupted", "interrupted")
    done = start()
    assert done.code == 0
    assert "attempt 2: resumes at iteration 9 of 12 from iteration-00000008" in done.out
    assert "completed: iteration 12, epoch 2" in done.out


@pytest.mark.parametrize(
    ("do", "code", "text"),
    [
        ("raise", 1, "ValueError: something of the user's"),
        ("nan", 1, "error: train/loss is nan at iteration 12"),
        ("no dict", 2, "error: the step returned Tensor, not a dict"),
        ("no key", 2, "error: the step's output lacks 'loss'"),
        ("full disk", 3, "No space left on device"),
    ],
)
def test_failures(
    start: Any, straight: Path, tmp_path: Path, do: str, code: int, text: str
) -> None:
    """Each has its exit code and message; the last checkpoint stands, and the run goes on from it.

    Traps: an uncaught error exits with 0 (HE); NaN passes silently (AR).
    """
    done = start(do=do)
    assert done.code == code, done
    assert text in done.err
    assert ("Traceback" in done.err) == (code == 1 and do == "raise")
    if do != "full disk":
        assert status(tmp_path) == ("failed", "failed")
    assert checkpoint(tmp_path / "run")[0] == "iteration-00000006"
    assert start().code == 0
    if do == "nan":  # the journal keeps it, and tells that it did not come again
        state, other = (checkpoint(d)[1] for d in (straight, tmp_path / "run"))
        assert differing(state["state"], other["state"]) == []
    else:
        assert_same_run(straight, tmp_path / "run")


def test_worker_dies(start: Any, straight: Path, tmp_path: Path) -> None:
    """A loader worker that is killed ends the program with 1, and the run goes on afterwards."""
    done = start("--workers", 2, do="worker dies")
    assert done.code == 1, done
    assert "exited unexpectedly" in done.err
    assert status(tmp_path) == ("failed", "failed")
    assert start("--workers", 1).code == 0
    assert_same_run(straight, tmp_path / "run")


def test_nan_warned_of(start: Any) -> None:
    """With --on-nan warn the run goes on, and says so."""
    done = start("--on-nan", "warn", do="nan")
    assert done.code == 0, done
    assert "warning: train/loss is nan" in done.err


@pytest.mark.parametrize("flag", ["--output-dir", "--checkpoint-dir", "--model-dir"])
def test_unwritable_directory(start: Any, tmp_path: Path, flag: str) -> None:
    """A directory that cannot be made is one message and exit code 2, before any training."""
    (tmp_path / "file").touch()
    done = start(flag, "file/below")
    assert done.code == 2, done
    assert "cannot write to the directory file/below" in done.err
    assert "Traceback" not in done.err


def test_another_identity(start: Any, tmp_path: Path) -> None:
    """Other result-shaping arguments are refused, each named with both values, and three ways on.

    Traps: args that differ from the checkpoint go unsaid (transformers#18070).
    """
    assert start(do="signal SIGINT").code == 130
    before = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    done = start("--learning-rate", "0.5", "--seed", 3)
    assert done.code == 3, done
    for text in (
        "learning_rate: 0.001 → 0.5", "seed: 0 → 3", "--resume always", "--output-dir DIR",
        "--resume never",
    ):  # fmt: skip
        assert text in done.err
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == before
    assert start("--workers", 1, "--save-every", "2", "--max-epochs", 3).code == 0


def learning_rate(run_dir: Path) -> float:
    """That of the optimizer in the newest checkpoint."""
    groups = checkpoint(run_dir)[1]["state"]["optimizer"]["param_groups"]
    return float(groups[0]["lr"])


def test_carried_on_with_other_arguments(start: Any, tmp_path: Path) -> None:
    """--resume always carries on, and says that the optimizer's own learning rate stands.

    Trap: optimizer state silently overrides a new --learning-rate (pytorch/examples#816).
    """
    assert start(do="signal SIGTERM").code == 143
    done = start("--learning-rate", "0.5", "--resume", "always", do="signal SIGTERM")
    assert done.code == 0, done
    assert "carrying on with other arguments" in done.err
    assert "--override learning_rate" in done.err
    assert learning_rate(tmp_path / "run") == 0.001


def test_new_learning_rate(start: Any, tmp_path: Path) -> None:
    """--override learning_rate sets the new one in the optimizer, and the next start keeps it."""
    assert start(do="signal SIGTERM").code == 143
    flags = ("--learning-rate", "0.5", "--override", "learning_rate")
    assert start(*flags, "--resume", "always", "--max-epochs", 3, do="raise").code == 0
    assert learning_rate(tmp_path / "run") == 0.5
    assert start("--learning-rate", "0.5", "--max-epochs", 4).code == 0
    assert learning_rate(tmp_path / "run") == 0.5


def test_new_learning_rate_an_attempt_later(start: Any, tmp_path: Path) -> None:
    """--override learning_rate works too at the start after the one that asked for it."""
    assert start(do="signal SIGTERM").code == 143
    assert start("--learning-rate", "0.5", "--resume", "always").code == 0
    more = ("--learning-rate", "0.5", "--override", "learning_rate", "--max-epochs", 3)
    assert start(*more).code == 0
    assert learning_rate(tmp_path / "run") == 0.5


def test_started_afresh(start: Any, straight: Path, tmp_path: Path) -> None:
    """--resume never sets the old run aside, whole, and begins again."""
    assert start("--seed", 3).code == 0
    old = checkpoint(tmp_path / "run")
    done = start("--resume", "never")
    assert done.code == 0, done
    (aside,) = tmp_path.glob("run.old-*")
    assert differing(checkpoint(aside), old) == []
    assert_same_run(straight, tmp_path / "run")


def test_resume_must(start: Any, tmp_path: Path) -> None:
    """--resume must needs a checkpoint, and goes on from one that there is."""
    done = start("--resume", "must")
    assert done.code == 3, done
    assert "--resume must: there is no usable checkpoint in" in done.err
    assert start(do="signal SIGTERM").code == 143
    done = start("--resume", "must")
    assert done.code == 0, done
    assert "resumes at iteration 9 of 12" in done.out


def test_resume_from_a_path(start: Any, straight: Path, tmp_path: Path) -> None:
    """A checkpoint that is named: one of the run's own to go back to, or of another run."""
    done = start("--resume", straight / "checkpoints/iteration-00000006", do="signal SIGKILL")
    assert done.code == -9, done
    again = start("--resume", straight / "checkpoints/iteration-00000006")
    assert again.code == 0, again
    assert "resumes at iteration 7" in again.out
    state, other = (checkpoint(d)[1]["state"] for d in (straight, tmp_path / "run"))
    assert differing(state, other) == []
    done = start("--resume", "run/checkpoints/iteration-00000012-final", "--max-epochs", 3)
    assert done.code == 0, done
    back = start("--resume", "run/checkpoints/iteration-00000012-final", "--max-epochs", 3)
    assert back.code == 0, back
    missing = start("--resume", "nowhere")
    assert missing.code == 2, missing
    assert "'nowhere' is neither" in missing.err


@pytest.mark.parametrize("name", ["state.pt", "rank-00000.pt", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_damaged_checkpoint(
    start: Any, straight: Path, tmp_path: Path, name: str, damage: str
) -> None:
    """The newest one damaged, the run falls back with a warning, and ends bit for bit the same.

    Trap: a truncated newest file ends the resume (PI, HE).
    """
    assert start(do="signal SIGTERM").code == 143
    file = tmp_path / "run/checkpoints/iteration-00000008" / name
    data = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data[: len(data) // 2] if damage == "truncated" else data)
    done = start()
    assert done.code == 0, done
    assert "resumes at iteration 7 of 12 from iteration-00000006" in done.out
    assert "warning" in done.err
    assert "iteration-00000008" in done.err
    assert_same_run(straight, tmp_path / "run")


def test_second_process(zygote: Zygote, tmp_path: Path, straight: Path) -> None:
    """A second process in the run's directory is refused, naming the first's pid and host."""
    import socket

    first = zygote.start("simple.py", *FLAGS, cwd=tmp_path, env={"TEST_DO": "wait"})
    while not (tmp_path / "waiting").exists():
        time.sleep(0.01)
    second = run_fresh("simple.py", *FLAGS, cwd=tmp_path)
    always = run_fresh("simple.py", *FLAGS, "--resume", "always", "--break-lock", cwd=tmp_path)
    (tmp_path / "go").touch()
    assert first.wait().code == 0
    assert (second.code, always.code) == (3, 3), (second, always)
    assert f"in use by pid {first.pid} on host {socket.gethostname()}" in second.err
    assert_same_run(straight, tmp_path / "run")


def test_same_command_is_the_same_run(zygote: Zygote, tmp_path: Path) -> None:
    """Without --output-dir the arguments name the run: the same ones resume, others are another.

    Trap: "same command first and every time" is not supported (Lightning#20347).
    """
    flags = ("--no-mlflow", "--progress", "none", "--max-epochs", "2")
    env = {"TEST_DO": "signal SIGTERM"}
    assert zygote.run("simple.py", *flags, cwd=tmp_path, env=env).code == 143
    other = zygote.run("simple.py", *flags, "--seed", 5, cwd=tmp_path, env=env)
    assert other.code == 143
    assert zygote.run("simple.py", *flags, cwd=tmp_path, env={"TEST_DO": ""}).code == 0
    names = sorted(path.name for path in (tmp_path / "output").iterdir())
    assert len(names) == 2
    assert all(name.startswith("simple-") for name in names)
    ends = {checkpoint(tmp_path / "output" / name)[0] for name in names}
    assert ends == {"iteration-00000008", "iteration-00000012-final"}


def test_two_trainings_in_one_script(tmp_path: Path) -> None:
    """Two train() calls with names are two runs below one directory."""
    for name in ("first", "second"):
        result = Small(tmp_path).train(name=name, max_epochs=1)
        assert result.run_dir == tmp_path / name


def test_objects_that_changed(tmp_path: Path) -> None:
    """A checkpoint that does not fit the objects is refused, and says which."""
    from igniter.errors import CheckpointMismatch

    Small(tmp_path).train(stop_at=2)
    with pytest.raises(CheckpointMismatch, match="extra"):
        Small(tmp_path, more_to_save={"extra": torch.nn.Linear(1, 1)}).train()
    assert Small(tmp_path).train().status == "completed"
