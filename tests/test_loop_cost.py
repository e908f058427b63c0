"""What an iteration costs, by what can be counted: calls, operations of torch, files and writes.

Times depend on the machine, and so bound nothing here; ``benchmarks/loop.py`` measures them.
"""

from __future__ import annotations

import io
import os
import re
import statistics
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from igniter import RunSpec, train
from igniter.engine import Events
from igniter.run import TrainingRun
from igniter.tracking.display import Display

ITERATIONS = 330  # three log points
SETTLED = 20  # iterations until workers, caches and what is watched at first are done with

# Calls of Python and C functions from the end of a step to the beginning of the next, which stay
# nearly the same from one version of Python to the next: with 3.11 it is 52 and 66.
CALLS = {"list": 56, "loader": 71}
# What makes the host wait for a device's value.
READS = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "_to_copy"}


class Watched:
    """A step; what comes between two calls of it is counted for the iteration that the first did.

    ``begin`` is called at the end of each step, ``end`` at the beginning of the next one.
    """

    def __init__(self, begin: Callable[[], None], end: Callable[[], Any]) -> None:
        self._begin, self._end = begin, end
        self.model = torch.nn.Linear(4, 1)
        self.counted: dict[int, Any] = {}

    def __call__(self, engine: Any, batch: Any) -> Any:
        """The loss of a small model."""
        if engine.state.iteration > 1:
            self.counted[engine.state.iteration - 1] = self._end()
        loss = self.model.to(batch.device)(batch).sum()
        if engine.state.iteration < ITERATIONS:
            self._begin()
        return {"loss": loss}


def counted(
    directory: Path,
    begin: Callable[[], None],
    end: Callable[[], Any],
    *,
    batches: Any = None,
    plant: Callable[[Any], None] | None = None,
    at_due: Callable[[], Any] = lambda: None,
    **settings: Any,
) -> list[Any]:
    """What was counted for each iteration after which nothing was due, all that can be on being on.

    ``plant`` is called with the engine before training, ``at_due`` before what is due.
    """
    step, due = Watched(begin, end), set()

    def safe_point(run: TrainingRun, iteration: int, now: float) -> None:
        due.add(iteration)
        at_due()
        passed(run, iteration, now)

    passed = TrainingRun._safe_point
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingRun, "_safe_point", safe_point)
        train(
            to_save={"model": step.model},
            train_spec=RunSpec(
                step=step,
                loader=[torch.ones(2, 4)] * ITERATIONS if batches is None else batches,
                metrics={"loss": "loss"},
                callback=[] if plant is None else lambda engine, trainer: plant(engine),
            ),
            max_epochs=None,
            max_iterations=ITERATIONS,
            output_dir=directory,
            **{"progress": "bar", "mlflow": False, "mlflow_log_model": False, **settings},
        )
    assert {100, 200, 300} <= due
    quiet = [value for i, value in step.counted.items() if i > SETTLED and i not in due]
    assert len(quiet) > ITERATIONS // 2
    return quiet


class Calls:
    """Counts calls of Python and C functions."""

    def __init__(self) -> None:
        self._count = 0

    def begin(self) -> None:
        """Count from here."""
        self._count = 0
        sys.setprofile(self._see)

    def end(self) -> int:
        """How many there were."""
        sys.setprofile(None)
        return self._count

    def _see(self, frame: Any, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            self._count += 1


class Operations(TorchDispatchMode):
    """Counts torch's operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: Counter[str] = Counter()

    def begin(self) -> None:
        """Count from here."""
        self._seen = Counter()
        self.__enter__()

    def end(self) -> Counter[str]:
        """How many of each there were."""
        self.__exit__(None, None, None)
        return self._seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._seen[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


class Files:
    """Counts the files opened and the writes made by this thread."""

    IO = Path("/proc/thread-self/io")
    _hooked: list[Files] = []  # noqa: RUF012 (an audit hook cannot be taken out again)

    def __init__(self) -> None:
        self._opened, self._writes, self._thread = 0, 0, threading.get_ident()
        self._looking = False
        if not self._hooked:
            sys.addaudithook(self._heard)
        self._hooked[:] = [self]

    @classmethod
    def _heard(cls, event: str, arguments: Any) -> None:
        self = cls._hooked[0]
        if self._looking and event == "open" and threading.get_ident() == self._thread:
            self._opened += 1

    def begin(self) -> None:
        """Count from here."""
        self._opened, self._writes = 0, self._written()
        self._looking = True

    def end(self) -> int:
        """How many opens and writes there were."""
        self._looking = False
        return self._opened + self._written() - self._writes

    def _written(self) -> int:
        return int(re.findall(r"syscw: (\d+)", self.IO.read_text())[0])


def pairs() -> DataLoader[Any]:
    """Batches as :func:`counted` has them, from a loader without workers."""
    return DataLoader(torch.ones(2 * ITERATIONS, 4), batch_size=2, shuffle=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", CALLS)
def test_calls(kind: str, tmp_path: Path) -> None:
    """An iteration makes no more calls than the bound; a handler with a filter goes beyond it."""
    calls, batches = Calls(), {"list": None, "loader": pairs()}[kind]
    found = counted(tmp_path / "run", calls.begin, calls.end, batches=batches)
    assert statistics.mean(found) <= CALLS[kind]

    def plant(engine: Any) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=100), lambda: None)

    found = counted(tmp_path / "more", calls.begin, calls.end, batches=batches, plant=plant)
    assert statistics.mean(found) > CALLS[kind]


def test_operations(tmp_path: Path) -> None:
    """Between log points a metric is one copy an iteration, and no value is read.

    A planted ``item()`` is seen.
    """
    operations = Operations()
    found = counted(tmp_path / "run", operations.begin, operations.end)
    assert Counter(map(str, found)).most_common(1)[0][0] == str(Counter(detach=1, copy_=1))
    assert not READS & set().union(*found)

    def plant(engine: Any) -> None:
        read = lambda engine: engine.state.output["loss"].item()  # noqa: E731
        engine.add_event_handler(Events.ITERATION_COMPLETED, read)

    found = counted(tmp_path / "reading", operations.begin, operations.end, plant=plant)
    assert all(READS & set(seen) for seen in found)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_not_waited_for(tmp_path: Path) -> None:
    """Between log points nothing makes the host wait for a GPU; a planted ``item()`` does."""

    def begin() -> None:
        torch.cuda.set_sync_debug_mode("error")

    def end() -> None:
        torch.cuda.set_sync_debug_mode("default")

    def plant(engine: Any) -> None:
        read = lambda engine: engine.state.output["loss"].item()  # noqa: E731
        engine.add_event_handler(Events.ITERATION_COMPLETED, read)

    try:
        counted(tmp_path / "run", begin, end, device="cuda", at_due=end)
        with pytest.raises(RuntimeError, match="synchroniz"):
            counted(tmp_path / "reading", begin, end, device="cuda", at_due=end, plant=plant)
    finally:
        end()


class Enough(Exception):
    """Ends a training that could not be ended well."""


@pytest.mark.parametrize("planted", [False, True])
def test_values_that_cannot_be_read(tmp_path: Path, planted: bool) -> None:
    """Values of a device that has none to give are averaged as long as nothing is due.

    Reading one, or copying it to the host, is an error, as a planted ``item()`` shows.
    """

    def step(engine: Any, batch: Any) -> Any:
        if engine.state.iteration == 150:
            raise Enough
        return {"loss": torch.empty((), device="meta")}

    def attach(engine: Any, trainer: Any) -> None:
        if planted:
            read = lambda engine: engine.state.output["loss"].item()  # noqa: E731
            trainer.add_event_handler(Events.ITERATION_COMPLETED, read)

    with pytest.raises(RuntimeError if planted else Enough):
        train(
            to_save={"model": torch.nn.Linear(1, 1)},
            train_spec=RunSpec(
                step=step, loader=[torch.ones(2)] * 200, metrics={"loss": "loss"}, callback=attach
            ),
            max_epochs=1,
            output_dir=tmp_path / "run",
            progress="bar",
            log_every=1000,
            save_every=1000,
            mlflow=False,
        )


@pytest.mark.skipif(not Files.IO.exists(), reason="the system does not count a thread's writes")
def test_files(tmp_path: Path) -> None:
    """No file is opened and nothing written unless something is due; a planted write is seen."""
    files = Files()
    assert not any(counted(tmp_path / "run", files.begin, files.end))

    def write(engine: Any) -> None:
        if engine.state.iteration % 7 == 0:
            os.write(descriptor, b".")

    def open_one(engine: Any) -> None:
        if engine.state.iteration % 7 == 1:
            (tmp_path / "made").open("w").close()

    descriptor = os.open(tmp_path / "written", os.O_WRONLY | os.O_CREAT)
    for planted in (write, open_one):
        found = counted(
            tmp_path / planted.__name__,
            files.begin,
            files.end,
            plant=lambda engine, does=planted: engine.add_event_handler(
                Events.ITERATION_COMPLETED, does
            ),
        )
        assert sum(map(bool, found)) >= len(found) // 8
    os.close(descriptor)


class Terminal(io.StringIO):
    """Counts how often the bar is drawn: each time goes back to the line's start."""

    def isatty(self) -> bool:
        """So that a bar is drawn."""
        return True


@pytest.mark.parametrize(("seconds", "most"), [(0.001, 52), (0.2, 5000)])
def test_the_bar_is_drawn_ten_times_a_second(seconds: float, most: int) -> None:
    """However often it is told of progress; where that comes more rarely, each time."""
    now = 0.0
    terminal = Terminal()
    display = Display("bar", stderr=terminal, clock=lambda: now)
    display.begin(0, 10_000)
    drawn = terminal.getvalue().count("left")
    for iteration in range(1, 5001):
        now += seconds
        display.progress(iteration, {"train/loss": 0.5})
    drawn = terminal.getvalue().count("left") - drawn
    assert most // 2 <= drawn <= most  # tqdm leaves out some by itself
    display.close()
