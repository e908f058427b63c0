"""One MLflow run: the only module that imports mlflow, and never in the process that trains.

Everything goes through ``MlflowClient`` with a run id. The fluent API (``mlflow.log_metric``) keeps
the run in a thread-local and ends it by itself, often with the wrong status.

What mlflow raises becomes :class:`Unavailable`, :class:`Refused` or :class:`RunGone`.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from igniter.secrets import mask_uri
from igniter.tracking.failures import Refused, RunGone, Unavailable
from igniter.tracking.names import (
    MAX_METRICS,
    MAX_PARAMETERS,
    MAX_TAG_VALUE,
    Point,
    batches,
    flat,
    legal,
)
from igniter.tracking.uri import sqlite_path

CREATION_KEY = "igniter.creation_key"

_FINAL = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST"}

T = TypeVar("T")


class MlflowRun:
    """A run on a tracking server or in a database."""

    def __init__(self, client: MlflowClient, run_id: str, warn: Callable[[str], None]) -> None:
        """Use :func:`open_run`."""
        self._client = client
        self._warn = warn
        self.run_id = run_id

    def log_points(self, points: Sequence[Point]) -> None:
        """Send ``points``; any that MLflow refuses is left out with a warning."""
        metrics = [Metric(legal(p.name), p.value, p.time, p.iteration) for p in points]
        for batch in batches(metrics, MAX_METRICS):
            self._send(
                batch,
                lambda part: self._client.log_batch(self.run_id, metrics=part, synchronous=True),
            )

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set ``tags``, over what is there."""
        made = [RunTag(legal(name), value[:MAX_TAG_VALUE]) for name, value in tags.items()]
        for batch in batches(made, MAX_PARAMETERS):
            self._send(
                batch, lambda part: self._client.log_batch(self.run_id, tags=part, synchronous=True)
            )

    def log_parameters(self, parameters: Mapping[str, object]) -> dict[str, str]:
        """Send the parameters that the run lacks; return those it holds with another value.

        MLflow never changes a parameter, and drops the whole batch that one such came in.
        """
        wanted = flat(parameters)
        with _translated():
            stored = self._client.get_run(self.run_id).data.params
        missing = [Param(name, value) for name, value in wanted.items() if name not in stored]
        for batch in batches(missing, MAX_PARAMETERS):
            self._send(
                batch,
                lambda part: self._client.log_batch(self.run_id, params=part, synchronous=True),
            )
        return {n: v for n, v in wanted.items() if n in stored and stored[n] != v}

    def log_text(self, text: str, name: str) -> None:
        """Store ``text`` as the artifact ``name``. A failure is only a warning."""
        try:
            self._client.log_text(self.run_id, text, name)
        except Exception as error:  # the artifact store is a third party of its own: S3, GCS, …
            self._warn(f"the artifact {name} could not be stored: {mask_uri(str(error))}")

    def set_running(self) -> None:
        """Show the run as running, whether it is new or was ended before."""
        with _translated():
            self._client.update_run(self.run_id, "RUNNING")

    def set_ended(self, status: str, time: int) -> None:
        """End the run as ``status`` at ``time``, in ms since 1970, if it has not."""
        with _translated():
            info = self._client.get_run(self.run_id).info
            if (info.status, info.end_time) != (status, time):
                self._client.set_terminated(self.run_id, status, time)

    def _send(self, items: Sequence[T], send: Callable[[Sequence[T]], object]) -> None:
        try:
            with _translated():
                send(items)
        except Refused as refused:
            # A deleted run refuses everything, as bad a request as a bad value.
            if not _is_active(self._client, self.run_id):
                raise RunGone(self.run_id) from None
            if len(items) == 1:
                self._warn(f"MLflow refused {items[0]}, which is left out: {refused}")
                return
            middle = len(items) // 2
            self._send(items[:middle], send)
            self._send(items[middle:], send)


def open_run(
    uri: str,
    *,
    run_id: str | None,
    experiment: str,
    name: str,
    start: int,
    creation_key: str,
    tags: Mapping[str, str],
    warn: Callable[[str], None],
) -> MlflowRun:
    """Return the run ``run_id``, or else the one that bears ``creation_key``, or else a new one.

    The key finds a run whose id was never written down. ``tags`` are those of a new run, ``start``
    its start in ms since 1970.

    Raises:
        RunGone: ``run_id`` was deleted.
        Unavailable: the store cannot be reached or cannot be used.
    """
    client = _connect(uri)
    if run_id is not None:
        if not _is_active(client, run_id):
            raise RunGone(run_id)
        return MlflowRun(client, run_id, warn)
    with _translated():
        experiment_id = _experiment(client, uri, experiment)
        found = client.search_runs(
            [experiment_id], f"tags.`{CREATION_KEY}` = '{creation_key}'", max_results=1
        )
        if found:
            return MlflowRun(client, found[0].info.run_id, warn)
        all_tags = {**resolve_tags(), **tags, CREATION_KEY: creation_key}
        created = client.create_run(
            experiment_id,
            start_time=start,
            tags={key: value[:MAX_TAG_VALUE] for key, value in all_tags.items()},
            run_name=name,
        )
    return MlflowRun(client, created.info.run_id, warn)


def _connect(uri: str) -> MlflowClient:
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with _translated(), _first_use(uri):
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    return client


@contextmanager
def _first_use(uri: str) -> Iterator[None]:
    """Let one process at a time open a sqlite database: the migration survives no company."""
    database = sqlite_path(uri)
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(os.path.realpath(database).encode()).hexdigest()[:16]
    lock = Path(tempfile.gettempdir()) / f"igniter-mlflow-{os.getuid()}-{key}.lock"
    with lock.open("a") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def _experiment(client: MlflowClient, uri: str, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        database = sqlite_path(uri)
        # By default MLflow would take the working directory of whichever process comes first.
        location = None if database is None else str(database.parent / "mlruns")
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            experiment = client.get_experiment_by_name(name)  # another process was faster
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise Unavailable(
            f"the MLflow experiment {name!r} was deleted. Restore it (mlflow experiments restore "
            f"--experiment-id {experiment.experiment_id}) or give --mlflow-experiment-name"
        )
    return str(experiment.experiment_id)


def _is_active(client: MlflowClient, run_id: str) -> bool:
    try:
        with _translated():
            return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except Refused:
        return False


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what mlflow and the libraries under it raise into this package's failures."""
    try:
        yield
    except (Unavailable, Refused, RunGone):
        raise
    except MlflowException as error:
        text = mask_uri(str(error))
        if error.error_code in _FINAL:
            raise Refused(text) from error
        raise Unavailable(text) from error
    except Exception as error:  # requests, sqlalchemy, sqlite3, OSError: whatever the store uses
        raise Unavailable(mask_uri(f"{type(error).__name__}: {error}")) from error
