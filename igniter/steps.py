"""The ordinary supervised steps: functions of ``(engine, batch)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from igniter.average import samples_in
from igniter.updates import Updates


def supervised_training(
    model: torch.nn.Module,
    criterion: Callable[[Any, Any], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    updates: Updates,
    scheduler: Any = None,
) -> Callable[[Any, Any], dict[str, Any]]:
    """Training on batches of (inputs, targets), of whatever shapes the model takes."""

    def step(engine: Any, batch: Any) -> dict[str, Any]:
        inputs, targets = batch
        model.train()
        with updates.autocast():
            predictions = model(inputs)
            loss = criterion(predictions, targets)
        updates.backward(loss, weight=samples_in(batch, None))
        if updates.due:
            updates.step(optimizer)
            if scheduler is not None and updates.stepped:
                scheduler.step()
            optimizer.zero_grad()
        return {**_output(loss, predictions, targets), **updates.measured()}

    return step


def supervised_evaluation(
    model: torch.nn.Module, criterion: Callable[[Any, Any], torch.Tensor], updates: Updates
) -> Callable[[Any, Any], dict[str, Any]]:
    """The loss and the predictions for one batch of (inputs, targets)."""

    def step(engine: Any, batch: Any) -> dict[str, Any]:
        inputs, targets = batch
        with updates.autocast():
            predictions = model(inputs)
            loss = criterion(predictions, targets)
        return _output(loss, predictions, targets)

    return step


def _output(loss: torch.Tensor, predictions: Any, targets: Any) -> dict[str, Any]:
    output = {"loss": loss.detach(), "target": targets}
    if isinstance(predictions, torch.Tensor):
        output["prediction"] = predictions = predictions.detach()
        if _are_classes(predictions, targets):
            output["accuracy"] = (predictions.argmax(dim=1) == targets).float()
    else:
        output["prediction"] = predictions
    return output


def _are_classes(predictions: torch.Tensor, targets: Any) -> bool:
    return (
        isinstance(targets, torch.Tensor)
        and not targets.is_floating_point()
        and targets.ndim == 1
        and predictions.ndim == 2
    )
