"""A training script with everything that is hard to resume, which can stop itself anywhere.

``TEST_STOP`` is ``<place>:<number>:<signal>``: the signal is sent to itself at that place, when
training is at that iteration (for ``fsync``: at that call of it, counted from 1). ``TEST_BROKEN``
takes away one part of the care that resuming takes. ``TEST_DUMP`` names a file for what is left at
the end: the generators and the metrics. ``TEST_PATIENCE`` is how many seconds the end of an attempt
waits for MLflow.
"""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from igniter import RunSpec, train
from igniter.args import train_kwargs
from igniter.engine import Events
from igniter.main import igniter_main

torch.set_num_threads(1)
PLACE, AT, SIGNAL = (os.environ.get("TEST_STOP") or "nowhere:0:SIGTERM").split(":")
BROKEN = os.environ.get("TEST_BROKEN", "")


def stop_here(place: str, iteration: int) -> None:
    """Send the signal if this is the place and the iteration."""
    if place == PLACE and iteration == int(AT):
        os.kill(os.getpid(), signal.Signals[SIGNAL])


class Noisy(Dataset):
    """45 points of a plane, moved a little by each of the three generators."""

    def __len__(self) -> int:
        return 45

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        clean = np.random.RandomState(index).rand(6).astype(np.float32)
        moved = torch.from_numpy(clean) + 0.1 * torch.randn(6)
        moved += 0.1 * random.random() + 0.1 * float(np.random.rand())
        return moved, int(clean.sum() > 3)


def main(args) -> None:
    """Train a small network with batch norm and dropout."""
    data = Noisy()
    workers = {"num_workers": args.workers, "prefetch_factor": 2 if args.workers else None}
    loader = DataLoader(data, batch_size=args.batch_size, shuffle=True, **workers)
    eval_loader = DataLoader(data, batch_size=args.batch_size)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    plateau = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    criterion = nn.CrossEntropyLoss()
    position = {"iteration": 0}

    def train_step(engine, batch):
        position["iteration"] = engine.state.iteration
        stop_here("before", engine.state.iteration)
        model.train()
        inputs, targets = batch
        optimizer.zero_grad()
        loss = criterion(model(inputs), targets)
        loss.backward()
        optimizer.step()
        scheduler.step()
        stop_here("step", engine.state.iteration)
        return {"loss": loss}

    def eval_step(engine, batch):
        if engine.state.iteration == 3:
            stop_here("eval", position["iteration"])
        inputs, targets = batch
        outputs = model(inputs) + 0.01 * torch.randn(len(inputs), 2)
        return {
            "loss": criterion(outputs, targets),
            "accuracy": (outputs.argmax(1) == targets).float(),
        }

    def handlers(engine, trainer):
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda e: stop_here("iteration", e.state.iteration)
        )
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda e: plateau.step())
        for place, event in (
            ("epoch", Events.EPOCH_COMPLETED),
            ("begin", Events.EPOCH_STARTED),
            ("completed", Events.COMPLETED),
        ):
            trainer.add_event_handler(event, lambda e, p=place: stop_here(p, e.state.iteration))

    def eval_handlers(evaluator, trainer):
        evaluator.add_event_handler(
            Events.COMPLETED, lambda e: stop_here("evaluated", trainer.state.iteration)
        )

    to_save = {
        "model": model, "optimizer": optimizer, "scheduler": scheduler, "plateau": plateau
    }  # fmt: skip
    if BROKEN == "left out":
        del to_save["scheduler"]
    if BROKEN == "position":
        from igniter.loader import Batches

        Batches.load_state_dict = lambda self, state: None
    result = train(
        to_save=to_save,
        train_spec=RunSpec(
            step=train_step, loader=loader, metrics={"loss": "loss"}, callback=handlers
        ),
        eval_spec=RunSpec(
            step=eval_step,
            loader=eval_loader,
            metrics={"loss": "loss", "accuracy": "accuracy"},
            callback=eval_handlers,
        ),
        **train_kwargs(args),
        parameters=vars(args),
    )
    if "TEST_DUMP" in os.environ:
        kind, keys, *rest = np.random.get_state()
        left = {
            "random": repr(random.getstate()),
            "numpy": [kind, keys.tolist(), *rest],
            "torch": torch.get_rng_state().tolist(),
            "metrics": {name: repr(value) for name, value in result.metrics.items()},
            "iteration": result.iteration,
            "epoch": result.epoch,
            "mlflow_run_id": result.mlflow_run_id,
        }
        Path(os.environ["TEST_DUMP"]).write_text(json.dumps(left), encoding="utf-8")


def stop_at_fsync() -> None:
    """Count the calls of fsync, and stop in the middle of the one asked for."""
    fsync, count = os.fsync, iter(range(1, 1 << 30))

    def counting(descriptor: int) -> None:
        number = next(count)
        if number == int(AT):
            stop_here("fsync", number)
        fsync(descriptor)

    os.fsync = counting


if __name__ == "__main__":
    if PLACE == "fsync":
        stop_at_fsync()
    if "TEST_PATIENCE" in os.environ:
        from igniter import attempt

        attempt._WAIT_SECONDS["interrupted"] = float(os.environ["TEST_PATIENCE"])
    igniter_main(main=main)
