"""What the terminal shows: a bar, plain lines or JSON lines, and never a reason to stop."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from support import Small, plain_eval_step

from igniter.tracking.display import Display


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


class Broken(io.StringIO):
    """A pipe whose reader is gone."""

    def write(self, text: str) -> int:
        """Fail."""
        raise BrokenPipeError


def display(mode: Any, stdout: Any = None, stderr: Any = None, **how: Any) -> Display:
    """A display on streams of the test's own."""
    return Display(mode, stdout=stdout or io.StringIO(), stderr=stderr or io.StringIO(), **how)


def test_auto() -> None:
    """A bar in a terminal, plain lines anywhere else.

    Fact: a piped bar wrote 89 KB for 600 iterations.
    """
    assert display("auto", stderr=Terminal()).mode == "bar"
    assert display("auto").mode == "plain"
    assert display("json", stderr=Terminal()).mode == "json"


def tour(shown: Display) -> None:
    """Everything that a run says."""
    shown.start("the start", run="r")
    shown.begin(2, 10)
    shown.progress(3, {"train/loss": 0.5})
    shown.report(4, 1, 3, {"train/loss": 0.5, "eval/loss": float("nan")})
    shown.say("a note")
    shown.warn("a warning")
    shown.end("the end", status="completed")


def test_plain(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines on stdout, warnings on stderr, the time left from the speed so far."""
    out, err, times = io.StringIO(), io.StringIO(), iter([100.0, 102.0, 104.0])
    tour(display("plain", out, err, clock=lambda: next(times)))
    start, report, note, end = out.getvalue().splitlines()
    assert (start, note, end) == ("the start", "a note", "the end")
    assert report.startswith("epoch 1/3  iteration 4/10  ")
    assert report.endswith("  0:12 left")
    assert err.getvalue() == "warning: a warning\n"


def test_json() -> None:
    """Every line of stdout is strict JSON, NaN too."""
    out = io.StringIO()
    tour(display("json", out))
    events = [json.loads(line, parse_constant=pytest.fail) for line in out.getvalue().splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds == ["start", "progress", "note", "warning", "end"]
    assert events[1]["metrics"] == {"train/loss": 0.5, "eval/loss": "nan"}
    assert (events[0]["run"], events[4]["status"]) == ("r", "completed")


def test_bar() -> None:
    """The bar begins where the run resumes, and goes when the run ends; lines stay whole."""
    out, err = io.StringIO(), Terminal()
    tour(display("bar", out, err))
    assert "2/10" in err.getvalue()
    assert "3/10" in err.getvalue()
    assert out.getvalue().splitlines()[0] == "the start"


def test_none() -> None:
    """Nothing but warnings."""
    out, err = io.StringIO(), io.StringIO()
    tour(display("none", out, err))
    assert (out.getvalue(), err.getvalue()) == ("", "warning: a warning\n")


@pytest.mark.parametrize("mode", ["plain", "json", "none"])
def test_reader_is_gone(mode: Any) -> None:
    """A stream that takes nothing any more does not stop training."""
    tour(display(mode, Broken(), Broken()))


def test_lines_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first line names the run and its files, one line an epoch, the last one how it ended.

    Trap: lines doubled under a root handler, headers repeated (AR).
    """
    Small(tmp_path / "mine", eval_step=plain_eval_step).train(progress="plain")
    captured = capsys.readouterr()
    first, *lines = captured.out.splitlines()
    assert first.startswith("run mine, attempt 1: begins at iteration 1 of 12; files in ")
    assert str(tmp_path / "mine") in first
    epochs, ending = lines[:3], lines[3:]
    assert [line.split("  ")[0] for line in epochs] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert all("train loss" in line and "eval loss" in line for line in epochs)
    assert ending[0].startswith("completed: iteration 12, epoch 3")
    assert "epoch" not in "".join(ending[1:]).replace("--max-epochs", "")
    assert captured.err == ""
