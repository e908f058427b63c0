"""Sending one run to MLflow: what is sent, in which order, and what is remembered of it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from igniter import yamlfile
from igniter.rundir import Attempt, Paths, RunRecord
from igniter.secrets import mask_mapping, mask_uri
from igniter.tracking.failures import Refused, RunGone, Unavailable
from igniter.tracking.names import MAX_METRICS, Point, worth_keeping
from igniter.tracking.records import Record, read
from igniter.tracking.state import State, start_of_unsent

if TYPE_CHECKING:
    from igniter.tracking.mlflow_run import MlflowRun

# Set before mlflow is imported. Its own defaults would wait 247 s for a server that is down.
_MLFLOW_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

_STATUS = {
    "running": "KILLED",
    "completed": "FINISHED",
    "interrupted": "KILLED",
    "failed": "FAILED",
}


class Sender:
    """Sends the journal and the record of one run to the MLflow at ``uri``.

    Only one process at a time may send a run (see :mod:`igniter.tracking.sync`). Every method
    raises :class:`Unavailable` when MLflow cannot be reached: calling it again goes on from where
    it stopped, and nothing is sent that MLflow would keep twice.
    """

    def __init__(self, paths: Paths, uri: str, warn: Callable[[str], None]) -> None:
        """``uri`` is what to connect to, credentials included."""
        self._paths = paths
        self._uri = uri
        self._warn = warn
        self._run: MlflowRun | None = None
        self._state = State.load(paths.tracking).at(mask_uri(uri))

    def send(self, record: RunRecord, *, live: bool) -> int:
        """Send all that MLflow lacks; return how many metric values that were.

        A ``live`` run, one that is being trained, is shown as running.
        """
        try:
            sent = self._send(record, live)
        except RunGone as gone:
            self._warn(f"the MLflow run {gone} was deleted: the run is sent again as a new one")
            self._run = None
            self._open(record, replaces=str(gone))
            sent = self._send(record, live)
        except Refused as refused:
            raise Unavailable(str(refused)) from refused
        if self._state.destination.problem is not None:
            self._remember(problem=None)
        return sent

    def end(self, record: RunRecord) -> None:
        """Set MLflow's final status. A run still recorded as running was killed."""
        try:
            run = self._open(record)
            # Not called run.yaml: a directory that holds one is a run to `igniter runs`.
            run.log_text(yamlfile.dump(mask_mapping(dataclasses.asdict(record))), "run-record.yaml")
            run.set_ended(_STATUS[record.status], _ended(record, self._paths.journal))
        except (Refused, RunGone) as error:
            raise Unavailable(str(error)) from error

    def note_problem(self, problem: str) -> None:
        """Remember why nothing could be sent, where that is new; connect afresh the next time."""
        self._run = None
        if self._state.destination.problem == problem:
            return
        self._warn(problem)
        try:
            self._remember(problem=problem)
        except Unavailable as error:
            self._warn(str(error))

    def _send(self, record: RunRecord, live: bool) -> int:
        fresh = self._run is None
        run = self._open(record)
        attempt = record.attempts[-1]
        if self._state.destination.attempt != attempt.number:
            self._describe(run, record, attempt)
        if fresh and live:
            run.set_running()
        return self._send_journal(run)

    def _open(self, record: RunRecord, replaces: str | None = None) -> MlflowRun:
        if self._run is not None:
            return self._run
        for name, value in _MLFLOW_DEFAULTS.items():
            os.environ.setdefault(name, value)
        try:
            from igniter.tracking import mlflow_run
        except Exception as error:  # a broken installation fails in any way while it loads
            raise Unavailable(f"mlflow cannot be imported: {error}") from error
        tracking = record.tracking or {}
        tags = _tags(record, self._paths.root)
        if replaces is not None:
            tags["igniter.replaces"] = replaces
        self._run = mlflow_run.open_run(
            self._uri,
            run_id=None if replaces else self._state.destination.run_id,
            experiment=tracking.get("experiment_name") or record.name,
            name=tracking.get("run_name") or record.name,
            start=_milliseconds(record.attempts[0].start),
            creation_key=_creation_key(record),
            tags=tags,
            warn=self._warn,
        )
        if self._run.run_id != self._state.destination.run_id:
            self._remember(run_id=self._run.run_id, offset=0, attempt=0)
        return self._run

    def _describe(self, run: MlflowRun, record: RunRecord, attempt: Attempt) -> None:
        parameters = worth_keeping(mask_mapping(record.parameters))
        changed = run.log_parameters(parameters)
        tags = _tags(record, self._paths.root)
        for name, value in changed.items():
            tags[f"igniter.attempt.{attempt.number}.{name}"] = value
        run.set_tags(tags)
        run.log_text(yamlfile.dump(parameters), "config.yaml")
        self._remember(attempt=attempt.number)

    def _send_journal(self, run: MlflowRun) -> int:
        journal = self._paths.journal
        _make_durable(journal)
        sent = 0
        batch: list[Record] = []
        size = 0
        for record in read(journal, start_of_unsent(journal, self._state.destination.offset)):
            if batch and size + len(record.metrics) > MAX_METRICS:
                sent += self._send_batch(run, batch)
                batch, size = [], 0
            batch.append(record)
            size += len(record.metrics)
        if batch:
            sent += self._send_batch(run, batch)
        return sent

    def _send_batch(self, run: MlflowRun, batch: list[Record]) -> int:
        # A repeat differs from a value that MLflow has: a second point at the same iteration.
        points = [
            Point(name, value, record.time, record.iteration)
            for record in batch
            if not record.repeat
            for name, value in record.metrics.items()
        ]
        run.log_points(points)
        # Dying before this line sends the batch again: exact repeats, which MLflow keeps once.
        self._remember(offset=batch[-1].end)
        return len(points)

    def _remember(self, **changes: object) -> None:
        self._state = self._state.with_changes(**changes)
        try:
            self._state.save(self._paths.tracking)
        except OSError as error:
            raise Unavailable(f"{self._paths.tracking}: {error.strerror}") from error


def _make_durable(journal: Path) -> None:
    """Fsync the journal: a value that MLflow has and a power cut takes would be sent anew."""
    try:
        fd = os.open(journal, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _milliseconds(time: str) -> int:
    """An ISO-8601 time in ms since 1970."""
    return round(datetime.fromisoformat(time).timestamp() * 1000)


def _ended(record: RunRecord, journal: Path) -> int:
    """When the run ended, in ms since 1970: where it was killed, at the last sign of life."""
    begun, end = record.attempts[0].start, record.attempts[-1].end
    if end is not None:
        ended = _milliseconds(end)
    elif journal.exists():
        ended = int(journal.stat().st_mtime * 1000)
    else:
        ended = _milliseconds(record.attempts[-1].start)
    # The clock may have been set back in between.
    return max(ended, _milliseconds(begun))


def _creation_key(record: RunRecord) -> str:
    first = record.attempts[0]
    born = f"{record.identity}|{first.start}|{first.host}|{first.pid}"
    return hashlib.sha256(born.encode()).hexdigest()[:32]


def _tags(record: RunRecord, root: Path) -> dict[str, str]:
    attempt = record.attempts[-1]
    tags = {
        "mlflow.source.name": record.script,
        "mlflow.source.type": "LOCAL",
        "igniter.identity": record.identity,
        "igniter.run_dir": str(root.absolute()),
        "igniter.host": attempt.host,
        "igniter.attempts": str(len(record.attempts)),
        "igniter.resume_command": attempt.resume_command,
    }
    if attempt.git_commit:
        tags["mlflow.source.git.commit"] = attempt.git_commit
    return tags
