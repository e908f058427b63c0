"""A small training script that does what ``TEST_DO`` says, at iteration 8 of 12.

It takes the flags of igniter alone; an epoch has 6 iterations.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from igniter import RunSpec, train
from igniter.args import train_kwargs
from igniter.main import igniter_main

torch.set_num_threads(1)
DO = os.environ.get("TEST_DO", "")


class Data(Dataset):
    """Eighteen noisy numbers."""

    def __len__(self) -> int:
        return 18

    def __getitem__(self, index: int) -> torch.Tensor:
        if DO == "worker dies" and index == 17:
            os._exit(9)
        return torch.tensor([float(index)]) / 18 + 0.1 * torch.rand(1)


def kill(*names: str) -> None:
    """Send these signals to this process."""
    for name in names:
        os.kill(os.getpid(), signal.Signals[name])


def act() -> None:
    """Do it, when the checkpoint of the first epoch is there: a thread writes it meanwhile."""
    late = time.monotonic() + 20
    saves = "1 epoch" in sys.argv and "--resume" not in sys.argv
    while saves and not list(Path().glob("*/checkpoints/iteration-00000006")):
        assert time.monotonic() < late
        time.sleep(0.001)
    if DO == "raise":
        raise ValueError("something of the user's")
    if DO.startswith("signal SIG"):
        kill(*DO.split()[1:])
    if DO.startswith("group "):
        os.killpg(os.getpgid(0), signal.Signals[DO.split()[1]])
    if DO.startswith("signal while recording "):
        from igniter import attempt

        now = attempt.utc_now
        attempt.utc_now = lambda: [kill(DO.split()[-1]), now()][1]
    if DO.startswith("signal while saving "):
        fsync = os.fsync

        def interrupted(descriptor: int) -> None:
            os.fsync = fsync
            kill(DO.split()[-1])
            fsync(descriptor)

        kill("SIGTERM")
        os.fsync = interrupted
    if DO == "wait":
        Path("waiting").touch()
        while not Path("go").exists():
            time.sleep(0.01)
    if DO == "full disk":

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        os.fsync = full


def main(args) -> None:
    """Train a line."""
    loader = DataLoader(Data(), batch_size=3, shuffle=True, num_workers=args.workers)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.learning_rate)

    def step(engine, batch):
        if DO == "tell modules" and not Path("modules").exists():
            Path("modules").write_text(" ".join(sys.modules), encoding="utf-8")
        optimizer.zero_grad()
        loss = (model(batch) - 1).square().mean()
        loss.backward()
        optimizer.step()
        if DO and engine.state.iteration == 8:
            act()
            if DO == "nan":
                loss = loss * float("nan")
            if DO == "no dict":
                return loss
            if DO == "no key":
                return {"lost": loss}
        return {"loss": loss}

    train(
        to_save={"model": model, "optimizer": optimizer},
        train_spec=RunSpec(step=step, loader=loader, metrics={"loss": "loss"}),
        **train_kwargs(args),
        parameters=vars(args),
    )


if __name__ == "__main__":
    for name in os.environ.get("TEST_IGNORE", "").split():
        signal.signal(signal.Signals[name], signal.SIG_IGN)
    igniter_main(main=main)
