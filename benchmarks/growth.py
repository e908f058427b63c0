"""How cost grows: the same figures at 1×, 10× and 100× of a size.

    python benchmarks/growth.py [DIMENSION …] [--directory DIR]

A figure is given for each unit of the size where it may grow with it (a megabyte of the state, a
record of the journal, a metric), and whole where it should not. So each line would read 1.0, 1.0
at best: what is above grows worse than it should. Every size is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from torch.utils.data import DataLoader

from igniter import RunSpec, train
from igniter.loader import Batches
from igniter.order import Shuffled
from igniter.tracking.journal import Journal

SAVES = Path(__file__).resolve().parent / "peers" / "saves.py"
Figures = dict[str, float]


@dataclass(frozen=True)
class Dimension:
    """A size that grows; ``measure`` gives the figures by name, with their units in it."""

    what: str
    sizes: tuple[int, int, int]
    measure: Callable[[int, Path], Figures]


class Spent:
    """Seconds that a block took, of the CPU (user and system, all threads) and of the clock."""

    cpu = wall = 0.0


@contextmanager
def timed() -> Iterator[Spent]:
    spent = Spent()
    wall, cpu = time.perf_counter(), time.process_time()
    yield spent
    spent.wall, spent.cpu = time.perf_counter() - wall, time.process_time() - cpu


def memory(name: str) -> float:
    """A line of this process's status in megabytes: ``VmRSS`` now, ``VmHWM`` at its highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(name))
    return int(line.split()[1]) * 1024 / 1e6


@contextmanager
def peak() -> Iterator[Callable[[], float]]:
    """The peak of memory over what there was at the start, in megabytes; Linux."""
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    yield lambda: memory("VmHWM") - before


def state(kilobytes: int, directory: Path) -> Figures:
    command = [sys.executable, SAVES, "igniter", "--megabytes", str(kilobytes / 1000)]
    command += ["--saves", "5", "--directory", directory]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    megabytes = kilobytes / 1000
    return {
        "training stands still, µs a MB": statistics.median(found["stood"]) / megabytes * 1e6,
        "committed after, ms a MB": statistics.median(found["durable"]) / megabytes * 1e3,
        "extra memory, copies": found["extra_memory"],
    }


def journal(records: int, directory: Path) -> Figures:
    path = directory / "journal.jsonl"
    with timed() as appending:
        written = Journal.open(path, attempt=1, warn=print)
        for iteration in range(1, records + 1):
            written.log(iteration, 1, {"train/loss": 1 / iteration})
    written.sync()
    with timed() as at_the_end:
        Journal.open(path, attempt=2, offset=written.offset, warn=print)
    with peak() as extra, timed() as from_the_start:
        again = Journal.open(path, attempt=3, warn=print)
        for iteration in range(1, records + 1):
            again.log(iteration, 1, {"train/loss": 1 / iteration})
    if again.divergence is not None:
        raise RuntimeError(str(again.divergence))
    return {
        "append, µs a record": appending.cpu / records * 1e6,
        "opened at its end, CPU ms": at_the_end.cpu * 1e3,
        "read and run again from its start, µs a record": from_the_start.cpu / records * 1e6,
        "memory of that, MB": extra(),
    }


class Saves:
    """A step that awaits the checkpoint of the iteration before, and notes what that took."""

    def __init__(self, checkpoints: Path) -> None:
        self._checkpoints = checkpoints
        self._ended, self._ended_cpu = 0.0, 0.0
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self.first_step = 0.0

    def __call__(self, engine: Any, batch: Any) -> dict[str, float]:
        self.first_step = self.first_step or time.process_time()
        if self._ended:
            path = self._checkpoints / f"iteration-{engine.state.iteration - 1:08d}"
            while not path.exists():
                time.sleep(0.0001)
            self.seconds.append(time.perf_counter() - self._ended)
            self.cpu_seconds.append(time.process_time() - self._ended_cpu)
        self._ended, self._ended_cpu = time.perf_counter(), time.process_time()
        return {"loss": 0.5}


def _saving_each(directory: Path, iterations: int, kept: int) -> tuple[Saves, float]:
    """A run that saves after each iteration; and the CPU seconds to its first step."""
    step, begun = Saves(directory / "run" / "checkpoints"), time.process_time()
    _quiet_run(
        directory / "run",
        RunSpec(step=step, loader=[torch.zeros(1)] * 1000, metrics={"loss": "loss"}),
        iterations,
        save_every="1 iteration",
        keep_last=kept,
    )
    return step, step.first_step - begun


def _quiet_run(directory: Path, spec: RunSpec, iterations: int, **settings: Any) -> None:
    train(
        to_save={"model": torch.nn.Linear(8, 1)},
        train_spec=spec,
        output_dir=directory,
        max_epochs=None,
        max_iterations=iterations,
        progress="none",
        device="cpu",
        mlflow=False,
        picture=False,
        **settings,
    )


def kept(checkpoints: int, directory: Path) -> Figures:
    _saving_each(directory, checkpoints, checkpoints)
    return _saves_and_starts(directory, checkpoints, checkpoints)


def restarts(number: int, directory: Path) -> Figures:
    for iteration in range(1, number + 1):
        _saving_each(directory, iteration, 3)
    return _saves_and_starts(directory, number, 3)


def _saves_and_starts(directory: Path, iteration: int, kept: int) -> Figures:
    """A run made longer three times from ``iteration`` on."""
    attempts = [_saving_each(directory, iteration + more, kept) for more in (20, 40, 60)]
    seconds = [value for saves, _ in attempts for value in saves.seconds]
    cpu = [value for saves, _ in attempts for value in saves.cpu_seconds]
    return {
        "a save until it is committed, ms": statistics.median(seconds) * 1e3,
        "a save and its iteration, CPU ms": statistics.median(cpu) * 1e3,
        "from train() to the first step, CPU ms": statistics.median(s for _, s in attempts) * 1e3,
    }


def metrics(number: int, directory: Path) -> Figures:
    output = {f"key_{n}": torch.tensor(0.5) for n in range(number)}
    named = {f"metric_{n}": f"key_{n}" for n in range(number)}

    def microseconds(metrics: dict[str, str], log_every: int) -> float:
        spent = _iterations(output, metrics, log_every, directory / f"run-{next(_count)}")
        return spent * 1e6

    without, followed, logged = [], [], []
    for _ in range(3):
        without.append(microseconds({}, 10**9))
        followed.append(microseconds(named, 10**9))
        logged.append(microseconds(named, 10))
    loop = [a - b for a, b in zip(followed, without, strict=True)]
    points = [10 * (a - b) for a, b in zip(logged, followed, strict=True)]
    return {
        "an iteration, CPU µs a metric": statistics.median(loop) / number,
        "a log point, CPU µs a metric": statistics.median(points) / number,
    }


_count = itertools.count()


def _iterations(output: Any, metrics: dict[str, str], log_every: int, directory: Path) -> float:
    """CPU seconds an iteration in mid-run."""
    first, last = 500, 3500
    found: list[float] = []

    def step(engine: Any, batch: Any) -> Any:
        if engine.state.iteration in (first, last):
            found.append(time.process_time())
        return output

    spec = RunSpec(step=step, loader=[torch.zeros(1)] * 1000, metrics=metrics)
    _quiet_run(directory, spec, last + 1, log_every=log_every, save_every="1000 epochs")
    return (found[1] - found[0]) / (last - first)


def dataset(length: int, directory: Path) -> Figures:
    def entered(pass_: int) -> float:
        batches.seek(pass_, length // 32)
        with timed() as spent:
            next(batches)
        return spent.wall

    with peak() as extra:
        loader = DataLoader(range(length), batch_size=16, shuffle=True)  # type: ignore[arg-type]
        batches = Batches(loader, seed=0, purpose="train")
        to_the_middle = statistics.median(entered(pass_) for pass_ in range(5))
        with timed() as reading:
            for _ in range(5000):
                next(batches)
        most = extra()
    seen, order = np.zeros(length, dtype=bool), Shuffled(length, key=1)
    with timed() as ordering:
        for start in range(0, length, 1 << 13):
            seen[order.slice(start, start + (1 << 13))] = True
    if not seen.all():
        raise RuntimeError(f"of {length} indices {length - seen.sum()} are left out")
    return {
        "to its middle, ms": to_the_middle * 1e3,
        "a batch from there on, CPU µs": reading.cpu / 5000 * 1e6,
        "memory, MB": most,
        "all indices drawn, each once, CPU ns an index": ordering.cpu / length * 1e9,
    }


DIMENSIONS = {
    "state": Dimension("kB of state", (7_200, 72_000, 720_000), state),
    "journal": Dimension("records in the journal", (10_000, 100_000, 1_000_000), journal),
    "kept": Dimension("checkpoints kept", (10, 100, 1_000), kept),
    "restarts": Dimension("restarts of the run", (1, 10, 100), restarts),
    "metrics": Dimension("metrics", (1, 10, 100), metrics),
    "dataset": Dimension("indices in the dataset", (10**6, 10**7, 10**8), dataset),
}


def measured(name: str, size: int, directory: Path | None) -> Figures:
    """The figures at one size, from a process of its own."""
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        command = [sys.executable, __file__, name, "--size", str(size), "--directory", folder]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


def print_table(name: str, directory: Path | None) -> None:
    dimension = DIMENSIONS[name]
    found = [measured(name, size, directory) for size in dimension.sizes]
    head = " | ".join(f"{size:,}" for size in dimension.sizes)
    print(f"\n| {dimension.what} | {head} | 10× | 100× |\n|---|---|---|---|---|---|")
    for figure in found[0]:
        values = [figures[figure] for figures in found]
        ratios = [_ratio(value, values[0]) for value in values[1:]]
        print(f"| {figure} | {' | '.join(f'{v:,.2f}' for v in values)} | {' | '.join(ratios)} |")
    sys.stdout.flush()


def _ratio(value: float, first: float) -> str:
    return f"{value / first:.1f}" if first >= 0.1 else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", nargs="*", help=f"{', '.join(DIMENSIONS)}; all by default")
    parser.add_argument("--directory", type=Path, help="where it is written meanwhile")
    parser.add_argument("--size", type=int, help="one size, and its figures as JSON")
    args = parser.parse_args()
    unknown = set(args.which) - set(DIMENSIONS)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: there are {', '.join(DIMENSIONS)}")
    torch.set_num_threads(1)
    if args.size is not None:
        (name,) = args.which
        figures = DIMENSIONS[name].measure(args.size, args.directory)
        print(json.dumps(figures))
        return
    print(machine(), flush=True)
    for name in args.which or DIMENSIONS:
        print_table(name, args.directory)


if __name__ == "__main__":
    main()
