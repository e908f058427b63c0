"""What the journal knows after a kill: iterations that ran again are compared with what it holds.

In real processes. The journal's own rules are in test_journal.py.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from support import Done, Zygote, assert_same_run, points

from igniter.tracking.journal import Journal
from igniter.tracking.records import read

FLAGS = (
    "--output-dir", "run", "--max-epochs", 4, "--log-every", 1, "--save-every", "5 iterations"
)  # fmt: skip
QUIET = ("--no-mlflow", "--progress", "none")
REPORT = re.compile(
    r"warning: (\S+) at iteration (\d+) is (\S+), but was (\S+) before the run was stopped"
)


def attempt(zygote: Zygote, cwd: Path, *flags: object, kill: int = 0, **env: str) -> Done:
    """One start of the script, killed in the step of iteration ``kill``."""
    cwd.mkdir(exist_ok=True)
    settings = {"AUDIT_KILL": str(kill), "AUDIT_NOISE": "", "AUDIT_SIGNAL": "", **env}
    return zygote.run("audit.py", *FLAGS, *(flags or QUIET), cwd=cwd, env=settings)


def killed_and_resumed(zygote: Zygote, cwd: Path, *kills: int, noise: str = "") -> list[Done]:
    """Starts, each killed in the step of an iteration, and one that ends; all the same command."""
    done = [attempt(zygote, cwd, kill=kill, AUDIT_NOISE=noise) for kill in (*kills, 0)]
    assert [one.code for one in done] == [-9] * len(kills) + [0], done
    return done


def records(cwd: Path) -> list[dict[str, Any]]:
    """The journal's records."""
    lines = (cwd / "run/journal.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def values(cwd: Path, name: str) -> dict[int, list[tuple[int, bool, float]]]:
    """By iteration all that the journal holds of a metric: attempt, repeat mark and value."""
    found: dict[int, list[tuple[int, bool, float]]] = {}
    for record in records(cwd):
        if name in record["metrics"]:
            entry = (record["attempt"], record.get("repeat", False), record["metrics"][name])
            found.setdefault(record["iteration"], []).append(entry)
    return found


@pytest.fixture(scope="module")
def straight(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's directory where it was never stopped."""
    cwd = tmp_path_factory.mktemp("straight")
    assert attempt(zygote, cwd).code == 0
    return cwd / "run"


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param((9,), id="once"),
        pytest.param((9, 8, 10), id="again in the same iterations"),
        pytest.param((9, 14, 12, 19), id="overlapping"),
        pytest.param((4, 4, 2), id="before the first checkpoint"),
        pytest.param((6, 11, 16), id="right after a checkpoint"),
    ],
)
def test_equal_values_are_logged_once(
    zygote: Zygote, straight: Path, tmp_path: Path, kills: tuple[int, ...]
) -> None:
    """After kills, iterations that ran again and came out equal are in the journal once, unsaid.

    The negative control of the divergences below. NaN, which the evaluation gives, equals NaN.
    """
    for done in killed_and_resumed(zygote, tmp_path, *kills):
        assert done.err == ""
    assert_same_run(straight, tmp_path / "run")
    logged = points(tmp_path / "run")
    assert len({(iteration, name) for iteration, name, _ in logged}) == len(logged)
    assert (5, "eval/undefined", "'nan'") in logged


def test_first_divergence_in_training(zygote: Zygote, tmp_path: Path) -> None:
    """Randomness from outside, from iteration 7 on, is reported once: what, where, both values."""
    *_, resumed = killed_and_resumed(zygote, tmp_path, 9, noise="train:7")
    ((name, iteration, again, first),) = REPORT.findall(resumed.err)
    assert (name, iteration) == ("train/loss", "7")
    assert resumed.err.count("warning") == 1
    assert "--deterministic" in resumed.err

    logged = values(tmp_path, "train/loss")
    # Iteration 6 ran again and was equal; 7 and 8 were not; from 9 on there is nothing to compare.
    assert [(i, len(held)) for i, held in sorted(logged.items())] == [
        (i, 2 if i in (7, 8) else 1) for i in range(1, 21)
    ]
    assert [entry[:2] for entry in logged[7]] == [(1, False), (2, True)]
    assert [repr(entry[2]) for entry in logged[7]] == [first, again]


def test_divergence_in_an_evaluation(zygote: Zygote, tmp_path: Path) -> None:
    """An evaluation that is done again after a kill is compared as training is."""
    *_, resumed = killed_and_resumed(zygote, tmp_path, 12, noise="eval:10")
    ((name, iteration, again, first),) = REPORT.findall(resumed.err)
    assert (name, iteration) == ("eval/loss", "10")
    logged = values(tmp_path, "eval/loss")
    assert [repr(value) for _, _, value in logged[10]] == [first, again]
    assert [len(logged[i]) for i in (5, 15, 20)] == [1, 1, 1]
    assert all(len(held) == 1 for held in values(tmp_path, "train/loss").values())


def test_divergence_in_each_of_two_attempts(zygote: Zygote, tmp_path: Path) -> None:
    """Killed twice in the same iterations, each attempt says where it left what stood first."""
    _, second, third = killed_and_resumed(zygote, tmp_path, 9, 8, noise="train:7")
    reports = [REPORT.findall(done.err) for done in (second, third)]
    assert [(len(found), found[0][:2]) for found in reports] == [(1, ("train/loss", "7"))] * 2
    assert reports[0][0][3] == reports[1][0][3]  # compared with the first value, not the second
    logged = values(tmp_path, "train/loss")
    assert [entry[:2] for entry in logged[7]] == [(1, False), (2, True), (3, True)]
    assert [entry[:2] for entry in logged[8]] == [(1, False), (3, True)]


def test_a_clean_stop_leaves_nothing_to_compare(zygote: Zygote, tmp_path: Path) -> None:
    """After SIGTERM nothing runs again, so that not even randomness from outside is reported."""
    stopped = attempt(zygote, tmp_path, kill=8, AUDIT_SIGNAL="SIGTERM", AUDIT_NOISE="train:1")
    assert stopped.code == 143, stopped
    resumed = attempt(zygote, tmp_path, AUDIT_NOISE="train:1")
    assert (resumed.code, resumed.err) == (0, "")
    assert all(len(held) == 1 for held in values(tmp_path, "train/loss").values())


def test_killed_between_the_last_checkpoint_and_the_record(
    zygote: Zygote, straight: Path, tmp_path: Path
) -> None:
    """Killed when the last checkpoint stands and run.yaml lacks its values, the run returns them.

    Found by the chaos run: the values were those of run.yaml, written at the save before.
    """
    assert attempt(zygote, tmp_path, AUDIT_KILL_RECORD="20").code == -9
    assert attempt(zygote, tmp_path).code == 0
    returned, expected = (
        json.loads((folder / "returned.json").read_text(encoding="utf-8"))
        for folder in (tmp_path, straight.parent)
    )
    assert returned == expected
    assert_same_run(straight, tmp_path / "run")


def test_an_error_out_of_a_signal_handler_writes_no_line_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception raised right after a line was written, as when a worker dies, repeats no line.

    torch raises out of its handler of SIGCHLD, between any two bytecodes of the main thread.
    """
    path = tmp_path / "journal.jsonl"
    journal = Journal.open(path, attempt=1, warn=print)
    write = os.write

    def write_and_raise(descriptor: int, data: bytes) -> int:
        write(descriptor, data)
        raise RuntimeError("DataLoader worker is killed")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_and_raise)
        with pytest.raises(RuntimeError):
            journal.log(1, 1, {"loss": 0.5})
    journal.close()
    assert [record.iteration for record in read(path)] == [1]


@pytest.mark.slow
def test_mlflow_keeps_the_first_values(zygote: Zygote, tmp_path: Path) -> None:
    """In MLflow each point is there once, with its first value, diverged or not.

    What a sender that was killed while it wrote has left over is gone.
    """
    flags = ("--mlflow-tracking-uri", f"sqlite:///{tmp_path}/m.db")
    noise = {"AUDIT_NOISE": "train:7"}
    assert attempt(zygote, tmp_path, *flags, kill=9, **noise).code == -9
    left_over = tmp_path / "run/.tracking.json.1.part"
    left_over.touch()
    resumed = attempt(zygote, tmp_path, *flags, **noise)
    assert resumed.code == 0, resumed
    assert REPORT.search(resumed.err), resumed
    assert not left_over.exists()
    connection = sqlite3.connect(tmp_path / "m.db")
    assert connection.execute("select status from runs").fetchall() == [("FINISHED",)]
    query = "select key, step, value from metrics where is_nan = 0"
    stored = connection.execute(query).fetchall()
    connection.close()
    first = {
        (name, iteration): held[0][2]
        for name in ("train/loss", "train/loss_epoch", "eval/loss")
        for iteration, held in values(tmp_path, name).items()
    }
    found = {(key, step): value for key, step, value in stored if (key, step) in first}
    assert found == first
    assert len(stored) == len({(key, step) for key, step, _ in stored})
    assert len(values(tmp_path, "train/loss")[7]) == 2
