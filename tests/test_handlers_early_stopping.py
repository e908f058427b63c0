"""EarlyStopping: when it ends a run, what counts as better, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from handled import Part, attempt
from ignite.metrics import Average
from support import checkpoint

from igniter.errors import UsageError
from igniter.handlers import EarlyStopping
from igniter.result import Result

NAN = math.nan


def run(folder: Path, values: list[float], metric: str = "eval/loss", **how: Any) -> Result:
    """A run of 12 iterations, evaluated every second one, with the metric's ``values`` in turn."""
    settings = how.pop("settings", {})
    key = metric.partition("/")[2]
    result = attempt(
        folder,
        lambda: Part(
            [EarlyStopping(metric, **how)],
            metrics={key: "loss"},
            values=lambda iteration: values[iteration // 2 - 1],
        ),
        **settings,
    )
    assert result is not None
    assert result.status == "completed"
    return result


def test_ends_the_run_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After ``patience`` evaluations that are no better the run is complete, and says why."""
    values = [1.0, 0.5, 0.6, 0.5, 0.1, 0.0]  # as good as the best is no better
    result = run(tmp_path, values, patience=2, settings={"progress": "plain"})
    assert result.iteration == 8
    out = capsys.readouterr()
    said = "stopped early at iteration 8: eval/loss has not been better than 0.5 in 2 evaluations"
    assert said in out.out
    assert "EarlyStopping" not in out.err  # ignite's logger would write there


def test_a_finished_run_is_not_stopped_again(tmp_path: Path) -> None:
    """Started again, a run that ended early is complete; made longer it goes on while it gains."""
    values = [1.0, 1.0, 1.0, 0.5, 0.5, 0.4, 0.4, 0.4, 0.3]
    assert run(tmp_path, values, patience=2).iteration == 6
    assert run(tmp_path, values, patience=2).iteration == 6
    longer = {"max_epochs": 5}
    assert run(tmp_path, values, patience=2, settings=longer).iteration == 16


def test_longer_without_a_gain(tmp_path: Path) -> None:
    """Made longer, a run that does not gain ends at its next evaluation: its count stands."""
    assert run(tmp_path, [1.0] * 9, patience=2).iteration == 6
    assert run(tmp_path, [1.0] * 9, patience=2, settings={"max_epochs": 4}).iteration == 8


@pytest.mark.parametrize(("min_delta", "end"), [(0.04, 12), (0.08, 12), (0.12, 6), (0.5, 6)])
def test_small_steps_forward_add_up(min_delta: float, end: int, tmp_path: Path) -> None:
    """What counts is the gain since the last improvement, not since the evaluation before."""
    values = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75]
    assert run(tmp_path, values, patience=2, min_delta=min_delta).iteration == end


@pytest.mark.parametrize("values", [[NAN, 1.0, NAN, NAN, 0.0, 0.0], [1.0, NAN, NAN, 0.5, 0.5, 0.5]])
def test_nan_is_never_better(values: list[float], tmp_path: Path) -> None:
    """NaN counts as no improvement, and is not what later values are compared with.

    Trap: NaN passes silently (AR).
    """
    assert run(tmp_path, values, patience=2).iteration == 2 * (values.index(NAN, 1) + 2)


@pytest.mark.parametrize(
    ("metric", "mode", "end"),
    [
        ("eval/loss", "auto", 6),
        ("eval/accuracy", "auto", 12),
        ("eval/loss", "max", 12),
        ("eval/accuracy", "min", 6),
        ("eval/oddity", "min", 6),
    ],
)
def test_which_way_is_better(metric: str, mode: Any, end: int, tmp_path: Path) -> None:
    """``auto`` goes by the metric; a mode that is given wins.

    Trap: ``better="auto"`` fails on the documented example (AR).
    """
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert run(tmp_path, values, metric, mode=mode, patience=2).iteration == end


def test_by_a_function(tmp_path: Path) -> None:
    """A function that is given the metrics of each evaluation says what an improvement is."""
    asked: list[float] = []

    def improved(metrics: Any) -> bool:
        asked.append(metrics["eval/loss"])
        return len(asked) in (2, 3)

    build: Callable[[], Part] = lambda: Part(  # noqa: E731
        [EarlyStopping(patience=2, improved=improved)], values=float
    )
    result = attempt(tmp_path, build)
    assert result is not None
    assert result.iteration == 10
    assert asked == [2.0, 4.0, 6.0, 8.0, 10.0]


def test_two_of_one_class(tmp_path: Path) -> None:
    """Each has its own metric and its own state."""

    def build() -> Part:
        first = EarlyStopping("eval/loss", patience=9)
        second = EarlyStopping("eval/loss", patience=2, mode="max")
        return Part([first, second], values=lambda iteration: 1 / iteration)

    result = attempt(tmp_path, build)
    assert result is not None
    assert result.iteration == 6
    state = checkpoint(tmp_path)[1]["state"]
    assert state["callbacks/EarlyStopping"]["counter"] == 0
    assert state["callbacks/EarlyStopping-2"]["counter"] == 2


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("eval/accuracy", r"no evaluation gives it; there is eval/loss"),
        ("valid/loss", r"no evaluation gives it; there is eval/loss"),
        ("loss", r"no evaluation gives it; there is eval/loss"),
        ("eval/loss/top", r"gave no eval/loss/top to stop by; it gave eval/loss"),
    ],
)
def test_a_metric_that_is_not_there(metric: str, message: str, tmp_path: Path) -> None:
    """A metric that no evaluation gives is an error, as early as it can be seen."""
    with pytest.raises(UsageError, match=message):
        attempt(tmp_path, lambda: Part([EarlyStopping(metric)]))


def test_a_name_that_says_nothing(tmp_path: Path) -> None:
    """Where the better direction is not known, the error says what to give."""
    metric = Average(output_transform=lambda output: output["loss"])
    with pytest.raises(UsageError, match=r"eval/oddity is better; give EarlyStopping\(mode='max'"):
        attempt(tmp_path, lambda: Part([EarlyStopping("eval/oddity")], metrics={"oddity": metric}))


@pytest.mark.parametrize("how", [{"patience": 0}, {"min_delta": -1.0}, {"mode": "up"}])
def test_arguments_that_cannot_be(how: dict[str, Any]) -> None:
    """Wrong arguments are refused where they are given."""
    with pytest.raises(UsageError, match="patience must be at least 1"):
        EarlyStopping(**how)


def test_another_metric_counts_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Resumed by another metric it warns and begins to count; the old best says nothing."""

    def build(metric: str) -> Part:
        names = {"loss": "loss", "error": "loss"}
        return Part([EarlyStopping(metric, patience=2)], metrics=names, values=lambda i: 1.0)

    attempt(tmp_path, lambda: build("eval/loss"), 5)
    result = attempt(tmp_path, lambda: build("eval/error"))
    assert result is not None
    assert result.iteration == 10
    assert "goes by eval/error, and went by eval/loss at the checkpoint" in capsys.readouterr().err
