"""One attempt, from its start to its end: recorded in run.yaml, sent to MLflow meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from igniter import atomic, environment
from igniter.opening import Opened, utc_now
from igniter.rundir import Status
from igniter.secrets import mask_uri
from igniter.signals import StopSignals
from igniter.tracking import boards, drawer, shipper
from igniter.tracking.state import Outcome

# How long the end waits for MLflow. A stopped run has the grace of who stops it, often 30 s, to
# keep; the child goes on by itself for a while, and `igniter sync` sends what is left.
_WAIT_SECONDS = {"completed": 30.0, "interrupted": 8.0, "failed": 8.0}
# How long it waits for the picture, which takes a second or, with many metrics, a few.
_BOARD_SECONDS = 5.0
_DRAWING_SECONDS = {"completed": 10.0, "interrupted": 1.0, "failed": 1.0}


@dataclass
class AttemptOutcome:
    """How the attempt ended; ``tracking`` is None where nothing is tracked."""

    status: Literal["completed", "interrupted"] = "completed"
    reason: str | None = None
    tracking: Outcome | None = None


@contextmanager
def recorded(
    opened: Opened,
    signals: StopSignals,
    warn: Callable[[str], None],
    *,
    picture: bool,
    tensorboard: bool,
) -> Iterator[AttemptOutcome]:
    """Follow the attempt that begins now; whatever ends it is recorded and raised on.

    ``signals`` are taken until the record is written: one Ctrl-C may arrive twice. From there on,
    while MLflow and the ``picture`` of the metrics are waited for, they do what they always do.
    """
    outcome = AttemptOutcome()
    if opened.target is not None:
        _write_surroundings(opened, warn)
    child = _start_shipper(opened, warn)
    board = boards.start(opened.paths, warn) if tensorboard else None
    status: Status = "failed"
    try:
        with signals:
            try:
                yield outcome
            except BaseException as error:
                status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                reason = mask_uri(f"{type(error).__name__}: {error}".splitlines()[0])
                _record(opened, status, reason, child, warn)
                raise
            status = outcome.status
            _record(opened, status, outcome.reason, child, warn)
    finally:
        if picture:
            # Before the child that sends is let go: it takes the picture along.
            _draw(opened, status, warn)
        if board is not None:
            board.finish(_BOARD_SECONDS, warn)
        if child is not None:
            outcome.tracking = _finish(opened, status, child, warn)


def _write_surroundings(opened: Opened, warn: Callable[[str], None]) -> None:
    """What MLflow is to have of this machine: the process that sends may run on another."""
    paths, record = opened.paths, opened.record
    try:
        atomic.write_text(paths.environment, environment.installed())
        paths.git_diff.unlink(missing_ok=True)
        if not (record.tracking or {}).get("log_git_diff"):
            return
        diff = environment.git_diff(Path(record.script).parent) if record.script else None
        if diff is None:
            warn("no git diff is logged: there is no repository at the script, or too long a diff")
        elif diff:
            atomic.write_text(paths.git_diff, diff)
    except OSError as error:
        warn(f"the attempt's surroundings are not written down: {error}")


def _start_shipper(opened: Opened, warn: Callable[[str], None]) -> shipper.Shipper | None:
    if opened.target is None or opened.target.offline:
        return None
    try:
        return shipper.start(opened.paths, {**os.environ, **opened.target.environ})
    except OSError as error:
        warn(f"nothing is sent to MLflow while training: {error}; `igniter sync` sends it later")
        return None


def _draw(opened: Opened, status: Status, warn: Callable[[str], None]) -> None:
    try:
        drawing = drawer.start(opened.paths)
    except OSError as error:
        warn(f"the metrics are not drawn: {error}")
        return
    drawing.finish(_DRAWING_SECONDS[status], warn)


def _record(
    opened: Opened,
    status: Status,
    reason: str | None,
    child: shipper.Shipper | None,
    warn: Callable[[str], None],
) -> None:
    opened.record.end_attempt(status, end=utc_now(), reason=reason)
    if child is not None:
        opened.record.mlflow_run_id = child.run_id()
    _save(opened, warn)


def _finish(
    opened: Opened, status: Status, child: shipper.Shipper, warn: Callable[[str], None]
) -> Outcome:
    """Let the child end; the record has to hold the final status by now."""
    sent = child.finish(_WAIT_SECONDS[status])
    if sent.run_id != opened.record.mlflow_run_id:
        opened.record.mlflow_run_id = sent.run_id
        _save(opened, warn)
    return sent


def _save(opened: Opened, warn: Callable[[str], None]) -> None:
    try:
        opened.record.save(opened.paths.run_yaml)
    except OSError as error:
        # The checkpoint is what the run goes on from; the record says less than it could.
        warn(f"{opened.paths.run_yaml} could not be written: {error}")
