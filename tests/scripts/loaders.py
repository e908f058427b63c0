"""A training script on one of several kinds of loader, which can stop itself.

``TEST_KIND`` names the loader; ``TEST_STOP`` is ``<iteration>:<signal>``, sent to itself in that
step. ``TEST_BROKEN`` is set where the position is not to be restored.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from igniter import RunSpec, train
from igniter.args import train_kwargs
from igniter.main import igniter_main

sys.path.insert(0, str(Path(__file__).parents[1]))
from loading import IteratorState, Points, Stream

AT, SIGNAL = (os.environ.get("TEST_STOP") or "0:SIGTERM").split(":")
KINDS = {
    "stateful stream": lambda: DataLoader(IteratorState(), batch_size=3, num_workers=2),
    "stream": lambda: DataLoader(Stream(), batch_size=3, num_workers=2, persistent_workers=True),
    "no batching": lambda: DataLoader(Points(), batch_size=None, shuffle=True, num_workers=1),
    "spawn": lambda: DataLoader(
        Points(),
        batch_size=2,
        shuffle=True,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context="spawn",
    ),
}


def main(args) -> None:
    """Train one layer on the sums of the rows."""
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step(engine, batch):
        optimizer.zero_grad()
        loss = (model(batch.reshape(-1, batch.shape[-1]).sum(1, keepdim=True)) - 1).square().mean()
        loss.backward()
        optimizer.step()
        if engine.state.iteration == int(AT):
            os.kill(os.getpid(), signal.Signals[SIGNAL])
        return {"loss": loss}

    if os.environ.get("TEST_BROKEN"):
        from igniter.loader import Batches

        Batches.load_state_dict = lambda self, state: None
    train(
        to_save={"model": model, "optimizer": optimizer},
        train_spec=RunSpec(
            step=step,
            loader=KINDS[os.environ["TEST_KIND"]](),
            metrics={"loss": "loss"},
            batch_size=len,
        ),
        **train_kwargs(args),
        parameters=vars(args),
    )


if __name__ == "__main__":
    igniter_main(main)
