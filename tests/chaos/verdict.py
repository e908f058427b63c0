"""What is wrong with an exit, or with what a run that completed has left behind."""

from __future__ import annotations

import fcntl
import json
import signal
import sqlite3
from pathlib import Path
from typing import Any

from support import checkpoint, differing, points

from chaos import plans
from chaos.strikes import Made
from igniter.tracking.records import read

_SHOWN = 5
_WITHIN_TRAINING = (plans.TRAINING, plans.SAVING, plans.EVALUATING)


def of_an_exit(code: int, made: list[Made], status: str, newest: int) -> list[str]:
    """What is wrong with an exit code, and with what was saved.

    ``status`` is the run's, ``newest`` the iteration of its newest checkpoint.
    """
    stops = [one for one in made if one.strike.kind in plans.STOPS]
    allowed = {0} if status == "completed" else set()
    for one in stops:
        allowed |= _codes(one)
    single = len(stops) == 1 and stops[0].single and stops[0].strike.kind != plans.KILL_WORKER
    in_training = single and stops[0].moment in _WITHIN_TRAINING and not _kills(stops[0])
    # The second of two equal signals may come when all is recorded and there is only the end left.
    if in_training and (stops[0].strike.kind != plans.TWICE or status == "running"):
        # Training looks up at the next safe point, and may complete first; nothing else.
        allowed -= {code for code in allowed if code < 0}
    wrong = []
    if code not in allowed:
        wrong.append(f"exit {code}, where {sorted(allowed)} is right, the run being {status}")
    if code > 128 and single and newest < stops[0].iteration:
        wrong.append(f"exit {code} at {stops[0].iteration}, but {newest} is the newest checkpoint")
    return wrong


def _kills(one: Made) -> bool:
    return signal.SIGKILL in one.strike.signals


def _codes(one: Made) -> set[int]:
    kind = one.strike.kind
    if kind == plans.KILL_WORKER:
        return {1}
    numbers = (signal.SIGHUP,) if kind == plans.HANG_UP else one.strike.signals
    caught = {128 + number for number in numbers if number != signal.SIGKILL}
    return caught | {-number for number in numbers}


def differences(straight: Path, stopped: Path) -> list[str]:
    """How the run in ``stopped`` differs from the straight one, and what it left that it must not.

    Both are folders with ``run`` and ``result.json``.
    """
    wrong = []
    ours, theirs = stopped / "run", straight / "run"
    (name, state), (other_name, other_state) = checkpoint(ours), checkpoint(theirs)
    if name != other_name:
        wrong.append(f"it ends with {name}, not {other_name}")
    wrong += [f"{path} differs" for path in differing(other_state, state)[:_SHOWN]]
    try:
        logged, expected = points(ours), points(theirs)
    except AssertionError as divergence:
        return [*wrong, str(divergence)]
    if logged != expected:
        only = [point for point in logged if point not in expected]
        lacking = [point for point in expected if point not in logged]
        wrong.append(
            f"the journal has {len(logged)} points for {len(expected)}; not to be there: "
            f"{only[:_SHOWN]}, lacking: {lacking[:_SHOWN]}"
        )
    exported = [_exported(ours), _exported(theirs)]
    if exported[0] != exported[1] or not exported[1]:
        wrong.append("the exported model differs")
    returned, straightly = (_json(folder / "result.json") for folder in (stopped, straight))
    if returned["best"] is None:  # not followed in this round
        straightly["best"] = None
    if returned != straightly:
        wrong.append(f"train returned {returned}, not {straightly}")
    return wrong + left_over(ours) + _of_the_record(ours)


def _exported(run_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run_dir.glob("model/*.safetensors")}


def left_over(run_dir: Path) -> list[str]:
    """What a run's directory must not hold when nobody is at work in it."""
    endings = (".part", ".removed", ".replaced")
    wrong = [f"{p} is left over" for p in run_dir.rglob(".*") if p.name.endswith(endings)]
    wrong += [f"{path} was found damaged" for path in run_dir.glob("checkpoints/damaged-*")]
    if not (run_dir / "journal.jsonl").read_bytes().endswith(b"\n"):
        wrong.append("the journal's last line is torn")
    lock = run_dir / "run.lock"
    with lock.open("r+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wrong.append("the lock is still held")
        if file.read():
            wrong.append("the lock still names its holder")
    return wrong


def _of_the_record(run_dir: Path) -> list[str]:
    from igniter.rundir import Paths, RunRecord

    record = RunRecord.load(Paths(run_dir).run_yaml)
    begun = [attempt.from_iteration for attempt in record.attempts]
    wrong = []
    if begun != sorted(begun):
        wrong.append(f"progress was lost: the attempts began at {begun}")
    if record.status != "completed" or record.iteration != record.total_iterations:
        wrong.append(f"the record says {record.status} at iteration {record.iteration}")
    return wrong


def send_the_rest(run_dir: Path) -> None:
    """What the words at the end tell the user to do where MLflow lacks values."""
    from igniter.tracking.state import State, count_unsent
    from igniter.tracking.sync import sync_run

    offset = State.load(run_dir / "tracking.json").destination.offset
    if count_unsent(run_dir / "journal.jsonl", offset):
        sync_run(run_dir)


def of_mlflow(run_dir: Path, database: Path) -> list[str]:
    """What is wrong with the run in MLflow: one run, finished, each point of the journal once."""
    connection = sqlite3.connect(database)
    try:
        runs = connection.execute("select run_uuid, status from runs").fetchall()
        stored = connection.execute("select step, key, value from metrics").fetchall()
    finally:
        connection.close()
    journal = [
        (record.iteration, name, repr(value))
        for record in read(run_dir / "journal.jsonl")
        if not record.repeat
        for name, value in record.metrics.items()
    ]
    wrong = []
    if [status for _, status in runs] != ["FINISHED"]:
        wrong.append(f"MLflow's runs are {runs}")
    if sorted((step, key, repr(value)) for step, key, value in stored) != sorted(journal):
        wrong.append(f"MLflow has {len(stored)} points, the journal {len(journal)}")
    return wrong


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
