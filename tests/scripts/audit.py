"""A training script of 20 iterations that logs each, for what the journal knows after a kill.

``AUDIT_KILL`` is the iteration in whose step the process kills itself; ``AUDIT_KILL_RECORD`` that
after whose checkpoint it does, before run.yaml is written. ``AUDIT_NOISE`` is ``train:N`` or
``eval:N``: from iteration N on, what igniter cannot see is in the training's or the evaluation's
result. What ``train`` returned is left in returned.json.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from igniter import RunSpec, train
from igniter.args import train_kwargs
from igniter.main import igniter_main
from igniter.rundir import RunRecord

torch.set_num_threads(1)
KILL = int(os.environ.get("AUDIT_KILL") or 0)
WHERE, SINCE = (os.environ.get("AUDIT_NOISE") or "nowhere:0").split(":")
SIGNAL = signal.Signals[os.environ.get("AUDIT_SIGNAL") or "SIGKILL"]


def noise(where: str, iteration: int) -> float:
    """A number that no seed decides, where and since when it is asked for; else 0."""
    if where != WHERE or iteration < int(SINCE):
        return 0.0
    return int.from_bytes(os.urandom(4), "little") / 2**32


def main(args) -> None:
    """Train a line through five batches an epoch."""
    loader = DataLoader(TensorDataset(torch.linspace(-1, 1, 20).reshape(20, 1)), 4, shuffle=True)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.learning_rate)
    position = {"iteration": 0}

    def step(engine, batch):
        position["iteration"] = iteration = engine.state.iteration
        if iteration == KILL:
            os.kill(os.getpid(), SIGNAL)
        optimizer.zero_grad()
        loss = (model(batch[0]) - 1).square().mean() + noise("train", iteration)
        loss.backward()
        optimizer.step()
        return {"loss": loss}

    def eval_step(engine, batch):
        loss = model(batch[0]).mean() + noise("eval", position["iteration"])
        return {"loss": loss, "undefined": float("nan")}

    result = train(
        to_save={"model": model, "optimizer": optimizer},
        train_spec=RunSpec(step=step, loader=loader, metrics={"loss": "loss"}),
        eval_spec=RunSpec(
            step=eval_step, loader=loader, metrics={"loss": "loss", "undefined": "undefined"}
        ),
        **train_kwargs(args),
        parameters=vars(args),
    )
    returned = {name: repr(value) for name, value in sorted(result.metrics.items())}
    Path("returned.json").write_text(json.dumps(returned), encoding="utf-8")


def kill_before_the_record(iteration: int) -> None:
    """Die where run.yaml is to say that a checkpoint of ``iteration`` stands."""
    save = RunRecord.save

    def save_unless(record: RunRecord, path: Path) -> None:
        if record.iteration == iteration:
            os.kill(os.getpid(), signal.SIGKILL)
        save(record, path)

    RunRecord.save = save_unless


if __name__ == "__main__":
    if "AUDIT_KILL_RECORD" in os.environ:
        kill_before_the_record(int(os.environ["AUDIT_KILL_RECORD"]))
    igniter_main(main=main)
