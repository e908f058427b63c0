"""What MLflow shows of a search: one run, which those of its trials are children of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from igniter import opening
from igniter.settings import Settings
from igniter.studies import Study
from igniter.target import choose_target
from igniter.tracking import study as tracking
from igniter.tracking.failures import Unavailable


class SearchTracking:
    """The MLflow run of the search in ``root``, where it is tracked and MLflow can be reached."""

    def __init__(
        self, study: Study, root: Path, settings: Settings, warn: Callable[[str], None]
    ) -> None:
        script = opening.asked(settings, None, None, None).script
        self._target = choose_target(settings, script, root, None, warn)
        self._name = settings.mlflow_run_name or root.name
        self._study, self._warn = study, warn

    def begin(self) -> str | None:
        """The id of the run, for those of the trials; None where there is none."""
        if self._target is None or self._target.offline:
            return None
        standing = tracking.Standing(self._study.key, self._name)
        try:
            self._study.mlflow_run_id = tracking.begin(self._target, standing)
        except Unavailable as failure:
            if self._study.mlflow_run_id is None:
                self._warn(f"the trials are not put below one run in MLflow: {failure}")
        return self._study.mlflow_run_id

    def end(self, status: Literal["completed", "interrupted"], metric: str) -> None:
        """Tell MLflow how the search stands, and which trial is the best so far."""
        if self._target is None or self._target.offline or self._study.mlflow_run_id is None:
            return
        best = self._study.best()
        values, tags = {}, {}
        if best is not None:
            values = {metric: best.values[0]}
            tags = {f"best.{name}": str(value) for name, value in best.params.items()}
            tags["igniter.best_trial"] = str(best.number)
        standing = tracking.Standing(
            self._study.key,
            self._name,
            "FINISHED" if status == "completed" else "KILLED",
            self._study.ended().total(),
            values,
            tags,
        )
        try:
            tracking.end(self._target, standing)
        except Unavailable as failure:
            self._warn(f"MLflow was not told how the search ended: {failure}")
