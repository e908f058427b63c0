"""One attempt, from its start to its end: recorded in run.yaml, sent to MLflow meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from igniter.opening import Opened, utc_now
from igniter.rundir import Status
from igniter.tracking import shipper
from igniter.tracking.state import Outcome

# How long the end waits for MLflow. A stopped run has the grace of who stops it, often 30 s, to
# keep; the child goes on by itself for a while, and `igniter sync` sends what is left.
_WAIT_SECONDS = {"completed": 30.0, "interrupted": 8.0, "failed": 8.0}


@dataclass
class AttemptOutcome:
    """How the attempt ended; ``tracking`` is None where nothing is tracked."""

    status: Literal["completed", "interrupted"] = "completed"
    reason: str | None = None
    tracking: Outcome | None = None


@contextmanager
def recorded(opened: Opened, warn: Callable[[str], None]) -> Iterator[AttemptOutcome]:
    """Follow the attempt that begins now; whatever ends it is recorded and raised on."""
    outcome = AttemptOutcome()
    child = _start_shipper(opened, warn)
    try:
        yield outcome
    except BaseException as error:
        status: Status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        _end(opened, status, f"{type(error).__name__}: {error}".splitlines()[0], child, warn)
        raise
    outcome.tracking = _end(opened, outcome.status, outcome.reason, child, warn)


def _start_shipper(opened: Opened, warn: Callable[[str], None]) -> shipper.Shipper | None:
    if opened.target is None:
        return None
    try:
        return shipper.start(opened.paths, {**os.environ, **opened.target.environ})
    except OSError as error:
        warn(f"nothing is sent to MLflow while training: {error}; `igniter sync` sends it later")
        return None


def _end(
    opened: Opened,
    status: Status,
    reason: str | None,
    child: shipper.Shipper | None,
    warn: Callable[[str], None],
) -> Outcome | None:
    record = opened.record
    record.end_attempt(status, end=utc_now(), reason=reason)
    if child is not None:
        record.mlflow_run_id = child.run_id()
    _save(opened, warn)
    if child is None:
        return None
    sent = child.finish(_WAIT_SECONDS[status])
    if sent.run_id != record.mlflow_run_id:
        record.mlflow_run_id = sent.run_id
        _save(opened, warn)
    return sent


def _save(opened: Opened, warn: Callable[[str], None]) -> None:
    try:
        opened.record.save(opened.paths.run_yaml)
    except OSError as error:
        # The checkpoint is what the run goes on from; the record says less than it could.
        warn(f"{opened.paths.run_yaml} could not be written: {error}")
