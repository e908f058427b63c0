"""What MLflow keeps of a model, fetched: a checkpoint, or the weights of a logged model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from igniter.errors import RunRefused, UsageError
from igniter.secrets import mask_uri
from igniter.signature import WEIGHTS
from igniter.tracking.artifacts import CHECKPOINTS
from igniter.tracking.failures import Refused, Unavailable
from igniter.tracking.mlflow_store import translated
from igniter.tracking.uri import DEFAULT_URI, resolve, sqlite_path

RUN, MODEL = "runs:/", "models:/"

# A server that is away is waited for a second, not the four minutes of mlflow's own choice.
_QUICK = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def fetch(uri: str, directory: Path, tracking_uri: str | None) -> Path:
    """Download what ``uri`` names into ``directory``; return the folder that it is in.

    Args:
        uri: ``runs:/<run id>`` for the run's checkpoint, the best where MLflow has it, else its
            logged model; ``runs:/<run id>/<path>`` or ``models:/…`` as MLflow has them.
        directory: empty.
        tracking_uri: of the store; ``MLFLOW_TRACKING_URI`` or ``mlflow.db`` here where it is None.

    Raises:
        UsageError: MLflow has nothing there.
        RunRefused: MLflow cannot be reached.
    """
    store = resolve(
        tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI, Path.cwd()
    )
    database = sqlite_path(store)
    if database is not None and not database.exists():
        raise UsageError(
            f"there is no MLflow database {database}; say where it is with tracking_uri=… or in "
            "MLFLOW_TRACKING_URI"
        )
    try:
        with _environment(_QUICK), translated(store):
            # Not the URI itself: mlflow would look for it where the process has its own store.
            place = _place(MlflowClient(store, registry_uri=store), uri)
            path = Path(download_artifacts(place, dst_path=str(directory), tracking_uri=store))
    except Refused as refused:
        raise UsageError(f"MLflow has nothing at {uri}: {refused}") from refused
    except Unavailable as unavailable:
        raise RunRefused(
            f"{uri} cannot be fetched from {mask_uri(store)}: {unavailable}"
        ) from unavailable
    weights = path / WEIGHTS
    return weights if weights.is_dir() else path


def _place(client: MlflowClient, uri: str) -> str:
    """Where the artifacts are that ``uri`` names."""
    if uri.startswith(MODEL):
        return _place_of_model(client, uri.removeprefix(MODEL))
    if not uri.startswith(RUN):
        return uri
    run_id, _, path = uri.removeprefix(RUN).strip("/").partition("/")
    run = client.get_run(run_id)
    folder = path.rpartition("/")[0] if path else CHECKPOINTS
    held = [file.path for file in client.list_artifacts(run_id, folder)]
    if not path:
        preferred = [f"{CHECKPOINTS}/best", f"{CHECKPOINTS}/last", *sorted(held, reverse=True)]
        path = next((checkpoint for checkpoint in preferred if checkpoint in held), "")
    for output in reversed(run.outputs.model_outputs if run.outputs else []):
        model = client.get_logged_model(output.model_id)
        if path in ("", model.name):
            return str(model.artifact_location)
    if path not in held:
        raise Refused(f"the run has no {path or 'checkpoint'} and no logged model of that name")
    return f"{run.info.artifact_uri}/{path}"


def _place_of_model(client: MlflowClient, path: str) -> str:
    """Of ``<id>``, ``<name>/<version>``, ``<name>/latest`` or ``<name>@<alias>``."""
    name, slash, version = path.partition("/")
    if "@" in name:
        name, _, alias = name.rpartition("@")
        version = str(client.get_model_version_by_alias(name, alias).version)
    elif not slash:
        return str(client.get_logged_model(name).artifact_location)
    elif version == "latest":
        found = client.search_model_versions(f"name = '{name}'")
        if not found:
            raise Refused(f"there is no registered model {name!r}")
        version = str(max(int(each.version) for each in found))
    return _place(client, client.get_model_version_download_uri(name, version))


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Have the variables of ``values`` that are not set, meanwhile."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
