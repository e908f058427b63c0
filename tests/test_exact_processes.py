"""The promise, in real processes: a run that was stopped ends as one that never was."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from support import Done, Zygote, assert_same_run, checkpoint, differing, points, run_fresh

SEED = int(os.environ["TEST_SEED"])
LENGTH, EPOCH = 24, 6
FLAGS = ("--max-epochs", "4", "--batch-size", "8", "--output-dir", "run", "--log-every", "4")
QUIET = ("--no-mlflow", "--progress", "none")
CODES = {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130, "SIGHUP": 129}


def attempt(zygote: Zygote, cwd: Path, *flags: object, stop: str = "", broken: str = "") -> Done:
    """One start of the script, which perhaps stops itself."""
    cwd.mkdir(exist_ok=True)
    env = {"TEST_STOP": stop, "TEST_BROKEN": broken, "TEST_DUMP": str(cwd / "dump.json")}
    return zygote.run("exact.py", *FLAGS, *QUIET, *flags, cwd=cwd, env=env)


def dump(cwd: Path) -> Any:
    """What the script held at its end."""
    return json.loads((cwd / "dump.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def straight(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    cwd = tmp_path_factory.mktemp("straight")
    done = attempt(zygote, cwd)
    assert done.code == 0, done
    return cwd


def assert_as_if_never_stopped(straight: Path, cwd: Path) -> None:
    """The same final state, generators, returned result and journal."""
    assert_same_run(straight / "run", cwd / "run")
    assert dump(cwd) == dump(straight)


def stopped_and_resumed(
    zygote: Zygote, cwd: Path, stops: list[str], flags: list[tuple[object, ...]] | None = None
) -> None:
    """Start it with each stop in turn, and then once more, to its end."""
    for number, stop in enumerate([*stops, ""]):
        extra = flags[number % len(flags)] if flags else ()
        done = attempt(zygote, cwd, *extra, stop=stop)
        expected = CODES[stop.rsplit(":", 1)[1]] if stop else 0
        assert done.code == expected, f"seed {SEED}, stops {stops}, at {stop!r}: {done}"


def drawn(count: int) -> list[Any]:
    """Lists of stops at random places; more than one may fall in one epoch."""
    draw = random.Random(SEED)
    cases = []
    for case in range(count):
        at, stops = 0, []
        for _ in range(3):
            at += draw.randint(2, 8)
            place = draw.choice(["before", "step", "iteration", "eval", "epoch", "evaluated"])
            if place in ("eval", "epoch", "evaluated"):
                at = -(-at // EPOCH) * EPOCH
            if at < LENGTH:
                name = draw.choice(["SIGKILL", "SIGTERM", "SIGINT"])
                stops.append(f"{place}:{at}:{name}")
        cases.append(pytest.param(stops, id=f"seed{SEED}-case{case}"))
    return cases


@pytest.mark.parametrize("stops", drawn(12))
def test_stops_at_random_moments(
    zygote: Zygote, straight: Path, tmp_path: Path, stops: list[str]
) -> None:
    """Stopped at random by all three signals, the run ends bit for bit as the straight one."""
    stopped_and_resumed(zygote, tmp_path, stops)
    assert_as_if_never_stopped(straight, tmp_path)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
@pytest.mark.parametrize(
    "stops",
    [
        pytest.param(["step:6", "step:12", "step:18"], id="an epoch's last iteration"),
        pytest.param(["step:8", "step:9", "step:11"], id="three in one epoch"),
        pytest.param(["eval:6", "eval:12", "eval:18"], id="in an evaluation"),
        pytest.param(["epoch:6", "begin:12", "evaluated:18"], id="in handlers"),
        pytest.param(["before:1", "step:2", "step:3"], id="at once"),
    ],
)
def test_stops_at_awkward_moments(
    zygote: Zygote, straight: Path, tmp_path: Path, stops: list[str], name: str
) -> None:
    """Stops on an epoch's last iteration, thrice in one epoch, or in an evaluation change no bit.

    Traps: ignite's EPOCH_COMPLETED that never fires, drift after a second and third stop in one
    epoch (KempnerForge#57), the epoch lost when saved at its end (StatefulDataLoader), the
    interrupted evaluation that is never run again (PI).
    """
    stopped_and_resumed(zygote, tmp_path, [f"{stop}:{name}" for stop in stops])
    assert_as_if_never_stopped(straight, tmp_path)


@pytest.mark.parametrize("stop", ["step:24:SIGTERM", "eval:24:SIGTERM"])
def test_stop_at_the_last_iteration(
    zygote: Zygote, straight: Path, tmp_path: Path, stop: str
) -> None:
    """A stop on the run's very last iteration, or in its last evaluation, changes no bit."""
    stopped_and_resumed(zygote, tmp_path, [stop])
    assert_as_if_never_stopped(straight, tmp_path)


def test_workers_change_nothing(zygote: Zygote, straight: Path, tmp_path: Path) -> None:
    """Two workers give what none give, also when attempts differ in their number.

    Trap: no PyTorch peer restores the workers' randomness.
    """
    stops = ["step:4:SIGTERM", "step:9:SIGKILL", "eval:12:SIGINT", "step:16:SIGKILL"]
    flags: list[tuple[object, ...]] = [("--workers", 2), ("--workers", 0), ("--workers", 1)]
    stopped_and_resumed(zygote, tmp_path, stops, flags)
    assert_as_if_never_stopped(straight, tmp_path)


def test_killed_while_saving(zygote: Zygote, straight: Path, tmp_path: Path) -> None:
    """Killed in the middle of a commit, at one fsync after another, the run loses nothing."""
    draw = random.Random(SEED)
    stops = [f"fsync:{draw.randint(3, 40)}:SIGKILL" for _ in range(6)]
    for stop in stops:
        done = attempt(zygote, tmp_path, stop=stop)
        assert done.code in (0, -9), f"seed {SEED}, {stop}: {done}"
    done = attempt(zygote, tmp_path)
    assert done.code == 0, f"seed {SEED}, {stops}: {done}"
    assert_same_run(straight / "run", tmp_path / "run")
    left = [path.name for path in (tmp_path / "run/checkpoints").iterdir() if path.name[0] == "."]
    assert left == []


def test_killed_from_outside(zygote: Zygote, straight: Path, tmp_path: Path) -> None:
    """Killed by somebody else, at whatever time that falls, the run ends as the straight one."""
    draw = random.Random(SEED)
    for name in ("SIGKILL", "SIGTERM", "SIGKILL", "SIGINT", "SIGKILL"):
        env = {"TEST_DUMP": str(tmp_path / "dump.json")}
        started = zygote.start("exact.py", *FLAGS, *QUIET, cwd=tmp_path, env=env)
        time.sleep(draw.uniform(0.02, 0.2))
        try:
            os.kill(started.pid, signal.Signals[name])
        except ProcessLookupError:
            pass  # it was faster
        done = started.wait()
        # Before training a signal does what it always does; after the end nothing.
        assert done.code in (0, 130, 143, -9, -15, -2), f"seed {SEED}: {done}"
    done = attempt(zygote, tmp_path)
    assert done.code == 0, f"seed {SEED}: {done}"
    assert_same_run(straight / "run", tmp_path / "run")


@pytest.mark.parametrize(
    ("broken", "path"),
    [("position", "state.model"), ("left out", "state.model")],
)
def test_negative_control(
    zygote: Zygote, straight: Path, tmp_path: Path, broken: str, path: str
) -> None:
    """The comparison fails where the position is not restored, or an object is not saved."""
    assert attempt(zygote, tmp_path, stop="step:9:SIGTERM", broken=broken).code == 143
    assert attempt(zygote, tmp_path, broken=broken).code == 0
    state, other = checkpoint(straight / "run")[1], checkpoint(tmp_path / "run")[1]
    assert any(difference.startswith(f".{path}") for difference in differing(state, other))
    assert points(straight / "run") != points(tmp_path / "run")


def test_extended_run(zygote: Zygote, straight: Path, tmp_path: Path) -> None:
    """A finished run started with a larger --max-epochs ends as one that was longer from the start.

    Traps: a finished run cannot be extended (PI), or trains one more step at each start (HE).
    """
    shorter = ("--max-epochs", 2)
    assert attempt(zygote, tmp_path, *shorter).code == 0
    name, state = checkpoint(tmp_path / "run")
    again = zygote.run("exact.py", *FLAGS, *shorter, "--no-mlflow", cwd=tmp_path)
    assert again.code == 0, again
    assert "is complete: iteration 12, epoch 2" in again.out
    assert "epoch 2/2" not in again.out  # no line of training
    assert differing(checkpoint(tmp_path / "run"), (name, state)) == []
    stopped_and_resumed(zygote, tmp_path, ["step:14:SIGKILL", "step:15:SIGTERM"])
    assert_as_if_never_stopped(straight, tmp_path)


def history(database: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Of each MLflow run its points as (key, step, value), sorted; without measured times."""
    with sqlite3.connect(database) as connection:
        runs = [row[0] for row in connection.execute("select run_uuid from runs")]
        query = (
            "select key, step, value from metrics where run_uuid = ? and key not like 'perf/%' "
            "order by key, step, value"
        )
        found = {run: list(connection.execute(query, (run,))) for run in runs}
    connection.close()
    return found


def statuses(database: Path) -> dict[str, str]:
    """The status of each MLflow run."""
    with sqlite3.connect(database) as connection:
        found = dict(connection.execute("select run_uuid, status from runs").fetchall())
    connection.close()
    return found


@pytest.mark.slow
def test_mlflow_history(tmp_path: Path) -> None:
    """One MLflow run over all attempts, each point once, its status true after each of them.

    In fresh interpreters. Traps: a new MLflow run at each resume
    (Lightning#6205), FINISHED after an interrupt (PI).
    """
    flags = (*FLAGS, "--mlflow-tracking-uri", f"sqlite:///{tmp_path}/m.db")
    database = tmp_path / "m.db"
    cwd, other = tmp_path / "stopped", tmp_path / "straight"
    cwd.mkdir()
    other.mkdir()
    seen = []
    for stop, code in (("step:8:SIGTERM", 143), ("step:17:SIGKILL", -9), ("", 0)):
        dump_to = str(cwd / "dump.json")
        env = {"TEST_STOP": stop, "TEST_DUMP": dump_to, "TEST_PATIENCE": "60"}
        done = run_fresh("exact.py", *flags, cwd=cwd, env=env)
        assert done.code == code, done
        seen.append(list(statuses(database).values()))
    assert seen[0] == ["KILLED"]
    assert seen[2] == ["FINISHED"]
    (stopped_run,) = history(database)
    assert dump(cwd)["mlflow_run_id"] == stopped_run
    done = run_fresh("exact.py", *flags, cwd=other, env={"TEST_DUMP": str(other / "dump.json")})
    assert done.code == 0, done
    found = history(database)
    assert len(found) == 2
    stopped, straight = found.pop(stopped_run), next(iter(found.values()))
    assert stopped == straight
    assert len({(key, step) for key, step, _ in stopped}) == len(stopped) > 0
    logged = [(step, key, repr(value)) for key, step, value in stopped]
    assert sorted(logged) == points(cwd / "run")
    assert_same_run(other / "run", cwd / "run")


@pytest.mark.slow
def test_workers_do_not_delay_the_end(tmp_path: Path) -> None:
    """With workers, a tracked run ends as soon as its values are sent, not when patience does."""
    env = {"TEST_STOP": "step:3:SIGTERM", "TEST_PATIENCE": "30"}
    store = ("--mlflow-tracking-uri", f"sqlite:///{tmp_path}/m.db")
    began = time.monotonic()
    done = run_fresh("exact.py", *FLAGS, *store, "--workers", 1, cwd=tmp_path, env=env)
    assert done.code == 143, done
    assert time.monotonic() - began < 30
