"""Runs that are tracked: their directories made, and what MLflow holds of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igniter.rundir import Paths, RunRecord
from igniter.tracking.journal import Journal
from igniter.tracking.records import read
from igniter.tracking.state import State


@dataclass
class Run:
    """A run directory as training leaves it."""

    paths: Paths
    record: RunRecord

    @property
    def uri(self) -> str:
        """The tracking URI in its record."""
        assert self.record.tracking is not None
        return str(self.record.tracking["uri"])

    def begin(self) -> None:
        """Begin an attempt."""
        self.record.begin_attempt(
            start="2026-11-21T10:00:00.125+00:00",
            host="node1",
            pid=len(self.record.attempts) + 1,
            from_iteration=0,
            command=["train.py"],
            resume_command=f"python train.py --attempt {len(self.record.attempts) + 1}",
            git_commit="abc123",
        )
        self.save()

    def end(self, status: Any, end: str = "2026-11-21T11:00:00.250+00:00") -> None:
        """End the attempt."""
        self.record.end_attempt(status, end=end)
        self.save()

    def save(self) -> None:
        """Write run.yaml."""
        self.record.save(self.paths.run_yaml)

    def log(self, first: int, last: int, **metrics: float) -> None:
        """Log iterations, as an attempt that settled all before them."""
        size = self.paths.journal.stat().st_size if self.paths.journal.exists() else 0
        attempt = len(self.record.attempts)
        journal = Journal.open(self.paths.journal, attempt=attempt, offset=size, warn=print)
        for iteration in range(first, last + 1):
            journal.log(iteration, 0, {"train/loss": iteration / 7, **metrics})
        journal.close()

    def expected(self) -> list[tuple[str, float, int, int]]:
        """What MLflow has to hold: name, value, time, iteration."""
        return sorted(
            (name, value, record.time, record.iteration)
            for record in read(self.paths.journal)
            if not record.repeat
            for name, value in record.metrics.items()
        )

    def forget(self, **changes: Any) -> None:
        """Set back what tracking.json knows."""
        State.load(self.paths.tracking).with_changes(**changes).save(self.paths.tracking)

    def mlflow(self) -> Stored:
        """What MLflow holds of it now."""
        return Stored(self.uri, self.record.name)


class Stored:
    """What MLflow holds of a test's one experiment."""

    def __init__(self, uri: str, experiment: str) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(uri)
        found = self.client.get_experiment_by_name(experiment)
        assert found is not None
        self.runs = self.client.search_runs([found.experiment_id])

    @property
    def run(self) -> Any:
        """The one run there is."""
        (run,) = self.runs
        return run

    def points(self) -> list[tuple[str, float, int, int]]:
        """All it holds of the one run: name, value, time, iteration."""
        run = self.run
        return sorted(
            (m.key, m.value, m.timestamp, m.step)
            for key in run.data.metrics
            for m in self.client.get_metric_history(run.info.run_id, key)
        )


def begun_run(root: Path, uri: str | None, name: str) -> Run:
    """A run in ``root`` that has begun, tracked at ``uri`` in an experiment called ``name``."""
    root.mkdir(parents=True)
    record = RunRecord(
        name=name,
        script="train.py",
        identity="1a2b3c4d",
        arguments={},
        parameters={"learning_rate": 0.1, "seed": 0},
        tracking={"uri": uri, "experiment_name": name, "run_name": "first"},
    )
    run = Run(Paths(root), record)
    run.begin()
    return run
