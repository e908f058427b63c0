"""Training without a terminal: stdout and stderr closed at the start, or gone since."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import TIMEOUT, Small, environment, plain_eval_step

from igniter.tracking.display import Display

MODES = ("auto", "bar", "plain", "json", "none")

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from support import Small
from igniter.main import igniter_main

def main(args):
    Small(args.output_dir).train(stop_at=5, progress=args.progress, on_interrupt="raise")

igniter_main(main)
"""


def test_closed_from_the_start(tmp_path: Path) -> None:
    """``train.py <&- >&- 2>&-`` stops, resumes and ends like any other; no file takes in words."""
    script, root = tmp_path / "train.py", tmp_path / "run"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)), encoding="utf-8")
    command = [sys.executable, str(script), "--output-dir", str(root), "--progress", "bar"]
    codes = [
        subprocess.run(
            ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command],
            env=environment(),
            timeout=TIMEOUT,
            check=False,
        ).returncode
        for _ in range(2)
    ]
    assert codes == [143, 0]
    for line in (root / "journal.jsonl").read_text(encoding="utf-8").splitlines():
        assert isinstance(json.loads(line), dict)
    assert "received" not in (root / "run.lock").read_text(encoding="utf-8")


@pytest.mark.parametrize("mode", MODES)
def test_no_streams_in_library_use(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``train`` runs in every mode where the process has neither stdout nor stderr."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    run = Small(tmp_path, eval_step=plain_eval_step)
    assert run.train(progress=mode).status == "completed"


class Gone(io.StringIO):
    """A terminal that went away."""

    def isatty(self) -> bool:
        """Yes, it was one."""
        return True

    def write(self, text: str) -> int:
        """Fail."""
        raise BrokenPipeError

    def flush(self) -> None:
        """Fail."""
        raise BrokenPipeError


def closed() -> io.StringIO:
    """A stream that was closed."""
    stream = io.StringIO()
    stream.close()
    return stream


def tour(mode: Any, stdout: Any, stderr: Any) -> None:
    """Everything that a display is asked for."""
    shown = Display(mode, stdout=stdout, stderr=stderr)
    shown.start("the start")
    shown.begin(0, 10)
    shown.progress(4, {"train/loss": 0.5})
    shown.report(4, 1, 3, {"train/loss": 0.5})
    shown.warn("a warning")
    shown.end("the end")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", [Gone, closed])
def test_gone_since(mode: str, make: Any) -> None:
    """A stream that takes nothing any more stops neither lines nor the bar's owner."""
    tour(mode, make(), make())


def test_the_other_stream_is_used() -> None:
    """With stderr gone, stdout still says everything."""
    stdout = io.StringIO()
    tour("bar", stdout, Gone())
    lines = stdout.getvalue().splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("the start", "the end", 3)
