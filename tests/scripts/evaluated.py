"""A script with an evaluation that draws, which ``TEST_DO`` says what to do in.

With ``TEST_SUBCOMMANDS`` it has subcommands. What ``train`` returned is left in returned.json,
the number of training steps and of evaluation steps in it too.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from igniter import RunSpec, train
from igniter.args import train_kwargs
from igniter.main import igniter_main

torch.set_num_threads(1)
DO = os.environ.get("TEST_DO", "")


def main(args) -> None:
    """Train a line through five batches an epoch."""
    data = TensorDataset(torch.linspace(-1, 1, 20).reshape(20, 1))
    loader = DataLoader(data, 4, shuffle=True, num_workers=args.workers)
    model = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=args.learning_rate)
    steps = {"train": 0, "eval": 0}

    def step(engine, batch):
        steps["train"] += 1
        if DO == "wait" and engine.state.iteration == 12:
            Path("waiting").touch()
            while not Path("go").exists():
                time.sleep(0.01)
        optimizer.zero_grad()
        loss = (model(batch[0]) - 1).square().mean()
        loss.backward()
        optimizer.step()
        return {"loss": loss}

    def eval_step(engine, batch):
        steps["eval"] += 1
        if DO.startswith("SIG") and engine.state.iteration == 2:
            os.kill(os.getpid(), signal.Signals[DO])
        return {"loss": (model(batch[0]) + torch.rand(())).mean()}

    result = train(
        to_save={"model": model, "optimizer": optimizer},
        train_spec=RunSpec(step=step, loader=loader, metrics={"loss": "loss"}),
        eval_spec=RunSpec(step=eval_step, loader=loader, metrics={"loss": "loss"}),
        **train_kwargs(args),
        parameters=vars(args),
    )
    returned = {
        "metrics": dict(result.metrics),
        "iteration": result.iteration,
        "status": result.status,
        "steps": steps,
    }
    Path("returned.json").write_text(json.dumps(returned), encoding="utf-8")


if __name__ == "__main__":
    igniter_main(main=main, subcommands="TEST_SUBCOMMANDS" in os.environ)
