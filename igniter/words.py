"""What a run says of itself: its first line and its last."""

from __future__ import annotations

from collections.abc import Sequence

from igniter.attempt import AttemptOutcome
from igniter.cadence import Length
from igniter.errors import IgniterError
from igniter.opening import Opened
from igniter.reporting import at_a_glance
from igniter.result import Result
from igniter.rundir import RunRecord
from igniter.tracking.display import Display, summary


def starting(opened: Opened, length: Length, display: Display, more: Sequence[str]) -> None:
    """Say which run this is, what it goes on from, and where its files are; then ``more``."""
    done, record = opened.iteration, opened.record
    attempt = record.attempts[-1].number
    if opened.loaded is None:
        position = f"begins at iteration 1 of {length.total}"
    elif done >= length.total:
        position = f"is at iteration {done}, and is to have {length.total}: it completes"
    else:
        position = (
            f"resumes at iteration {done + 1} of {length.total} "
            f"from {opened.loaded.checkpoint.path.name}"
        )
    display.start(
        f"run {record.name}, attempt {attempt}: {position}; files in {opened.paths.root}",
        run=record.name,
        identity=record.identity,
        attempt=attempt,
        directory=str(opened.paths.root),
        resumed_from=None if opened.loaded is None else str(opened.loaded.checkpoint.path),
        iteration=done,
        total=length.total,
    )
    for line in more:
        display.say(line)


def already_complete(opened: Opened, length: Length, display: Display) -> None:
    """Say that there is nothing to do, and how to go further."""
    record = opened.record
    display.end(
        f"run {record.name} is complete: {_position(record, length)}\n"
        f"files in {opened.paths.root}; to train on, give a larger --max-epochs",
        status="completed",
        iteration=record.iteration,
        epoch=record.epoch,
        metrics=record.metrics,
        directory=str(opened.paths.root),
    )


def failed(error: Exception, iteration: int, standing: str, display: Display) -> None:
    """Say where training failed and what there is to go on from; the error itself follows."""
    display.close()
    if not isinstance(error, IgniterError):
        where = ", ".join([type(error).__name__, *getattr(error, "__notes__", ())])
        display.warn(
            f"training failed after iteration {iteration} ({where}). {standing} "
            "Once the cause is mended, the same command goes on"
        )


def ending(
    opened: Opened, result: Result, length: Length, outcome: AttemptOutcome, display: Display
) -> None:
    """Say how the attempt ended and, last of all, how to go on."""
    display.close()
    _tracking(opened, outcome, display)
    if result.status == "completed":
        how = (
            f"completed: {_position(opened.record, length)}\n"
            f"model in {opened.paths.model}; to train on, give a larger --max-epochs"
        )
    else:
        how = (
            f"stopped by {outcome.reason or 'a request'}; iteration {result.iteration} of "
            f"{length.total} is saved. To go on: {opened.provenance.resume_command}"
        )
    display.end(
        how,
        status=result.status,
        iteration=result.iteration,
        epoch=result.epoch,
        metrics=dict(result.metrics),
        directory=str(result.run_dir),
        mlflow_run_id=result.mlflow_run_id,
    )


def _tracking(opened: Opened, outcome: AttemptOutcome, display: Display) -> None:
    sent, where = outcome.tracking, opened.record.tracking
    if where is None:
        return
    if sent is None:
        display.say(f"nothing was sent to MLflow; to send it: igniter sync {opened.paths.root}")
    elif sent.left:
        why = f" ({sent.problem})" if sent.problem else ""
        display.warn(
            f"MLflow lacks {sent.left} values of this run{why}; they are in the journal. To send "
            f"them: igniter sync {opened.paths.root}"
        )
    elif sent.problem:
        display.warn(f"{sent.problem}. To try again: igniter sync {opened.paths.root}")
    else:
        served = str(where["uri"]).startswith("http")
        how = "" if served else "; to look at it: igniter ui"
        display.say(
            f"MLflow run {sent.run_id} at {where['uri']}{how}",
            mlflow_run_id=sent.run_id,
            tracking_uri=where["uri"],
        )


def _position(record: RunRecord, length: Length) -> str:
    whole_epochs = length.ends_epoch(record.iteration)
    values = summary(at_a_glance(record.metrics, whole_epochs=whole_epochs))
    return f"iteration {record.iteration}, epoch {record.epoch}{f'; {values}' if values else ''}"
