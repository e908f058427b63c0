"""The files of a run sent to MLflow, its exported models among them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from igniter.rundir import Paths, RunRecord
from igniter.signature import Program, Signature
from igniter.tracking import artifacts
from igniter.tracking.artifacts import Artifact

if TYPE_CHECKING:
    from igniter.tracking.mlflow_run import MlflowRun

# While training goes on; at its end they are looked at once more.
_EVERY_SECONDS = 15.0
_FAILURES_A_ROUND = 3


class Uploads:
    """Sends the files of the run at ``paths`` that MLflow lacks, while ``go_on`` says so.

    ``problem`` is what was wrong with them the last time, None where nothing was.
    """

    def __init__(self, paths: Paths, go_on: Callable[[], bool]) -> None:
        self._paths = paths
        self._go_on = go_on
        self._changes = artifacts.Changes()
        self._looked_at = float("-inf")
        self.problem: str | None = None

    def send(
        self,
        run: MlflowRun,
        record: RunRecord,
        stored: Mapping[str, str],
        remember: Callable[[Mapping[str, str]], None],
        *,
        ended: bool,
    ) -> None:
        """Send what is new or has changed: not at each call, unless the run has ``ended``.

        ``stored`` has the marks of the files that MLflow holds; ``remember`` is given them anew
        after each one.
        """
        now = time.monotonic()
        if not ended and now - self._looked_at < _EVERY_SECONDS:
            return
        self._looked_at = now
        paths = Paths.of(self._paths.root, record)
        models = dict(artifacts.programs(paths.model, record)) if ended else {}
        wanted = chain(artifacts.of_run(paths, record, ended=ended), models)
        failures: list[str] = []
        for artifact, mark in self._changes.find(wanted, stored):
            if len(failures) == _FAILURES_A_ROUND or not self._go_on():
                break
            if artifact in models:
                failure = _log_model(run, record, artifact, mark, models)
            else:
                failure = run.log_artifact(artifact)
            if failure is None:
                stored = {**stored, artifact.path: mark}
                remember(stored)
            elif artifact.is_there():
                failures.append(f"{artifact.path}: {failure}")
        self.problem = None
        if failures:
            self.problem = f"MLflow did not take {failures[0]}; the values are not affected"


def _log_model(
    run: MlflowRun,
    record: RunRecord,
    artifact: Artifact,
    mark: str,
    models: Mapping[Artifact, Signature],
) -> str | None:
    assert isinstance(artifact.content, Path)
    name = artifact.content.stem
    register_as = (record.tracking or {}).get("register_model")
    if register_as is not None and len(models) > 1:
        register_as = f"{register_as}-{name}"
    torch = record.attempts[-1].versions.get("torch", "")
    return run.log_model(
        Program(name, artifact.content, mark, models[artifact], torch), register_as
    )
