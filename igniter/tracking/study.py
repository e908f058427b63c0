"""The MLflow run of a search, which the runs of its trials are children of.

It is made and ended by a child process: mlflow is not imported where a run may train.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from igniter.target import Target
from igniter.tracking import child, transport
from igniter.tracking.failures import Refused, RunGone, Unavailable, first_line
from igniter.tracking.names import Point

_BEGIN_SECONDS = 60.0  # a database is made first
_END_SECONDS = 15.0


@dataclass(frozen=True)
class Standing:
    """What MLflow is told of a search: its status, and after ``finished`` trials the best one."""

    key: str
    name: str
    status: str = "RUNNING"
    finished: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


def begin(target: Target, standing: Standing) -> str:
    """Find or make the run that bears the key of ``standing``; return its id.

    Raises:
        Unavailable: MLflow cannot be reached, or takes too long.
    """
    process = _start(target, standing)
    try:
        said, failed = process.communicate(timeout=_BEGIN_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Unavailable(f"MLflow took more than {_BEGIN_SECONDS:.0f} s") from None
    if process.returncode != 0:
        lines = failed.decode(errors="replace").strip().splitlines()
        raise Unavailable(lines[-1] if lines else f"exit code {process.returncode}")
    return said.decode().strip().splitlines()[-1]


def end(target: Target, standing: Standing) -> None:
    """Tell MLflow how the search stands; a child that is slow goes on by itself.

    Raises:
        Unavailable: it could not be told.
    """
    problem = child.failure(_start(target, standing, joined=True), _END_SECONDS)
    if problem is not None:
        raise Unavailable(problem)


def _start(target: Target, standing: Standing, *, joined: bool = False) -> subprocess.Popen[bytes]:
    experiment = str(target.written["experiment_name"])
    try:
        return subprocess.Popen(
            child.command("igniter.tracking.study", json.dumps(asdict(standing)), experiment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if joined else subprocess.PIPE,
            env={**os.environ, **target.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # a signal to the terminal's process group is not for it
        )
    except OSError as error:
        raise Unavailable(str(error)) from error


def main(told: str, experiment: str) -> None:
    """In the child: bring MLflow to what it is ``told``, and print the run's id."""
    transport.prepare(transport.TIMEOUT_SECONDS)
    from igniter.tracking import mlflow_run, mlflow_store

    standing = Standing(**json.loads(told))
    uri = os.environ["MLFLOW_TRACKING_URI"]
    now = int(time.time() * 1000)
    try:
        client = mlflow_store.connect(uri)
        run_id = mlflow_store.find_or_create_run(
            client,
            uri,
            experiment=experiment,
            name=standing.name,
            start=now,
            creation_key=standing.key,
            tags={},
        )
        run = mlflow_run.MlflowRun(client, uri, run_id, print)
        points = [Point(name, v, now, standing.finished) for name, v in standing.values.items()]
        run.log_points(points)
        run.set_tags(standing.tags)
        if standing.status == "RUNNING":
            run.set_running()
        else:
            run.set_ended(standing.status, now)
    except (Unavailable, Refused, RunGone) as failure:
        raise SystemExit(first_line(str(failure))) from None
    print(run_id)
