"""Sending one run to MLflow: what is sent, in which order, and what is remembered of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from igniter.atomic import PART
from igniter.rundir import Attempt, Paths, RunRecord
from igniter.secrets import mask_mapping
from igniter.tracking import description, membership, transport
from igniter.tracking.failures import Refused, RunGone, Unavailable
from igniter.tracking.names import MAX_METRICS, Point, worth_keeping
from igniter.tracking.place import Place
from igniter.tracking.records import Record, read
from igniter.tracking.state import State, start_of_unsent
from igniter.tracking.uploads import Uploads

if TYPE_CHECKING:
    from igniter.tracking.mlflow_run import MlflowRun


@dataclass(frozen=True)
class Listener:
    """Who is told of the sending: lines for people, and how many values were sent so far.

    ``go_on`` is asked before each portion; where it says no, the sending breaks off.
    """

    warn: Callable[[str], None]
    progress: Callable[[int], None] = lambda sent: None
    go_on: Callable[[], bool] = lambda: True


class Sender:
    """Sends the journal, the record and the files of one run to the MLflow at ``place``.

    Only one process at a time may send a run (see :mod:`igniter.tracking.sync`). Every method
    raises :class:`Unavailable` when MLflow cannot be reached: calling it again goes on from where
    it stopped, and nothing is sent that MLflow would keep twice. ``sent`` counts the values sent.
    """

    def __init__(self, paths: Paths, place: Place, listener: Listener) -> None:
        self._paths = paths
        self._place = place
        self._listener = listener
        self._said: set[str] = set()
        self._run: MlflowRun | None = None
        for left in paths.root.glob(f".{paths.tracking.name}.*{PART}"):
            left.unlink(missing_ok=True)  # by a sender that was killed while it wrote
        self._saved = State.load(paths.tracking)
        self._state = self._saved.at(place.key)
        self._uploads = Uploads(paths, listener.go_on)
        self._timeout = transport.TIMEOUT_SECONDS
        self.sent = 0

    def send(self, record: RunRecord, *, live: bool) -> bool:
        """Send all that MLflow lacks; return whether that was done, and not broken off.

        A ``live`` run, one that is being trained, is shown as running.
        """
        try:
            try:
                return self._send(record, live)
            except RunGone as gone:
                self._warn(f"{gone}: the run is sent again as a new one")
                self._run = None
                self._open(record, replaces=gone.run_id)
                return self._send(record, live)
        except (Refused, RunGone) as error:
            raise Unavailable(str(error)) from error

    def end(self, record: RunRecord) -> None:
        """Set MLflow's final status. A run still recorded as running was killed."""
        try:
            run = self._open(record)
            ended = description.ended(record, self._paths.journal)
            run.set_tags(description.checkpoint_tags(Paths.of(self._paths.root, record), record))
            run.set_ended(description.final_status(record), ended)
        except (Refused, RunGone) as error:
            raise Unavailable(str(error)) from error

    def note_problem(self, problem: str) -> None:
        """Remember why nothing could be sent; connect afresh the next time, more patiently."""
        self._run = None
        self._timeout = min(2 * self._timeout, transport.LONGEST_TIMEOUT_SECONDS)
        if problem != self._state.destination.problem:
            self._said.discard(problem)  # it comes back after something else: that is news
        self._note(problem)

    def _note(self, problem: str | None) -> None:
        if problem is not None:
            self._warn(problem)
        try:
            self._remember(problem=problem)
        except Unavailable as error:
            self._warn(str(error))

    def _send(self, record: RunRecord, live: bool) -> bool:
        fresh = self._run is None
        run = self._open(record)
        attempt = record.attempts[-1]
        if self._state.destination.attempt != attempt.number:
            self._describe(run, record, attempt)
        if fresh and live:
            run.set_running()
        done = self._send_journal(run)
        stored = self._state.destination.artifacts
        self._uploads.send(run, record, stored, self._remember_artifacts, ended=not live)
        self._note(self._uploads.problem)
        return done

    def _open(self, record: RunRecord, replaces: str | None = None) -> MlflowRun:
        if self._run is not None:
            return self._run
        known = None if replaces else self._state.destination.run_id
        run = membership.open_run(
            record,
            self._paths.root,
            self._place,
            self._warn,
            known=known,
            replaces=replaces,
            timeout=self._timeout,
        )
        if known is None:
            self._remember(run_id=run.run_id, offset=0, attempt=0, artifacts={})
        self._run = run
        return run

    def _describe(self, run: MlflowRun, record: RunRecord, attempt: Attempt) -> None:
        changed = run.log_parameters(worth_keeping(mask_mapping(record.parameters)))
        tags = description.tags(record, self._paths.root)
        if not run.owned:
            tags = {name: value for name, value in tags.items() if not name.startswith("mlflow.")}
        tags |= description.given_tags(record)
        for name, value in changed.items():
            tags[f"igniter.attempt.{attempt.number}.{name}"] = value
        run.set_tags(tags)
        run.log_data_sets(description.data_sets(record))
        self._remember(attempt=attempt.number)

    def _send_journal(self, run: MlflowRun) -> bool:
        """Send what the journal holds beyond the cursor; whether that is all."""
        journal = self._paths.journal
        start = start_of_unsent(journal, self._state.destination.offset)
        if not _make_durable(journal, start):
            return True
        batch: list[Record] = []
        size = 0
        for record in read(journal, start):
            if batch and size + len(record.metrics) > MAX_METRICS:
                if not self._send_batch(run, batch):
                    return False
                batch, size = [], 0
            batch.append(record)
            size += len(record.metrics)
        return not batch or self._send_batch(run, batch)

    def _send_batch(self, run: MlflowRun, batch: list[Record]) -> bool:
        if not self._listener.go_on():
            return False
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
        self.sent += len(points)
        self._listener.progress(self.sent)
        return True

    def _remember_artifacts(self, stored: Mapping[str, str]) -> None:
        self._remember(artifacts=dict(stored))

    def _remember(self, **changes: object) -> None:
        self._state = self._state.with_changes(**changes)
        if self._state == self._saved:
            return
        try:
            self._state.save(self._paths.tracking)
        except OSError as error:
            raise Unavailable(f"{self._paths.tracking}: {error.strerror}") from error
        self._saved = self._state

    def _warn(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._listener.warn(text)


def _make_durable(journal: Path, start: int) -> bool:
    """Fsync the journal if there is anything beyond ``start``; return whether there is.

    A value that MLflow has and a power cut takes from the journal would be sent anew.
    """
    try:
        fd = os.open(journal, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        if os.fstat(fd).st_size <= start:
            return False
        os.fsync(fd)
        return True
    finally:
        os.close(fd)
