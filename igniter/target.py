"""Where a run is tracked: what is written down of it, and what only the environment may hold."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from igniter.errors import UsageError
from igniter.secrets import mask_uri
from igniter.settings import Settings
from igniter.tracking.uri import DEFAULT_URI, resolve


@dataclass(frozen=True)
class Target:
    """The place of a run's MLflow run.

    ``written`` goes to run.yaml, without credentials; ``environ`` is given to the process that
    sends, and nowhere else.
    """

    written: Mapping[str, str | None]
    environ: Mapping[str, str]


def choose_target(
    settings: Settings, script: Path | None, warn: Callable[[str], None]
) -> Target | None:
    """Where the settings, else the environment, say; None where tracking is off."""
    if not settings.mlflow:
        return None
    given = settings.mlflow_tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    try:
        uri = resolve(given, Path.cwd())
    except UsageError as error:
        warn(f"tracking is off: {error}")
        return None
    experiment = settings.mlflow_experiment_name or os.environ.get("MLFLOW_EXPERIMENT_NAME")
    environ = {"MLFLOW_TRACKING_URI": uri}
    if settings.mlflow_tracking_username:
        environ["MLFLOW_TRACKING_USERNAME"] = settings.mlflow_tracking_username
    return Target(
        written={
            "uri": mask_uri(uri),
            "experiment_name": experiment or (script.stem if script else "run"),
            "run_name": settings.mlflow_run_name,
        },
        environ=environ,
    )
