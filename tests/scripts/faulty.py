"""A training script with the one fault that ``TEST_FAULT`` names; without it, it is exact.

12 iterations, 6 an epoch. ``TEST_LIBRARY`` trains two runs by ``train`` alone, without
``igniter_main``.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from igniter import RunSpec, train
from igniter.args import train_kwargs
from igniter.engine import Events
from igniter.main import igniter_main

torch.set_num_threads(1)
FAULT = os.environ.get("TEST_FAULT", "")


def chance() -> float:
    """A number that is another one at each call."""
    return int.from_bytes(os.urandom(2), "little") / 65536


class Data(Dataset):
    """Noisy numbers: eighteen, and one for each line of the file ``data.txt``."""

    def __init__(self) -> None:
        if FAULT == "data set's generator":
            self.dice = random.Random()
        if FAULT == "data set's seeded generator":
            self.dice = random.Random(1)
        self.calls = 0
        self.length = 18
        if FAULT == "data that changes":
            with Path("data.txt").open("a+", encoding="utf-8") as file:
                file.write("more\n")
                file.seek(0)
                self.length += 3 * len(file.readlines())

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        self.calls += 1
        value = torch.tensor([index / 18]) + 0.1 * torch.rand(1)
        if FAULT.endswith("generator"):
            value += self.dice.random()
        if FAULT == "data set's counter":
            value += self.calls % 5
        if FAULT == "data set's clock":
            value += chance()
        return value


class Forgetful:
    """An object that does not take back all that it gives."""

    def __init__(self) -> None:
        self.kept, self.dropped = 0, 0

    def state_dict(self) -> dict[str, int]:
        """Both counts."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take back one of the two."""
        self.kept = state["kept"]


class Hidden:
    """Holds a count where nothing looks for state."""

    count = 0


def run(**how) -> object:
    """Train a line."""
    loader = DataLoader(Data(), batch_size=3, shuffle=True)
    model = nn.Linear(1, 1)
    if FAULT == "built by chance":
        nn.init.constant_(model.weight, chance())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    forgetful = Forgetful()
    count = epochs = evaluations = 0
    began = time.time_ns()  # differs in each run, and shapes no result

    def step(engine, batch):
        nonlocal count
        count += 1
        scale = 1.0
        if FAULT == "counter":
            scale += count % 7
        if FAULT == "clock" and time.time_ns() > began:
            scale += time.time_ns() % 1000 / 1000
        if FAULT == "os.urandom":
            scale += chance()
        if FAULT == "hidden":
            Hidden.count += 1
            scale += Hidden.count
        if FAULT == "kernel" and not torch.are_deterministic_algorithms_enabled():
            scale += chance()
        if FAULT == "kernel without a form":
            if torch.are_deterministic_algorithms_enabled():
                raise RuntimeError("frobnicate_cuda does not have a deterministic implementation.")
            scale += chance()
        if FAULT == "draws by chance":
            torch.rand(1 + int(1000 * chance()))
        if FAULT == "load_state_dict":
            forgetful.dropped += 1
            scale += forgetful.dropped
        if FAULT == "raises" and engine.state.iteration == 3:
            raise ValueError("something of the user's")
        if FAULT == "raises after a resume" and count < engine.state.iteration:
            raise ValueError("something of the user's")
        optimizer.zero_grad()
        loss = scale * (model(batch) - torch.rand(1)).square().mean()
        loss.backward()
        optimizer.step()
        if FAULT == "scheduler":
            scheduler.step()
        return {"loss": loss}

    def eval_step(engine, batch):
        nonlocal evaluations
        if FAULT == "evaluation":
            evaluations += 1
        return {"loss": (model(batch) - 1).square().mean() + evaluations}

    def handlers(engine, trainer):
        @trainer.on(Events.EPOCH_COMPLETED)
        def slow_down():
            nonlocal epochs
            epochs += 1
            if FAULT == "handler":
                optimizer.param_groups[0]["lr"] *= 0.5**epochs

    to_save = {"model": model, "optimizer": optimizer}
    if FAULT == "load_state_dict":
        to_save["forgetful"] = forgetful
    return train(
        to_save=to_save,
        train_spec=RunSpec(step=step, loader=loader, metrics={"loss": "loss"}, callback=handlers),
        eval_spec=RunSpec(step=eval_step, loader=loader, metrics={"loss": "loss"}),
        **how,
    )


def main(args) -> None:
    """Train by the flags."""
    if FAULT != "nothing trained":
        run(**train_kwargs(args), parameters=vars(args))


def library() -> None:
    """Train two runs by ``train`` alone."""
    place = "mine" if FAULT != "moving directory" else f"mine-{time.time_ns()}"
    for name in ("first", "second"):
        result = run(name=name, output_dir=place, max_epochs=2)
        print(name, result.status, flush=True)
        if result.status == "interrupted":
            sys.exit(0)


if __name__ == "__main__":
    if os.environ.get("TEST_LIBRARY"):
        library()
    else:
        igniter_main(main=main)
