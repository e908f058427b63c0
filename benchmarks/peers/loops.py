"""One peer's loop beside the raw loop, in a process of its own: CPU time an iteration, as JSON.

    python loops.py PEER [--iterations N] [--skip N] [--workers N]

The same small model, the same batches and the same update everywhere: the raw loop, the peer, the
raw loop again, and of each the process's CPU time (user + system, without loader workers and
children) between two iterations in mid-run. Each peer is set as light as it can be: no logger, no
bar, no checkpoints, no clipping, no schedule. Only igniter has everything on.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))
from machine import silent

BATCH = 16


class Rows(Dataset[Any]):
    """Rows that are given a batch at a time, so that loading costs little beside the loop."""

    def __init__(self, length: int) -> None:
        self.inputs = torch.randn(length, 8)
        self.targets = torch.randn(length, 1)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Any:
        return self.inputs[index], self.targets[index]

    def __getitems__(self, indices: list[int]) -> Any:
        return self.inputs[indices], self.targets[indices]


class Meter:
    """Reads the CPU clock at two iterations; the model tells it of each."""

    def __init__(self, skip: int, iterations: int) -> None:
        self._first, self._last = skip, skip + iterations
        self._count = 0
        self._begun = 0.0
        self.microseconds = 0.0

    def __call__(self) -> None:
        self._count += 1
        if self._count == self._first:
            self._begun = time.process_time()
        elif self._count == self._last:
            spent = time.process_time() - self._begun
            self.microseconds = spent / (self._last - self._first) * 1e6


class Small(torch.nn.Module):
    """The model that is trained; its forward is an iteration's mark."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 1)
        self._meter = meter

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self._meter()
        return self.layer(inputs)


class Task:
    """What every loop is given: model, optimizer, data, and the length of a single epoch."""

    def __init__(self, skip: int, iterations: int, workers: int) -> None:
        torch.manual_seed(0)
        self.meter = Meter(skip, iterations)
        self.model = Small(self.meter)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.workers = workers
        # Some more than are measured: a loader that looks ahead ends early.
        self.data = Rows((skip + iterations + 10) * BATCH)

    def loader(self) -> DataLoader[Any]:
        return DataLoader(
            self.data, BATCH, shuffle=True, num_workers=self.workers, collate_fn=as_it_is
        )


def as_it_is(batch: Any) -> Any:
    return batch


def raw(task: Task) -> None:
    for inputs, targets in task.loader():
        task.optimizer.zero_grad()
        loss = F.mse_loss(task.model(inputs), targets)
        loss.backward()
        task.optimizer.step()


def _step(task: Task, engine: Any, batch: Any) -> dict[str, torch.Tensor]:
    task.optimizer.zero_grad()
    loss = F.mse_loss(task.model(batch[0]), batch[1])
    loss.backward()
    task.optimizer.step()
    return {"loss": loss}


def igniter(task: Task) -> None:
    from igniter import RunSpec, train

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        train(
            to_save={"model": task.model, "optimizer": task.optimizer},
            train_spec=RunSpec(
                step=functools.partial(_step, task), loader=task.loader(), metrics={"loss": "loss"}
            ),
            max_epochs=1,
            output_dir=f"{directory}/run",
            mlflow_tracking_uri=f"sqlite:///{directory}/mlflow.db",
            progress="bar",
            # After the last iteration, some seconds that are not looked at here.
            picture=False,
            mlflow_log_model=False,
        )


def bare_ignite(task: Task) -> None:
    from ignite.engine import Engine

    Engine(functools.partial(_step, task)).run(task.loader(), max_epochs=1)


def ignite_with_average(task: Task) -> None:
    from ignite.engine import Engine
    from ignite.handlers import ProgressBar
    from ignite.metrics import Average

    engine = Engine(functools.partial(_step, task))
    Average(output_transform=lambda output: output["loss"]).attach(engine, "loss")
    ProgressBar().attach(engine)
    engine.run(task.loader(), max_epochs=1)


def argus_(task: Task) -> None:
    import argus

    class Model(argus.Model):
        nn_module = staticmethod(lambda: task.model)
        optimizer = torch.optim.SGD
        loss = torch.nn.MSELoss

    model = Model({"nn_module": {}, "optimizer": {"lr": 0.01}, "device": "cpu"})
    model.logger.setLevel("ERROR")
    model.fit(task.loader(), num_epochs=1)


def fabric(task: Task) -> None:
    from lightning.fabric import Fabric

    made = Fabric(accelerator="cpu", devices=1)
    made.launch()
    model, optimizer = made.setup(task.model, task.optimizer)
    for inputs, targets in made.setup_dataloaders(task.loader()):
        optimizer.zero_grad()
        loss = F.mse_loss(model(inputs), targets)
        made.backward(loss)
        optimizer.step()


def lightning_(task: Task) -> None:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = task.model

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return F.mse_loss(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return task.optimizer

    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), task.loader())


def accelerate_(task: Task) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(task.model, task.optimizer, task.loader())
    for inputs, targets in loader:
        optimizer.zero_grad()
        loss = F.mse_loss(model(inputs), targets)
        accelerator.backward(loss)
        optimizer.step()


def pytorch_accelerated_(task: Task) -> None:
    from pytorch_accelerated import Trainer

    trainer = Trainer(task.model, F.mse_loss, task.optimizer, callbacks=())
    trainer.train(
        task.data,
        num_epochs=1,
        per_device_batch_size=BATCH,
        collate_fn=as_it_is,
        train_dataloader_kwargs={"num_workers": task.workers, "shuffle": True},
    )


class ForTransformers(torch.nn.Module):
    """The model as transformers' Trainer wants it: keywords in, the loss out."""

    def __init__(self, model: Small) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": F.mse_loss(self.model(inputs), labels)}


def by_keyword(batch: Any) -> dict[str, torch.Tensor]:
    return {"inputs": batch[0], "labels": batch[1]}


def transformers_(task: Task) -> None:
    from transformers import Trainer, TrainingArguments

    with tempfile.TemporaryDirectory() as directory:
        arguments = TrainingArguments(
            output_dir=directory,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            dataloader_num_workers=task.workers,
            use_cpu=True,
            max_grad_norm=0.0,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(task.optimizer, lambda _: 1.0)
        Trainer(
            model=ForTransformers(task.model),
            args=arguments,
            train_dataset=task.data,
            data_collator=by_keyword,
            optimizers=(task.optimizer, schedule),
        ).train()


LOOPS: dict[str, Callable[[Task], None]] = {
    "igniter": igniter,
    "ignite, bare engine": bare_ignite,
    "ignite, average and bar": ignite_with_average,
    "argus": argus_,
    "Lightning Fabric": fabric,
    "Accelerate": accelerate_,
    "pytorch-accelerated": pytorch_accelerated_,
    "transformers Trainer": transformers_,
    "Lightning Trainer": lightning_,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=LOOPS)
    parser.add_argument("--iterations", type=int, default=5000)
    parser.add_argument("--skip", type=int, default=3000)
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with silent():
        found = []
        for loop in (raw, LOOPS[args.peer], raw):
            task = Task(args.skip, args.iterations, args.workers)
            loop(task)
            found.append(task.meter.microseconds)
    print(json.dumps({"raw": (found[0] + found[2]) / 2, "peer": found[1]}))


if __name__ == "__main__":
    main()
