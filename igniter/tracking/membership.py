"""Which MLflow run is a run's: one of its own, one it was told to join, or a child of another.

A run that was made by somebody else (a parent script, `mlflow run`) is logged into and neither
started nor ended: its status is its owner's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igniter.rundir import RunRecord
from igniter.tracking import description, transport
from igniter.tracking.failures import RunGone, Unavailable
from igniter.tracking.place import Place

if TYPE_CHECKING:
    from igniter.tracking.mlflow_run import MlflowRun


def open_run(
    record: RunRecord,
    root: Path,
    place: Place,
    warn: Callable[[str], None],
    *,
    known: str | None,
    replaces: str | None,
    timeout: int,
) -> MlflowRun:
    """Return the MLflow run, at ``place``, of the run in ``root``.

    ``known`` is its id, if it was opened before; ``replaces`` that of one that was deleted.

    Raises:
        Unavailable: the store cannot be reached, or cannot hold the run.
        RunGone: the run ``known`` was deleted.
    """
    transport.prepare(timeout)
    try:
        from igniter.tracking import mlflow_run, mlflow_store
    except Exception as error:  # a broken installation fails in any way while it loads
        raise Unavailable(f"mlflow cannot be imported: {error}") from error
    uri = place.uri
    client = mlflow_store.connect(uri)
    tracking = record.tracking or {}
    # What it was told to join is an id of the store it was told to be tracked in.
    to_join: str | None = tracking.get("run_id") if place.key == tracking.get("uri") else None
    if known is not None:
        if not mlflow_store.is_active(client, uri, known):
            raise RunGone(known)
        run_id = known
    else:
        run_id = _find(record, root, client, uri, to_join, replaces, warn)
    return mlflow_run.MlflowRun(client, uri, run_id, warn, owned=run_id != to_join)


def _find(
    record: RunRecord,
    root: Path,
    client: Any,
    uri: str,
    to_join: str | None,
    replaces: str | None,
    warn: Callable[[str], None],
) -> str:
    from igniter.tracking import mlflow_store

    tracking = record.tracking or {}
    key = description.creation_key(record)
    parent: str | None = tracking.get("parent_run_id")
    if to_join is not None and replaces is None:
        if mlflow_store.join_run(client, uri, to_join, key):
            return to_join
        # Two runs in one would draw every curve twice.
        warn(f"the MLflow run {to_join} is another run's already: this one becomes a child of it")
        parent = to_join
    tags = {**description.tags(record, root), **description.given_tags(record)}
    if replaces is not None:
        tags["igniter.replaces"] = replaces
    return mlflow_store.find_or_create_run(
        client,
        uri,
        experiment=tracking.get("experiment_name") or record.name,
        name=tracking.get("run_name") or record.name,
        start=description.begun(record),
        creation_key=key,
        tags=tags,
        parent=parent,
    )
