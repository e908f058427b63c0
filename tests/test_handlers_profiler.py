"""Profiler: a trace of a window of each attempt, closed whatever happens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from handled import Part, attempt
from torch.autograd import profiler

from igniter.errors import UsageError
from igniter.handlers import Profiler


def traces(run_dir: Path) -> list[str]:
    """The names of the traces; each is JSON with events, and nothing lies beside them."""
    found = sorted((run_dir / "profile").iterdir()) if (run_dir / "profile").exists() else []
    for path in found:
        assert json.loads(path.read_text("utf-8"))["traceEvents"]
    return [path.name for path in found]


def test_a_window_of_each_attempt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each attempt has a trace of its own window, which its name tells."""
    build = lambda: Part([Profiler(first=2, iterations=3)])  # noqa: E731
    attempt(tmp_path, build, 6)
    attempt(tmp_path, build, progress="plain")
    names = ["attempt-1-iteration-2-4.json", "attempt-2-iteration-8-10.json"]
    assert traces(tmp_path) == names
    said = f"profile of iterations 8 to 10: {tmp_path}/profile/{names[1]}"
    assert said in capsys.readouterr().out


def test_stopped_in_the_window(tmp_path: Path) -> None:
    """A stop, or the run's end, leaves a trace of what was done."""
    build = lambda: Part([Profiler(first=3, iterations=50)])  # noqa: E731
    attempt(tmp_path, build, 4)
    attempt(tmp_path, build)
    assert traces(tmp_path) == ["attempt-1-iteration-3-4.json", "attempt-2-iteration-7-12.json"]


def test_an_error_in_the_window(tmp_path: Path) -> None:
    """After an error the profiler is not at work any more."""

    def break_down(iteration: int, output: Any) -> None:
        if iteration == 4:
            raise ArithmeticError("broken")

    with pytest.raises(ArithmeticError):
        attempt(tmp_path, lambda: Part([Profiler(2, 9)]), spoil=break_down)
    assert not profiler._is_profiler_enabled
    assert traces(tmp_path) == ["attempt-1-iteration-2-3.json"]


def test_a_window_that_is_not_reached(tmp_path: Path) -> None:
    """An attempt that is too short leaves nothing."""
    attempt(tmp_path, lambda: Part([Profiler(first=13)]))
    assert traces(tmp_path) == []


def test_two_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A window that begins within another is left out and said: torch would end the process."""
    attempt(tmp_path, lambda: Part([Profiler(2, 3), Profiler(4, 3), Profiler(6, 1)]))
    assert traces(tmp_path) == ["attempt-1-iteration-2-4.json", "attempt-1-iteration-6-6.json"]
    assert "another profiler is at work at iteration 4" in capsys.readouterr().err


def test_options_are_torchs(tmp_path: Path) -> None:
    """Further arguments go to ``torch.profiler.profile``."""
    attempt(tmp_path, lambda: Part([Profiler(2, 1, record_shapes=True)]))
    text = (tmp_path / "profile" / traces(tmp_path)[0]).read_text("utf-8")
    assert "Input Dims" in text


def test_a_disk_that_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A trace that cannot be written is warned of, and training goes on."""
    (tmp_path / "profile").write_text("in the way")
    result = attempt(tmp_path, lambda: Part([Profiler(2, 2)]))
    assert result is not None
    assert result.status == "completed"
    assert "attempt-1-iteration-2-3.json cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("how", [{"first": 0}, {"iterations": 0}])
def test_arguments_that_cannot_be(how: dict[str, int]) -> None:
    """Numbers below 1 are refused."""
    with pytest.raises(UsageError, match="at least 1"):
        Profiler(**how)
