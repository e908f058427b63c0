"""MLflow's monitor of the machine: only on request, in the child, its steps without overlap."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from tracked import Run

from igniter.rundir import Paths
from igniter.settings import Settings
from igniter.target import choose_target
from igniter.tracking import shipper
from igniter.tracking.system_metrics import SystemMetrics

# sqlalchemy warns of what mlflow does with it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ENVIRON = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(sys.path),
    "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.1",
}
MEMORY = "system/system_memory_usage_megabytes"


def system_points(run: Run) -> list[tuple[str, float, int, int]]:
    """What MLflow holds of the machine: name, value, time, step."""
    return [point for point in run.mlflow().points() if point[0].startswith("system/")]


def attempt(run: Run, iterations: tuple[int, int], until: Callable[[dict[str, int]], bool]) -> None:
    """Log iterations beside the child that sends.

    It ends when ``until`` says so of the last step of each metric.
    """
    client = MlflowClient(run.uri)
    child = shipper.start(run.paths, ENVIRON)
    run.log(*iterations)
    deadline = time.monotonic() + 60
    while True:
        run_id = child.run_id()
        stored = client.get_run(run_id).data if run_id else None
        if stored and until({metric.key: metric.step for metric in stored._metric_objs}):
            break
        assert time.monotonic() < deadline
        time.sleep(0.2)
    run.end("interrupted")
    assert child.finish(60).problem is None


def test_steps_of_two_attempts(run: Run) -> None:
    """Each attempt's samples follow those of the one before, and the run ends all the same."""
    assert run.record.tracking is not None
    run.record.tracking["system_metrics"] = True
    run.save()
    attempt(run, (1, 5), lambda steps: steps.get(MEMORY, -1) > 0)
    first = system_points(run)
    run.begin()
    attempt(run, (6, 9), lambda steps: steps[MEMORY] > max(step for *_, step in first))
    points = system_points(run)
    steps = [step for name, _, _, step in sorted(points, key=lambda p: p[2]) if name == MEMORY]
    assert steps == list(range(len(steps)))
    assert {p for p in points if p in first} == set(first)
    assert run.mlflow().run.info.status == "KILLED"
    rest = [point for point in run.mlflow().points() if not point[0].startswith("system/")]
    assert rest == run.expected()


def test_only_on_request(run: Run) -> None:
    """Without the flag nothing is said of the machine."""
    attempt(run, (1, 5), lambda steps: steps == {"train/loss": 5})
    assert system_points(run) == []


class Monitor:
    """In place of MLflow's monitor."""

    made: list[Monitor]

    def __init__(self, run_id: str, *, resume_logging: bool, tracking_uri: str) -> None:
        assert resume_logging
        self.run_id, self.begun, self.alive = run_id, False, True
        self._process = self
        Monitor.made.append(self)

    def start(self) -> None:
        """Begin."""
        self.begun = True

    def is_alive(self) -> bool:
        """Whether no outage has ended it."""
        return self.alive

    def finish(self) -> None:
        """End."""
        self.begun = False


@pytest.fixture
def monitors(monkeypatch: pytest.MonkeyPatch) -> list[Monitor]:
    """Every monitor that was made."""
    from mlflow.system_metrics import system_metrics_monitor

    monkeypatch.setattr(system_metrics_monitor, "SystemMetricsMonitor", Monitor)
    Monitor.made = []
    return Monitor.made


def test_begun_anew_after_an_outage(monitors: list[Monitor]) -> None:
    """One monitor is at work for a run; one that ended is followed by another, once."""
    kept = SystemMetrics("sqlite://", pytest.fail)
    kept.keep("a")
    kept.keep("a")
    assert [m.begun for m in monitors] == [True]
    monitors[0].alive = False
    kept.keep("a")
    kept.keep("a")
    assert [m.begun for m in monitors] == [False, True]
    kept.keep("b")
    assert [(m.run_id, m.begun) for m in monitors[1:]] == [("a", False), ("b", True)]
    kept.finish()
    assert not any(m.begun for m in monitors)
    kept.finish()


def test_a_monitor_that_cannot_work(
    monitors: list[Monitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is warned of once, and sending goes on."""

    def broken(self: Any) -> None:
        raise ImportError("No module named 'psutil'")

    monkeypatch.setattr(Monitor, "start", broken)
    said: list[str] = []
    kept = SystemMetrics("sqlite://", said.append)
    kept.keep("a")
    kept.keep("a")
    kept.finish()
    assert said == ["no system metrics: No module named 'psutil'"]


@pytest.mark.parametrize("installed", [True, False])
def test_the_flag_without_psutil(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    """Where psutil is missing that is said at the start, and nothing else is lost."""
    found = object() if installed else None
    monkeypatch.setattr("igniter.target.find_spec", lambda name: found)
    said: list[str] = []
    settings = Settings(
        mlflow_system_metrics=True, mlflow_tracking_uri=f"sqlite:///{tmp_path}/mlflow.db"
    )
    target = choose_target(settings, None, Paths(tmp_path).root, None, said.append)
    assert target is not None
    assert target.written.get("system_metrics", False) is installed
    assert ["pip install psutil" in text for text in said] == ([] if installed else [True])
