"""Runs of twelve iterations with the ready-made callbacks, built anew for every attempt."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from support import Crash, checkpoint, points
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from igniter import RunSpec, train
from igniter.result import Result

torch.set_num_threads(1)

BUILT: list[Any] = []


@dataclass
class Part:
    """What an attempt has besides the plain training.

    Args:
        callbacks: of the training.
        weights: that the evaluation runs with.
        accumulate: the iterations to an update; groups do not end with epochs.
        trained: makes the optimizer of the model; all parameters in one group where it is None.
        metrics: of the evaluation.
        values: gives the evaluation's loss, by training's iteration, instead of the model.
    """

    callbacks: Sequence[Any] = ()
    weights: Any = None
    accumulate: int = 1
    trained: Callable[[nn.Sequential], torch.optim.Optimizer] | None = None
    metrics: Mapping[str, Any] = field(default_factory=lambda: {"loss": "loss"})
    values: Callable[[int], float] | None = None


def network() -> nn.Sequential:
    """Images of 1 x 4 x 4 to three classes, with batch norm and dropout."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 3)
    )


def images(**how: Any) -> DataLoader[Any]:
    """Twelve images and their classes, shuffled, in batches of three."""
    inputs = torch.linspace(-9, 9, 192).reshape(12, 1, 4, 4).sin()
    data = TensorDataset(inputs, torch.arange(12) % 3)
    return DataLoader(data, **{"batch_size": 3, "shuffle": True, **how})


def attempt(
    run_dir: Path,
    build: Callable[[], Part] = Part,
    stop: int | None = None,
    *,
    how: str = "SIGTERM",
    spoil: Callable[[int, dict[str, Any]], None] = lambda iteration, output: None,
    also: Callable[[], dict[str, Any]] = dict,
    **settings: Any,
) -> Result | None:
    """One start, perhaps stopped in iteration ``stop``; None where it ended as if killed.

    ``how`` is a signal's name or ``crash``. ``spoil`` may change the output of a step, and
    ``also`` gives more to save. The model and the optimizer are left in ``BUILT``.
    """
    torch.manual_seed(0)
    model = network()
    part = build()
    make = part.trained or (lambda model: torch.optim.SGD(model.parameters(), 0.05, momentum=0.9))
    BUILT[:] = [model]
    optimizer = make(model)
    BUILT.insert(1, optimizer)

    def step(engine: Any, batch: Any) -> dict[str, Any]:
        iteration = engine.state.iteration
        model.train()
        inputs, targets = batch
        loss = cross_entropy(model(inputs), targets)
        (loss / part.accumulate).backward()
        if iteration % part.accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
        if iteration == stop:
            if how == "crash":
                raise Crash
            os.kill(os.getpid(), signal.Signals[how])
        output = {"loss": loss.detach()}
        spoil(iteration, output)
        return output

    def eval_step(engine: Any, batch: Any) -> dict[str, Any]:
        if part.values is not None:
            return {"loss": part.values(engine.stage)}
        return {"loss": cross_entropy(model(batch[0]), batch[1])}

    given = {
        "output_dir": run_dir, "max_epochs": 3, "mlflow": False, "progress": "none",
        "log_every": 2, "save_every": "5 iterations", "eval_every": "2 iterations",
        "picture": False,
    }  # fmt: skip
    try:
        return train(
            to_save={"model": model, "optimizer": optimizer, **also()},
            train_spec=RunSpec(
                step=step, loader=images(), metrics={"loss": "loss"}, callback=list(part.callbacks)
            ),
            eval_spec=RunSpec(
                step=eval_step, loader=images(), metrics=part.metrics, weights=part.weights
            ),
            **{**given, **settings},
        )
    except Crash:
        return None


def final_state(run_dir: Path) -> dict[str, Any]:
    """All state of a run's newest checkpoint, and what it logged."""
    return {**checkpoint(run_dir)[1], "points": points(run_dir)}


def module_of(run_dir: Path, name: str = "model") -> dict[str, torch.Tensor]:
    """The state of a module in a run's newest checkpoint."""
    found: dict[str, torch.Tensor] = checkpoint(run_dir)[1]["state"][name]
    return found
