"""The training script of the chaos run: everything that is hard to resume, by flags.

``CHAOS_WATCH`` names the file of a :class:`watch.Watch`, ``CHAOS_RESULT`` one for what ``train``
returned. ``CHAOS_BROKEN`` plants a fault that the chaos run must find.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from ignite.metrics import Accuracy
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler, WeightedRandomSampler
from watch import COMPLETED, EVALUATING, LOADING, STARTING, TRAINING, Watch

from igniter import Model, Result, RunSpec, train
from igniter.args import train_kwargs
from igniter.engine import Events
from igniter.handlers import EMA, Freezer, Mixup
from igniter.main import igniter_main
from igniter.schedulers import warmup_cosine
from igniter.updates import Updates

torch.set_num_threads(1)
SAMPLES = 45
# Long enough for an evaluation and a step to be met, short enough for hundreds of runs.
STEP_SECONDS, EVAL_SECONDS = 0.006, 0.004
BROKEN = os.environ.get("CHAOS_BROKEN", "")
watch = Watch(Path(os.environ["CHAOS_WATCH"]))


class Noisy(Dataset):
    """Points of a plane, moved a little by each of the three generators."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        clean = np.random.RandomState(index).rand(6).astype(np.float32)
        moved = torch.from_numpy(clean) + 0.1 * torch.randn(6)
        moved += 0.1 * random.random() + 0.1 * float(np.random.rand())
        return moved, int(clean.sum() > 3)


class Lazy(Sampler):
    """A sampler of the user's own, which draws each index when it is asked."""

    def __len__(self) -> int:
        return SAMPLES

    def __iter__(self):
        for _ in range(SAMPLES):
            yield int(torch.randint(SAMPLES, ())) if random.random() < 0.5 else random.randrange(9)


class Stateful(Sampler):
    """A sampler that goes through the data in strides, for ever, and knows where it is."""

    def __init__(self) -> None:
        self.at, self.stride, self.given = 0, 7, 0

    def __len__(self) -> int:
        return SAMPLES

    def __iter__(self):
        while self.given < SAMPLES:
            self.at = (self.at + self.stride) % SAMPLES
            self.given += 1
            yield self.at
        self.stride, self.given = self.stride % 11 + 2, 0

    def state_dict(self) -> dict[str, int]:
        """Where it is, within a pass too."""
        return {"at": self.at, "stride": self.stride, "given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there."""
        self.at, self.stride, self.given = state["at"], state["stride"], state["given"]


class Counter:
    """Counts steps, and tells the watch when a checkpoint is being loaded."""

    def __init__(self) -> None:
        self.steps = 0

    def state_dict(self) -> dict[str, int]:
        """The count."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take it back."""
        watch.say(LOADING)
        self.steps = state["steps"]


def ordered(sampler: str) -> dict[str, object]:
    """What a DataLoader takes for the order of this name."""
    if sampler in ("shuffled", "sequential"):
        return {"shuffle": sampler == "shuffled"}
    made = {
        "weighted": lambda: WeightedRandomSampler(torch.arange(1.0, SAMPLES + 1), SAMPLES),
        "custom": Lazy,
        "stateful": Stateful,
    }
    return {"sampler": made[sampler]()}


def arguments(parser) -> None:
    """What shapes the run besides igniter's own flags."""
    parser.add_argument("--sampler", default="shuffled")
    parser.add_argument("--form", default="function")
    parser.add_argument("--evaluations", type=int, default=1)


def main(args) -> None:
    """Train a small network with batch norm, dropout and two schedulers."""
    watch.say(STARTING)
    by_class = args.form == "class" and BROKEN != "scheduler"
    result = (train_class if by_class else train_function)(args, Noisy())
    returned = {
        "status": result.status,
        "iteration": result.iteration,
        "epoch": result.epoch,
        "metrics": {name: repr(value) for name, value in sorted(result.metrics.items())},
        "best": result.best_checkpoint and result.best_checkpoint.name,
    }
    Path(os.environ["CHAOS_RESULT"]).write_text(json.dumps(returned), encoding="utf-8")


def network() -> nn.Module:
    """With batch norm and dropout."""
    return nn.Sequential(
        nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 2)
    )


def train_function(args, data: Dataset) -> Result:
    """Train by a step function."""
    loader = DataLoader(
        data,
        batch_size=args.batch_size,
        num_workers=args.workers,
        persistent_workers=args.workers == 2,
        **ordered(args.sampler),
    )
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    by_epoch = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    criterion = nn.CrossEntropyLoss()
    counter = Counter()
    updates = Updates(model)

    def train_step(engine, batch):
        iteration = engine.state.iteration
        watch.say(TRAINING, iteration)
        counter.steps += 1
        model.train()
        inputs, targets = batch
        loss = criterion(model(inputs), targets)
        updates.backward(loss, len(targets))
        if updates.due:
            updates.step(optimizer)
            optimizer.zero_grad()
            scheduler.step()
        time.sleep(STEP_SECONDS)
        return {"loss": loss, "rate": optimizer.param_groups[0]["lr"]}

    def eval_step(engine, batch):
        watch.say(EVALUATING, counter.steps)
        inputs, targets = batch
        outputs = model(inputs) + 0.01 * torch.randn(len(inputs), 2)
        time.sleep(EVAL_SECONDS)
        return {
            "loss": criterion(outputs, targets),
            "accuracy": (outputs.argmax(1) == targets).float(),
        }

    def handlers(engine, trainer):
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: by_epoch.step())
        trainer.add_event_handler(Events.COMPLETED, lambda: watch.say(COMPLETED))

    def evaluation(every: str | None, **how) -> RunSpec:
        return RunSpec(
            step=eval_step,
            loader=DataLoader(data, batch_size=args.batch_size, **how),
            metrics={"loss": "loss", "accuracy": "accuracy"},
            every=every,
        )

    evaluations = {"eval": evaluation(None, num_workers=min(args.workers, 1))}
    if args.evaluations == 2:
        evaluations["probe"] = evaluation("5 iterations", shuffle=True)
    to_save = {
        "model": model,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "by_epoch": by_epoch,
        "counter": counter,
    }
    if BROKEN == "scheduler":
        del to_save["scheduler"]
    return train(
        to_save=to_save,
        train_spec=RunSpec(
            step=train_step,
            loader=loader,
            metrics={"loss": "loss", "rate": "rate"},
            callback=handlers,
            updates=updates,
        ),
        eval_spec=evaluations,
        **train_kwargs(args),
        parameters=vars(args),
    )


class Classifier(Model):
    """The same by the class form, with hooks that count, a moving average and frozen layers."""

    module = staticmethod(network)
    loss = nn.CrossEntropyLoss
    optimizer = torch.optim.Adam
    scheduler = warmup_cosine

    def setup(self) -> None:
        super().setup()
        self.counter, self.seen = Counter(), [0, 0, 0]

    def metrics(self, name: str):
        return {"loss": "loss"} if name == "train" else {"loss": "loss", "accuracy": Accuracy()}

    def train_step(self, batch):
        watch.say(TRAINING, self.iteration)
        self.counter.steps += 1
        time.sleep(STEP_SECONDS)
        return super().train_step(batch)

    def eval_step(self, batch):
        watch.say(EVALUATING, self.counter.steps)
        time.sleep(EVAL_SECONDS)
        return super().eval_step(batch)

    def on_batch_start(self, batch) -> None:
        self.seen[0] += 1

    def on_epoch_start(self, epoch: int) -> None:
        self.seen[1] += epoch

    def on_validation_end(self, cycle: int, name: str, metrics) -> None:
        self.seen[2] += cycle

    def on_training_end(self) -> None:
        self.seen.append(self.iteration)

    def on_attempt_start(self) -> None:
        self.trainer.add_event_handler(Events.COMPLETED, lambda: watch.say(COMPLETED))


def train_class(args, data: Dataset) -> Result:
    """Train by the class form."""
    schedule = {"total_updates": "total_updates", "warmup": 0.2}
    model = Classifier({"optimizer": {"lr": args.learning_rate}, "scheduler": schedule})
    average = EMA(of="module", decay=0.9)

    def loader(**how) -> DataLoader:
        return DataLoader(data, batch_size=args.batch_size, **how)

    evaluations = {"eval": loader(num_workers=min(args.workers, 1))}
    if args.evaluations == 2:
        evaluations["probe"] = model.evaluation(
            loader(shuffle=True), "probe", weights=average, every="5 iterations"
        )
    persistent = args.workers == 2
    order = ordered(args.sampler)
    training = loader(num_workers=args.workers, persistent_workers=persistent, **order)
    return model.fit(
        training,
        evaluations,
        callbacks=[average, Mixup(0.4, num_classes=2), Freezer("module.0", until="9 iterations")],
        **train_kwargs(args),
        parameters=vars(args),
    )


def save_in_place() -> None:
    """Plant the fault of a save that is not atomic: made slowly, under its final name."""
    from igniter.checkpoint.store import CheckpointStore

    commit = CheckpointStore.commit

    def in_place(self, *position, **contents):
        with (
            mock.patch("igniter.atomic.part_name", lambda path: path),
            mock.patch("igniter.atomic.put_directory"),
            mock.patch("os.fsync", side_effect=lambda descriptor: time.sleep(0.05)),
        ):
            return commit(self, *position, **contents)

    CheckpointStore.commit = in_place


if __name__ == "__main__":
    # For a run that hangs: SIGABRT then writes every thread's stack.
    stacks = Path(os.environ["CHAOS_STACKS"]).open("w")  # noqa: SIM115  open to the very end
    faulthandler.enable(stacks)
    if BROKEN == "atomic":
        save_in_place()
    igniter_main(main=main, arguments=arguments)
