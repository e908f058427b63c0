"""What the terminal shows of a run: a bar, plain lines or JSON lines (the only import of tqdm).

Lines about the run go to stdout, so that a log file has them; a bar and warnings go to stderr. In
JSON mode stdout holds JSON and nothing else.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TextIO

Mode = Literal["auto", "bar", "plain", "json", "none", "debug"]

_COUNT_SECONDS, RENDER_SECONDS = 30.0, 0.1


class _Output:
    """A stream to write to as long as it is there: not None, not closed, its reader not gone."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)  # tqdm asks for the encoding and the descriptor

    def isatty(self) -> bool:
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:
            return False

    def write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
        except (OSError, ValueError):
            pass

    def flush(self) -> None:
        if self._stream is None:
            return
        try:
            self._stream.flush()
        except (OSError, ValueError):
            pass


class Display:
    """Shows a run in one of the modes.

    ``auto`` is a bar where stderr is a terminal, plain lines elsewhere, and ``debug`` plain lines
    with ``details`` for developers. ``stdout`` and ``stderr`` are the process's own by default;
    that one is closed or missing never stops training.
    """

    def __init__(
        self,
        mode: Mode,
        *,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stdout = _Output(sys.stdout if stdout is None else stdout)
        self._stderr = _Output(sys.stderr if stderr is None else stderr)
        if mode == "auto":
            mode = "bar" if self._stderr.isatty() else "plain"
        self.mode: Mode = "plain" if mode == "debug" else mode
        self.details = mode == "debug"
        self._clock = clock
        self._bar: Any = None
        self._total = 0
        self._moved, self._began, self._rendered = False, (0, 0.0), -math.inf
        self._lock = threading.RLock()  # the thread that writes checkpoints warns, too

    def start(self, text: str, **facts: Any) -> None:
        """Say which run this is; ``facts`` are the same for a program to read."""
        self._event("start", text, facts)

    def begin(self, iteration: int, total: int) -> None:
        """Begin to show progress after ``iteration`` of ``total``."""
        self._total, self._moved = total, False
        self._began = (iteration, self._clock())
        if self.mode == "bar":
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                initial=iteration,
                file=self._stderr,
                dynamic_ncols=True,
                mininterval=0,
                leave=False,
                bar_format="{n_fmt}/{total_fmt} |{bar}| {remaining} left{postfix}",
            )

    def progress(self, iteration: int, shown: Mapping[str, float]) -> None:
        """Move the bar to ``iteration``, with the latest values beside it, ten times a second."""
        if not self._moved:
            # The first iterations start workers and compile kernels, and say little of the rest.
            self._moved, self._began = True, (iteration, self._clock())
        if self._bar is not None and self._clock() - self._rendered >= RENDER_SECONDS:
            self._rendered = self._clock()
            with self._lock:
                self._bar.set_postfix_str(summary(shown), refresh=False)
                self._bar.update(iteration - self._bar.n)

    def report(
        self,
        iteration: int,
        epoch: int,
        epochs: int,
        metrics: Mapping[str, float],
        samples_per_second: float | None = None,
    ) -> None:
        """Print where the run is, and its metrics."""
        done, since = self._began
        seconds = self._clock() - since
        rate = (iteration - done) / seconds if seconds > 0 else 0.0
        facts = {
            "iteration": iteration,
            "total": self._total,
            "epoch": epoch,
            "iterations_per_second": round(rate, 3),
            "samples_per_second": samples_per_second,
            "metrics": dict(metrics),
        }
        speed = ""
        if samples_per_second is not None:
            speed = f"  {samples_per_second:.{0 if samples_per_second >= 100 else 2}f} samples/s"
        left = f"  {_duration((self._total - iteration) / rate)} left" if rate > 0 else ""
        self._event(
            "progress",
            f"epoch {epoch}/{epochs}  iteration {iteration}/{self._total}  "
            f"{summary(metrics)}{speed}{left if iteration < self._total else ''}",
            facts,
        )

    @contextmanager
    def replaying(self, total: int) -> Iterator[Callable[[int], None]]:
        """Show that ``total`` batches are loaded again; it gives what is told how many are done."""
        self.say(
            "the loader cannot be entered in the middle: loading "
            f"{total} batches again to reach the position",
            batches=total,
        )
        with self.counting("loaded", total, "batches again") as show:
            yield show

    @contextmanager
    def counting(self, done: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """Show how much of ``total`` is ``done``, as "loaded 5 of 10 files"; gives what is told.

        A bar, which goes away at the end; elsewhere a line every half minute.
        """
        said = self._clock()

        def show(count: int) -> None:
            nonlocal said
            now = self._clock()
            if now - said >= _COUNT_SECONDS:
                said = now
                self.say(f"{done} {count} of {total} {unit}", done=count, total=total)

        if self.mode != "bar":
            yield show
            return

        def move(count: int) -> None:
            bar.update(count - bar.n)

        from tqdm import tqdm

        with tqdm(
            total=total,
            file=self._stderr,
            leave=False,
            dynamic_ncols=True,
            bar_format=f"{done} {{n_fmt}}/{{total_fmt}} {unit} |{{bar}}| {{remaining}} left",
        ) as bar:
            yield move

    def say(self, text: str, **facts: Any) -> None:
        """Tell something about the run."""
        self._event("note", text, facts)

    def warn(self, text: str) -> None:
        """Tell what is wrong, in every mode, on stderr."""
        if self.mode == "json":
            self._event("warning", text, {})
        self._write(self._stderr, f"warning: {text}")

    def end(self, text: str, **facts: Any) -> None:
        """Close the bar and say how it ended."""
        self.close()
        self._event("end", text, facts)

    def close(self) -> None:
        """Take the bar away."""
        with self._lock:
            if self._bar is not None:
                self._bar.close()
            self._bar = None

    def _event(self, event: str, text: str, facts: Mapping[str, Any]) -> None:
        if self.mode == "json":
            record = {"event": event, "time": round(time.time(), 3), "text": text, **_strict(facts)}
            self._write(self._stdout, json.dumps(record, allow_nan=False, default=str))
        elif self.mode != "none":
            self._write(self._stdout, text)

    def _write(self, output: _Output, text: str) -> None:
        with self._lock:
            if self._bar is not None:
                self._bar.clear()
            output.write(f"{text}\n")
            output.flush()
            if self._bar is not None:
                self._bar.refresh()


def summary(metrics: Mapping[str, float]) -> str:
    """``train loss 0.25 accuracy 0.9  eval loss 0.3``: values by name, under their group's name."""
    groups: dict[str, list[str]] = {}
    for name, value in metrics.items():
        group, slash, metric = name.partition("/")
        groups.setdefault(group if slash else "", []).append(f"{metric or group} {value:.4g}")
    return "  ".join(" ".join([group, *values]).strip() for group, values in groups.items())


def _strict(value: Any) -> Any:
    """NaN and the infinities as text, however deep: JSON has no word for them."""
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
