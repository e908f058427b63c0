"""What an iteration costs over the raw PyTorch loop on the same loader, in CPU time.

Everything is on: averaging, progress, signals, the journal every 100 iterations, MLflow, exact
position and randomness. Both loops run the same step, in turn, in one process; the figure is the
difference of the process's CPU time an iteration (user + system, the main process alone: loader
workers and the MLflow child are processes of their own), between two iterations in mid-run.

    python benchmarks/loop.py [--iterations 60000] [--pairs 5] [--workers 0 1] [--work 0]
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

import igniter.loader
import igniter.sources
from igniter import RunSpec, train

# Iterations before the first reading, some seconds: workers start, caches fill, and the child that
# sends to MLflow imports it, which takes one of two cores meanwhile.
_SKIPPED = 40_000


def as_array(items: Any) -> Any:
    return np.asarray(items)


def loader(workers: int) -> DataLoader[Any]:
    """Batches of 16 numbers as one array.

    Receiving tensors from a worker costs some 600 µs a batch, with a spread that hides what the
    loop costs; an array costs a tenth of it.
    """
    return DataLoader(
        range(64_000),  # type: ignore[arg-type]
        batch_size=16,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=as_array,
    )


class Reading:
    """A step that reads the CPU clock at two iterations, after ``work`` seconds of being busy."""

    def __init__(self, iterations: int, work: float) -> None:
        self._last = iterations
        self._work = work
        self._count = 0
        self._first = 0.0
        self.microseconds = 0.0
        self._output = {"loss": torch.tensor(0.5)}

    def __call__(self, engine: Any, batch: Any) -> Any:
        self._count += 1
        until = time.perf_counter() + self._work
        while time.perf_counter() < until:
            pass
        if self._count == _SKIPPED:
            self._first = time.process_time()
        elif self._count == self._last:
            spent = time.process_time() - self._first
            self.microseconds = spent / (self._last - _SKIPPED) * 1e6
        return self._output


def raw(workers: int, iterations: int, work: float) -> float:
    step, done, batches = Reading(iterations, work), 0, loader(workers)
    while done < iterations:
        for batch in batches:
            step(None, batch)
            done += 1
            if done == iterations:
                break
    return step.microseconds


def with_igniter(workers: int, iterations: int, work: float) -> float:
    step = Reading(iterations, work)
    model = torch.nn.Linear(4, 1)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        train(
            to_save={"model": model},
            train_spec=RunSpec(
                step=step, loader=loader(workers), metrics={"loss": "loss"}, batch_size=len
            ),
            max_epochs=None,
            max_iterations=iterations,
            output_dir=Path(directory) / "run",
            progress="bar",
            mlflow_tracking_uri=f"sqlite:///{directory}/mlflow.db",
        )
    return step.microseconds


class Ready(igniter.sources.Source):
    """In place of a loader's batches: one that is there already, so that the loop alone costs."""

    def open(self, pass_: int, start: int) -> Any:
        return itertools.repeat(np.zeros(16))


def loop_alone(iterations: int) -> float:
    whole = igniter.loader._source
    igniter.loader._source = lambda *_: Ready(None)
    try:
        return with_igniter(0, iterations, 0.0)
    finally:
        igniter.loader._source = whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=60_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--work", type=float, default=0.0, metavar="µs", help="busy time in a step")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
          f"Python {platform.python_version()}, torch {torch.__version__}")  # fmt: skip
    print(f"{'workers':>7}  {'raw µs':>8}  {'igniter µs':>10}  {'added µs (median, min–max)':>28}")
    for workers in args.workers:
        pairs = [
            (
                raw(workers, args.iterations, args.work * 1e-6),
                with_igniter(workers, args.iterations, args.work * 1e-6),
            )
            for _ in range(args.pairs)
        ]
        added = [ours - theirs for theirs, ours in pairs]
        print(
            f"{workers:>7}  {statistics.median(p[0] for p in pairs):>8.1f}  "
            f"{statistics.median(p[1] for p in pairs):>10.1f}  "
            f"{statistics.median(added):>10.1f} ({min(added):.1f}–{max(added):.1f})"
        )
    alone = [loop_alone(args.iterations) for _ in range(args.pairs)]
    print(
        f"the loop alone, batches being there: {statistics.median(alone):.1f} µs "
        f"({min(alone):.1f}–{max(alone):.1f})"
    )


if __name__ == "__main__":
    main()
