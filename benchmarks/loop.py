"""What an iteration costs over the raw PyTorch loop on the same loader, in CPU time.

Everything is on: averaging, progress, signals, the journal every 100 iterations, MLflow, exact
position and randomness. Both loops run the same step, in turn, in one process; the figure is the
difference of the process's CPU time an iteration (user + system, the main process alone: loader
workers and the MLflow child are processes of their own), the median over epochs in mid-run.

    python benchmarks/loop.py [--iterations 60000] [--pairs 5] [--workers 0 1] [--work 0]
    python benchmarks/loop.py --profile

The second says where the microseconds go: each part of an iteration is called many times in the
midst of a training, with all that the training has.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import statistics
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import in_turn, machine, silent, spread
from torch.utils.data import DataLoader

import igniter.loader
import igniter.sources
from igniter import RunSpec, train
from igniter.average import samples_in
from igniter.engine import Events, StepEngine
from igniter.rng import set_generators

# Iterations before the first reading, some seconds: workers start, caches fill, and the child that
# sends to MLflow imports it, which takes one of two cores meanwhile.
_SKIPPED = 40_000
_EPOCH = 4_000


def as_array(items: Any) -> Any:
    return np.asarray(items)


def loader(workers: int) -> DataLoader[Any]:
    """Batches of 16 numbers as one array.

    Receiving tensors from a worker costs some 600 µs a batch, with a spread that hides what the
    loop costs; an array costs a tenth of it.
    """
    return DataLoader(
        range(_EPOCH * 16),  # type: ignore[arg-type]
        batch_size=16,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=as_array,
    )


class Reading:
    """A step that reads the CPU clock after each epoch, after ``work`` seconds of being busy."""

    def __init__(self, work: float) -> None:
        self._work = work
        self._count = 0
        self._clock: list[float] = []
        self._output = {"loss": torch.tensor(0.5)}

    def __call__(self, engine: Any, batch: Any) -> Any:
        self._count += 1
        until = time.perf_counter() + self._work
        while time.perf_counter() < until:
            pass
        if self._count >= _SKIPPED and self._count % _EPOCH == 0:
            self._clock.append(time.process_time())
        return self._output

    @property
    def microseconds(self) -> float:
        """CPU time of an iteration, in the epoch that is the median of all."""
        epochs = itertools.pairwise(self._clock)
        return statistics.median(end - begin for begin, end in epochs) / _EPOCH * 1e6


def raw(workers: int, iterations: int, work: float) -> float:
    step, done, batches = Reading(work), 0, loader(workers)
    while done < iterations:
        for batch in batches:
            step(None, batch)
            done += 1
            if done == iterations:
                break
    return step.microseconds


def with_igniter(workers: int, iterations: int, work: float) -> float:
    step = Reading(work)
    trained(step, loader(workers), iterations)
    return step.microseconds


def trained(step: Callable[[Any, Any], Any], batches: Any, iterations: int) -> None:
    """A whole training with everything on, what it writes to the terminal aside."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory, silent():
        train(
            to_save={"model": torch.nn.Linear(4, 1)},
            train_spec=RunSpec(step=step, loader=batches, metrics={"loss": "loss"}, batch_size=len),
            max_epochs=None,
            max_iterations=iterations,
            output_dir=Path(directory) / "run",
            progress="bar",
            mlflow_tracking_uri=f"sqlite:///{directory}/mlflow.db",
        )


class Ready(igniter.sources.Source):
    """In place of a loader's batches: one that is there already, so that the loop alone costs."""

    def open(self, pass_: int, start: int) -> igniter.sources.Opened:
        return itertools.repeat(np.zeros(16)), 0


@contextlib.contextmanager
def batches_that_are_there() -> Iterator[None]:
    whole = igniter.loader._source
    igniter.loader._source = lambda *_: Ready(None)
    try:
        yield
    finally:
        igniter.loader._source = whole


def loop_alone(iterations: int) -> float:
    with batches_that_are_there():
        return with_igniter(0, iterations, 0.0)


class Parts:
    """A step that measures each part of an iteration, once, from where it stands in it."""

    def __init__(self, at: int) -> None:
        self._left = at
        self._output = {"loss": torch.tensor(0.5)}
        self.microseconds: dict[str, float] = {}

    def __call__(self, engine: StepEngine, batch: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            self.microseconds = self._parts(engine, batch)
        return self._output

    def _parts(self, engine: StepEngine, batch: Any) -> dict[str, float]:
        def metrics() -> None:
            for metric in engine._metrics:
                metric.update(engine, self._output, 16)

        return {
            "the seed of the step": cost(lambda: engine._steps(0, 1000)),
            "three generators set": cost(lambda: set_generators(0x0123456789ABCDEF)),
            "averaging: one metric, and a gradient norm that may come": cost(metrics),
            "samples of the batch counted": cost(
                lambda: samples_in(batch, self._output, engine._batch_size)
            ),
            "two events without a handler, safe point at a glance": cost(
                lambda: (
                    engine._fire_event(Events.ITERATION_STARTED),
                    engine._fire_event(Events.ITERATION_COMPLETED),
                )
            ),
            "the next batch, which is there": cost(lambda: next(engine._batches)),
            "the clock read twice": cost(lambda: (engine._clock(), engine._clock())),
            "gradients looked at before the step": cost(engine.before_step),
        }


def cost(part: Callable[[], Any], calls: int = 5_000) -> float:
    """CPU time of one call in µs: of the quickest of many runs, as the first ones are slower."""
    return min(timeit.repeat(part, timer=time.process_time, number=calls, repeat=15)) / calls * 1e6


def profile(iterations: int) -> None:
    step = Parts(at=1_000)
    with batches_that_are_there():
        trained(step, loader(0), 1_010)
    alone = loop_alone(iterations)
    for name, microseconds in step.microseconds.items():
        print(f"{microseconds:>6.2f}  {name}")
    rest = alone - sum(step.microseconds.values())
    print(f"{rest:>6.2f}  the rest: the loop itself, and 1/100 of what a log point costs")
    print(f"{alone:>6.2f}  the loop alone, batches being there")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=60_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--work", type=float, default=0.0, metavar="µs", help="busy time in a step")
    parser.add_argument("--profile", action="store_true", help="say where the microseconds go")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    if args.profile:
        profile(args.iterations)
        return
    work = args.work * 1e-6
    print(f"{'workers':>7}  {'raw µs':>20}  {'igniter µs':>20}  {'added µs':>20}")
    for workers in args.workers:
        theirs, ours = in_turn(
            args.pairs,
            functools.partial(raw, workers, args.iterations, work),
            functools.partial(with_igniter, workers, args.iterations, work),
        )
        added = [with_it - without for without, with_it in zip(theirs, ours, strict=True)]
        print(f"{workers:>7}  {spread(theirs):>20}  {spread(ours):>20}  {spread(added):>20}")
    (alone,) = in_turn(args.pairs, functools.partial(loop_alone, args.iterations))
    print(f"the loop alone, batches being there: {spread(alone)} µs")
    print(f"median (min–max) of {args.pairs} pairs, in turn in one process")


if __name__ == "__main__":
    main()
