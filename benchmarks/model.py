"""What the class form adds to an iteration of the same training by a step function.

In turn, in one process: a small model trained by a step function, by an ``igniter.Model``, by one
with every hook overridden, and by one with the usual callbacks. Processor time of the training
thread, an iteration.

    python benchmarks/model.py [--rounds 9] [--iterations 3000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from machine import in_turn, machine, silent, spread
from torch import nn

from igniter import Model, RunSpec, train
from igniter.handlers import EMA, EarlyStopping, NaNGuard
from igniter.hooks import hook_names

_EARLY = 200  # what is done once is done by then


class Plain(Model):
    module = staticmethod(lambda: nn.Linear(16, 4))
    loss = nn.CrossEntropyLoss
    optimizer = torch.optim.SGD


def _nothing(self: Any, *arguments: Any) -> None:
    """A hook that does nothing."""


Hooked = type("Hooked", (Plain,), dict.fromkeys(hook_names(), _nothing))


def by_function(batches: list[Any], settings: dict[str, Any]) -> None:
    model = nn.Linear(16, 4)
    optimizer, criterion = torch.optim.SGD(model.parameters()), nn.CrossEntropyLoss()

    def step(engine: Any, batch: Any) -> dict[str, Any]:
        inputs, targets = batch
        loss = criterion(model(inputs), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": loss.detach()}

    train(
        to_save={"model": model, "optimizer": optimizer},
        train_spec=RunSpec(step=step, loader=batches, metrics={"loss": "loss"}),
        **settings,
    )


def by_class(kind: type[Model], *callbacks: Callable[[], Any]) -> Callable[..., None]:
    def run(batches: list[Any], settings: dict[str, Any]) -> None:
        evaluation = list(batches)[:1] if callbacks else None
        kind().fit(batches, evaluation, callbacks=[make() for make in callbacks], **settings)

    return run


class Clocked(list[Any]):
    """Batches that note this thread's time when one early and the last are asked for."""

    times: tuple[float, ...] = ()

    def __getitem__(self, index: Any) -> Any:
        if index in (_EARLY, len(self) - 1):
            self.times = (*self.times, time.thread_time())
        return super().__getitem__(index)


def timed(training: Callable[..., None], batches: list[Any]) -> float:
    """Microseconds of this thread an iteration."""
    clocked = Clocked(batches)
    with tempfile.TemporaryDirectory() as folder, silent():
        settings = {"max_epochs": 1, "mlflow": False, "progress": "none", "picture": False,
                    "save_every": "never", "log_every": "never", "output_dir": folder}  # fmt: skip
        training(clocked, settings)
    begun, ended = clocked.times
    return (ended - begun) / (len(batches) - 1 - _EARLY) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--iterations", type=int, default=3000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    batches = [(torch.rand(8, 16), torch.randint(4, (8,))) for _ in range(args.iterations)]
    forms: dict[str, Callable[..., None]] = {
        "a step function": by_function,
        "an igniter.Model": by_class(Plain),
        "with every hook overridden": by_class(Hooked),
        "with EMA, EarlyStopping and NaNGuard": by_class(Plain, EMA, EarlyStopping, NaNGuard),
    }
    print(machine())
    timed(by_function, batches)  # what is imported once
    found = in_turn(args.rounds, *(lambda f=f: timed(f, batches) for f in forms.values()))
    for name, values in zip(forms, found, strict=True):
        added = [value - base for value, base in zip(values, found[0], strict=True)]
        print(f"{name:38} {spread(values)} µs an iteration, added {spread(added)}")


if __name__ == "__main__":
    main()
