"""What can be done with a model: fit, validate, test, predict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from igniter import training
from igniter.cadence import Length
from igniter.devices import device_named
from igniter.evaluation import eval_mode
from igniter.extent import extent
from igniter.loader import length_of
from igniter.models import specs
from igniter.models.base import ModelBase
from igniter.models.steps import Steps
from igniter.result import Result
from igniter.rng import kept_generators, seed_everything
from igniter.schedulers import Sizes
from igniter.settings import Settings
from igniter.spec import RunSpec

# The arguments of ``train`` that are no settings.
_OF_TRAIN = ("parameters", "name", "identity", "on_interrupt")


def fit(
    model: ModelBase,
    loader: Any,
    evaluations: Any,
    callbacks: Any,
    options: Mapping[str, Any],
) -> Result:
    """Have the parts made for a run of this length, and train."""
    settings = Settings.of({n: v for n, v in options.items() if n not in _OF_TRAIN})
    length = extent(settings, RunSpec(step=model.train_step, loader=loader), length_of(loader))
    sizes = sizes_of(length, settings.accumulate)
    _build(model, settings.device, settings.seed, sizes)
    _require_parts(model, "train_step", _OF_TRAINING)
    if not {"parameters", "identity"} & set(options):
        # Two models are two runs.
        options = {**options, "parameters": {"model": type(model).__name__, **model.parameters}}
    try:
        return training.train(
            to_save=model.to_save(),
            train_spec=specs.training(model, loader, callbacks),
            eval_spec=specs.evaluations(model, evaluations),
            about=specs.about(model),
            **options,
        )
    finally:
        model.trainer = None


_OF_EVALUATION = {"module": "forward", "loss": "compute_loss"}
_OF_TRAINING = {**_OF_EVALUATION, "optimizer": "optimizer_step"}


def _require_parts(model: ModelBase, step: str, methods: Mapping[str, str]) -> None:
    """See that the model has the parts that igniter's own methods use."""
    own = [name for name in (step, *methods.values()) if _is_own(model, name)]
    for part, method in methods.items():
        if step in own and method in own:
            model.require(part, method)


def _is_own(model: ModelBase, method: str) -> bool:
    return getattr(getattr(model, method), "__func__", None) is getattr(Steps, method)


def sizes_of(length: Length, accumulate: int) -> Sizes:
    """How long a run is in updates, each made of ``accumulate`` batches or the rest of an epoch."""
    updates = -(-length.epoch // accumulate)
    whole, rest = divmod(length.total, length.epoch)
    return Sizes(
        num_epochs=length.epoch_of(length.total),
        updates_per_epoch=updates,
        total_updates=whole * updates + rest // accumulate,
    )


def evaluate(
    model: ModelBase, loader: Any, checkpoint: str | Path | None, name: str, kind: str
) -> dict[str, float]:
    """The metrics of the model on ``loader``, as ``name/metric``."""
    _build(model, "auto", 0, None)
    _require_parts(model, "test_step" if kind == "testing" else "eval_step", _OF_EVALUATION)
    return training.evaluate(
        to_save=model.modules(),
        eval_spec=specs.evaluations(model, loader, name, kind),
        checkpoint=checkpoint,
        device=str(model.device),
    )


def predict(model: ModelBase, data: Any) -> Any:
    """The predictions for a batch of inputs, or for all of a loader."""
    _build(model, "auto", 0, None)
    with eval_mode(model.modules().values()), torch.inference_mode():
        if not isinstance(data, (DataLoader, Iterator)):
            return model.predict_step(data)
        predictions = [model.predict_step(_inputs(batch)) for batch in data]
    if predictions and all(isinstance(part, torch.Tensor) for part in predictions):
        return torch.cat(predictions)
    return predictions


def _inputs(batch: Any) -> Any:
    """The inputs in a batch: the first of a pair, else all of it."""
    return batch[0] if isinstance(batch, (tuple, list)) and len(batch) in (1, 2) else batch


def _build(model: ModelBase, device: str, seed: int, sizes: Sizes | None) -> None:
    built = vars(model).get("is_built", False)
    where = model.device if built and sizes is None else device_named(device)
    with kept_generators():
        # The parts are a function of the seed, whatever the script has drawn before.
        seed_everything(seed, "setup")
        model.build(where, sizes)
