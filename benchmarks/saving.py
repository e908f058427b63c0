"""What a checkpoint costs: the standstill, the write behind training, and the throughput.

A training in one process; its state is a model and its Adam, --megabytes in all, saved every few
iterations.

Idle: the step waits until the save before is committed, and measures in turn with each save

- one copy of the same tensors into warm memory; the standstill is the gap between two steps at a
  save, less the usual gap, as a multiple of it;
- writing the same bytes raw, and one fsync; the write behind is from the end of the standstill to
  the commit.

Busy: the step multiplies matrices on all cores. What the iterations from a save to its commit took
beyond the iterations before is what it costs training; over the interval that --save-every auto
chooses by its own measure, this is the loss of throughput.

    python benchmarks/saving.py [--megabytes 720] [--saves 9]
    python benchmarks/saving.py --busy --megabytes 1000 [--saves 15]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from machine import machine, resident, spread, touch_page_cache, write_plainly

from igniter import RunSpec, train
from igniter.committing import Committer, Written
from igniter.pacing import Pace

_WIDTH = 1024
_WARM = 2  # saves that are not counted: their memory is touched for the first time


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def built(megabytes: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A model and its Adam of so many megabytes: a third the weights, the rest two averages."""
    layers = max(1, round(megabytes * 1e6 / 3 / (4 * _WIDTH * (_WIDTH + 1))))
    model = torch.nn.Sequential(*(torch.nn.Linear(_WIDTH, _WIDTH) for _ in range(layers)))
    model.to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(part)


class Commits:
    """When each commit began and ended, and what it came to by the saver's own measure."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []
        self.seconds: list[float] = []
        write = Committer.write

        def timed(*args: Any, **kwargs: Any) -> Written:
            began = time.perf_counter()
            written = write(*args, **kwargs)
            self.times.append((began, time.perf_counter()))
            self.seconds.append(written.seconds)
            return written

        Committer.write = timed  # type: ignore[method-assign]


class Step:
    """Measures between its calls; ``every`` iterations there is a save."""

    def __init__(self, every: int, commits: Commits) -> None:
        self.every, self.commits = every, commits
        self.entered: dict[int, float] = {}
        self.left: dict[int, float] = {}

    def __call__(self, engine: Any, batch: Any) -> Any:
        iteration = engine.state.iteration
        self.entered[iteration] = time.perf_counter()
        self.work(iteration)
        self.left[iteration] = time.perf_counter()
        return {"loss": 0.0}

    def work(self, iteration: int) -> None:
        raise NotImplementedError

    def gap_after(self, iteration: int) -> float:
        """Seconds between this step and the next."""
        return self.entered[iteration + 1] - self.left[iteration]


class Idle(Step):
    """Copies and writes the same bytes itself, while no save is in flight."""

    def __init__(self, commits: Commits, tensors: list[torch.Tensor], folder: Path) -> None:
        super().__init__(8, commits)
        self.tensors, self.folder = tensors, folder
        self.on_host = [tensor.cpu() for tensor in tensors]
        pin = torch.cuda.is_available()
        self.warm = [torch.empty_like(t, pin_memory=pin).copy_(t) for t in self.on_host]
        self.copies: list[float] = []
        self.raws: list[float] = []
        self.memory: list[float] = []

    def work(self, iteration: int) -> None:
        saves, place = divmod(iteration, self.every)
        if place == 1:
            while len(self.commits.times) < saves:
                time.sleep(0.001)
            self.memory.append(resident())
        elif place == 3:
            self.raws.append(write_plainly(self.on_host, self.folder / "raw"))
        elif place == 6:
            self.copies.append(self._copy())

    def _copy(self) -> float:
        began = time.perf_counter()
        for target, tensor in zip(self.warm, self.tensors, strict=True):
            target.copy_(tensor, non_blocking=True)
        synchronize()
        return time.perf_counter() - began


class Busy(Step):
    """Trains, as far as the processor can tell."""

    def __init__(self, commits: Commits) -> None:
        super().__init__(40, commits)
        self.factors = [torch.randn(1024, 1024, device=DEVICE) for _ in range(2)]

    def work(self, iteration: int) -> None:
        for _ in range(8):
            torch.mm(*self.factors)
        synchronize()

    def lost(self, save: int) -> float:
        """Seconds that the ``save``-th save took from training."""
        at = (save + 1) * self.every
        usual = statistics.median(
            self.entered[i + 1] - self.entered[i] for i in range(at - self.every // 2, at - 1)
        )
        ended = self.commits.times[save][1]
        taken = []
        while self.entered[at] < ended:
            taken.append(self.entered[at + 1] - self.entered[at])
            at += 1
        return sum(taken) - usual * len(taken)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def trained(step: Step, objects: dict[str, Any], saves: int, folder: Path) -> None:
    train(
        to_save=objects,
        train_spec=RunSpec(step=step, loader=[torch.zeros(1)] * 100, metrics={"loss": "loss"}),
        max_epochs=None,
        max_iterations=(saves + _WARM + 1) * step.every - 1,
        epoch_length=100_000,
        output_dir=folder / "run",
        save_every=f"{step.every} iterations",
        keep_last=1,
        mlflow=False,
        picture=False,
        progress="none",
    )


def idle(objects: dict[str, Any], saves: int, folder: Path) -> None:
    commits = Commits()
    tensors = [t for each in objects.values() for t in tensors_in(each.state_dict())]
    step = Idle(commits, tensors, folder)
    megabytes = sum(tensor.nbytes for tensor in tensors) / 1e6
    before = resident()
    trained(step, objects, saves, folder)
    counted = range(_WARM, saves + _WARM)
    usual = statistics.median(step.gap_after(i) for i in step.left if i % step.every == 4)
    still = [step.gap_after((n + 1) * step.every) - usual for n in range(saves + _WARM)]
    print(f"state {megabytes:.0f} MB in {len(tensors)} tensors; {saves} saves, median (min–max)")
    print(f"  one copy into warm memory  {spread([step.copies[n] * 1e3 for n in counted])} ms")
    print(f"  standstill                 {spread([still[n] * 1e3 for n in counted])} ms")
    ratios = [still[n] / step.copies[n] for n in counted]
    print(f"  standstill, of one copy    {spread(ratios, '.2f')}")
    print(f"  the first standstill, its memory being fresh  {still[0] * 1e3:.1f} ms")
    rates = [megabytes / (end - begun) for begun, end in commits.times]
    raws = [megabytes / seconds for seconds in step.raws]
    print(f"  raw write and fsync        {spread([raws[n] for n in counted], '.0f')} MB/s")
    print(f"  write behind               {spread([rates[n] for n in counted], '.0f')} MB/s")
    print(f"  write behind, of raw       {spread([rates[n] / raws[n] for n in counted], '.2f')}")
    held = statistics.median(step.memory[_WARM:]) - before
    print(f"  memory held for the copy   {held:.0f} MB, {held / megabytes:.2f} of the state")


def busy(objects: dict[str, Any], saves: int, folder: Path) -> None:
    commits = Commits()
    step = Busy(commits)
    trained(step, objects, saves, folder)
    counted = range(_WARM, saves + _WARM)
    lost = [step.lost(n) for n in counted]
    own = [step.gap_after((n + 1) * step.every) + commits.seconds[n] for n in counted]
    pace = Pace(0.01, lambda: 0, lambda text: None)
    for cost in own:
        pace.measured(cost)
    usual = statistics.median(step.entered[i + 1] - step.entered[i] for i in range(2, step.every))
    print(f"{usual * 1e3:.0f} ms an iteration; {saves} saves, median (min–max)")
    print(f"  what a save takes from training       {spread(lost, '.2f')} s")
    print(f"  the same by the saver's own measure   {spread(own, '.2f')} s")
    share = statistics.median(lost) / pace.seconds
    print(f"  --save-every auto: every {pace.seconds:.0f} s; throughput {1 - share:.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=720)
    parser.add_argument("--saves", type=int, default=9)
    parser.add_argument("--busy", action="store_true", help="measure what saves take from training")
    args = parser.parse_args()
    print(machine())
    model, optimizer = built(args.megabytes)
    objects = {"model": model, "optimizer": optimizer}
    with tempfile.TemporaryDirectory(dir=".", prefix=".saving-") as folder:
        touch_page_cache([torch.ones(args.megabytes * 250_000)], Path(folder))
        (busy if args.busy else idle)(objects, args.saves, Path(folder))


if __name__ == "__main__":
    main()
