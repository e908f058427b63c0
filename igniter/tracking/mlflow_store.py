"""A connection to MLflow: opened, its errors put into words, the run on it found or made.

What mlflow raises becomes :class:`Unavailable`, :class:`Refused` or :class:`RunGone`.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from igniter.secrets import mask_uri
from igniter.tracking.failures import Refused, RunGone, Unavailable, in_words
from igniter.tracking.names import MAX_NAME, MAX_TAG_VALUE
from igniter.tracking.uri import sqlite_path

CREATION_KEY = "igniter.creation_key"

# What MLflow itself says. A server in between that answers 400 or 404 in words of its own has
# other codes, and says nothing of the run.
_FINAL = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"}


def connect(uri: str) -> MlflowClient:
    """Return a client of the store at ``uri``, which has answered.

    Raises:
        Unavailable: the store cannot be reached or cannot be used.
    """
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    database = sqlite_path(uri)
    if database is not None:
        _check(database)
    try:
        with translated(uri), _first_use(database):
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
    except Refused as refused:
        raise Unavailable(in_words(uri, refused)) from refused
    return client


def find_or_create_run(
    client: MlflowClient,
    uri: str,
    *,
    experiment: str,
    name: str,
    start: int,
    creation_key: str,
    tags: Mapping[str, str],
    parent: str | None = None,
) -> str:
    """Return the id of the run that bears ``creation_key``, or else of a new one.

    A child is in the experiment of its ``parent``, where alone MLflow's pages show it as one.

    The key finds a run whose id was never written down, as when the answer to its creation was
    lost. ``tags`` are those of a new run, ``start`` its start in ms since 1970.

    Raises:
        Unavailable: the store cannot be reached, or cannot hold the run.
    """
    with translated(uri):
        above = None if parent is None else _find_run(client, uri, parent)
        if above is not None:
            experiment_id = str(above.info.experiment_id)
        else:
            experiment_id = _experiment(client, uri, experiment)
        found = client.search_runs(
            [experiment_id], f"tags.`{CREATION_KEY}` = '{creation_key}'", max_results=1
        )
        if found:
            return str(found[0].info.run_id)
        all_tags = {**resolve_tags(), **tags, CREATION_KEY: creation_key}
        if parent is not None:
            all_tags[MLFLOW_PARENT_RUN_ID] = parent
        created = client.create_run(
            experiment_id,
            start_time=start,
            tags={key: value[:MAX_TAG_VALUE] for key, value in all_tags.items()},
            run_name=name[:MAX_NAME],
        )
    return str(created.info.run_id)


def join_run(client: MlflowClient, uri: str, run_id: str, creation_key: str) -> bool:
    """Make a run that somebody else made bear ``creation_key``; whether it does.

    It does not where it bears another run's.

    Raises:
        RunGone: it is not there.
    """
    run = _find_run(client, uri, run_id)
    if run is None:
        raise RunGone(run_id)
    if run.data.tags.get(CREATION_KEY, creation_key) != creation_key:
        return False
    with translated(uri):
        client.set_tag(run_id, CREATION_KEY, creation_key)
    return True


def is_active(client: MlflowClient, uri: str, run_id: str) -> bool:
    """Whether the run is there and not deleted."""
    return _find_run(client, uri, run_id) is not None


def _find_run(client: MlflowClient, uri: str, run_id: str) -> Run | None:
    """The run, None where there is none or it was deleted."""
    try:
        with translated(uri):
            run = client.get_run(run_id)
    except Refused:
        return None
    return run if run.info.lifecycle_stage == "active" else None


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Turn what mlflow and the libraries under it raise into this package's failures."""
    try:
        yield
    except (Unavailable, Refused, RunGone):
        raise
    except Exception as error:  # requests, sqlalchemy, sqlite3, OSError: whatever the store uses
        if isinstance(error, MlflowException) and error.error_code in _FINAL:
            raise Refused(mask_uri(str(error))) from error
        raise Unavailable(in_words(uri, error)) from error


def _check(database: Path) -> None:
    """Say what is wrong with a database's file in better words than those of who opens it."""
    directory = database.parent
    why = None
    if not directory.is_dir():
        why = f"there is no directory {directory}; make it"
    elif database.exists() and not os.access(database, os.R_OK | os.W_OK):
        why = f"{database} cannot be written by this user"
    elif not os.access(directory, os.W_OK | os.X_OK):
        why = f"the directory {directory} cannot be written by this user"
    elif database.is_dir():
        why = f"{database} is a directory"
    elif database.exists() and not _begins_like_sqlite(database):
        why = f"{database} is no sqlite database, or a damaged one; restore it or move it away"
    if why is not None:
        raise Unavailable(f"MLflow's database cannot be used: {why}")


def _begins_like_sqlite(database: Path) -> bool:
    with database.open("rb") as file:
        return file.read(16) in (b"", b"SQLite format 3\0")


@contextmanager
def _first_use(database: Path | None) -> Iterator[None]:
    """Let one process at a time open a sqlite database: the migration survives no company."""
    if database is None:
        yield
        return
    key = hashlib.sha256(os.path.realpath(database).encode()).hexdigest()[:16]
    lock = Path(tempfile.gettempdir()) / f"igniter-mlflow-{os.getuid()}-{key}.lock"
    with lock.open("a") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def _experiment(client: MlflowClient, uri: str, name: str) -> str:
    try:
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
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        raise Unavailable(
            f"MLflow refuses the experiment name {name!r:.100} ({error.message}); give another "
            "with --mlflow-experiment-name"
        ) from error
    if experiment.lifecycle_stage != "active":
        raise Unavailable(
            f"the MLflow experiment {name!r} was deleted. Restore it (mlflow experiments restore "
            f"--experiment-id {experiment.experiment_id}) or give --mlflow-experiment-name"
        )
    return str(experiment.experiment_id)
