"""Where a run is tracked: what is written down of it, and what only the environment may hold."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from igniter.errors import UsageError
from igniter.rundir import RunRecord
from igniter.secrets import mask_mapping, mask_uri
from igniter.settings import Settings
from igniter.tracking import place
from igniter.tracking.uri import DEFAULT_URI, resolve


@dataclass(frozen=True)
class Target:
    """The place of a run's MLflow run.

    ``written`` goes to run.yaml, without credentials; ``environ`` is given to the process that
    sends, and nowhere else. Where it is ``offline`` no process sends: `igniter sync` does, later.
    """

    written: Mapping[str, Any]
    environ: Mapping[str, str]
    offline: bool = False


def choose_target(
    settings: Settings,
    script: Path | None,
    root: Path,
    before: RunRecord | None,
    warn: Callable[[str], None],
) -> Target | None:
    """Where to track the run in ``root``: as the settings say, else the environment.

    Where neither does, a run goes on where it was tracked ``before``. None where tracking is off.
    """
    if not settings.mlflow:
        return None
    experiment = settings.mlflow_experiment_name or os.environ.get("MLFLOW_EXPERIMENT_NAME")
    names: dict[str, Any] = {
        **_membership(settings, before, warn),
        "experiment_name": experiment or (script.stem if script else "run"),
        "run_name": settings.mlflow_run_name,
        "register_model": settings.mlflow_register_model,
        "log_checkpoints": settings.mlflow_log_checkpoints,
        "log_git_diff": settings.mlflow_log_git_diff,
        "tags": mask_mapping(settings.tags),
        "description": mask_uri(settings.mlflow_description or "") or None,
    }
    try:
        uri = _place(settings, root, before, warn)
    except UsageError as error:
        warn(f"nothing is sent to MLflow: {error}")
        return Target({"uri": None, **names}, {}, offline=True)
    if settings.mlflow_system_metrics:
        if find_spec("psutil") is None:
            warn("no system metrics: they need psutil, which is not here (pip install psutil)")
        else:
            names["system_metrics"] = True
    environ = {"MLFLOW_TRACKING_URI": uri}
    if settings.mlflow_tracking_username:
        environ["MLFLOW_TRACKING_USERNAME"] = settings.mlflow_tracking_username
    return Target({**place.written(uri, root), **names}, environ, settings.mlflow_offline)


def _membership(
    settings: Settings, before: RunRecord | None, warn: Callable[[str], None]
) -> dict[str, str | None]:
    """The MLflow run to log into, where somebody else made one for this run, and a parent."""
    to_join = os.environ.get("MLFLOW_RUN_ID") or _active_run()
    if before is not None and before.attempts:
        joined = (before.tracking or {}).get("run_id")
        if to_join not in (None, joined, before.mlflow_run_id):
            warn(f"the run goes on in the MLflow run that it was begun in, not in {to_join}")
        to_join = joined
    return {"run_id": to_join, "parent_run_id": settings.mlflow_parent_run_id}


def _active_run() -> str | None:
    """The MLflow run that the script itself is in; mlflow is not imported to find out."""
    active = getattr(sys.modules.get("mlflow"), "active_run", lambda: None)()
    return None if active is None else str(active.info.run_id)


def _place(
    settings: Settings, root: Path, before: RunRecord | None, warn: Callable[[str], None]
) -> str:
    """The tracking URI, absolute, credentials included."""
    given = settings.mlflow_tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    known = None if before is None else place.place_of(before, root)
    if known is None:
        return resolve(given or DEFAULT_URI, Path.cwd())
    if given is None:
        return known.uri
    uri = resolve(given, Path.cwd())
    if mask_uri(uri) not in (known.key, mask_uri(known.uri)):
        warn(
            f"the run was tracked at {known.key} so far; it is sent to {mask_uri(uri)} from its "
            "beginning on, as a second MLflow run"
        )
    return uri
