"""A range test of the learning rate outside of any run, by ignite's ``FastaiLRFinder``."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from igniter.checkpoint.gradients import parameters
from igniter.checkpoint.state import SavedObjects
from igniter.devices import device_named, to_device
from igniter.errors import UsageError
from igniter.ignite_import import Engine, FastaiLRFinder
from igniter.rng import kept_generators


@dataclass(frozen=True)
class RangeTest:
    """What a range test found: ``rates[i]`` gave the smoothed loss ``losses[i]``.

    ``suggestion`` is where the loss fell steepest, None where it never fell: widen the range then.
    """

    rates: list[float]
    losses: list[float]
    suggestion: float | None


def find_learning_rate(
    *,
    step: Callable[[Engine, Any], Mapping[str, Any]],
    loader: Iterable[Any],
    to_save: Mapping[str, Any],
    start: float = 1e-7,
    end: float = 10.0,
    iterations: int = 100,
    loss: str = "loss",
    optimizer: str = "optimizer",
    device: str = "auto",
) -> RangeTest:
    """Raise the learning rate from ``start`` to ``end``, a step at a time (arXiv:1506.01186).

    It ends early where the loss is five times its least. Afterwards ``to_save`` and the generators
    of random numbers are as they were; what else ``step`` changes is not put back.

    Args:
        step: the training step; its output has the ``loss``.
        loader: its batches; begun again where it ends too early.
        to_save: all that the step changes; the optimizer among it has the name ``optimizer``.
        iterations: steps at most.
        device: ``auto`` or a torch device.

    Raises:
        UsageError: there is no such optimizer, or the range is none.
    """
    found = to_save.get(optimizer)
    if not isinstance(found, torch.optim.Optimizer):
        raise UsageError(f"to_save has no optimizer {optimizer!r}; give optimizer='…'")
    if not (0 < start < end and iterations >= 1):
        raise UsageError(f"there are no {iterations} steps from {start} to {end}")
    where = device_named(device)
    objects = SavedObjects(to_save)
    for module in objects.modules.values():
        module.to(where)
    batches = _endless(loader)
    engine = Engine(lambda engine, _: step(engine, to_device(next(batches), where)))
    # Without a handler of its own, ignite's errors go to stderr beside ours.
    engine.logger.addHandler(logging.NullHandler())
    finder = FastaiLRFinder()
    with kept_generators(), _put_back(objects), warnings.catch_warnings():
        # One of its warnings says that the loss did not diverge, which is no fault.
        warnings.simplefilter("ignore", UserWarning)
        with finder.attach(
            engine,
            {"optimizer": found},
            output_transform=lambda output: _number(output[loss]),
            num_iter=iterations,
            start_lr=float(start),
            end_lr=float(end),
        ) as attached:
            attached.run(max_epochs=1, epoch_length=iterations)
    results = finder.get_results()
    try:
        suggestion = _first(finder.lr_suggestion())
    except RuntimeError:  # the loss fell in fewer than three steps
        suggestion = None
    return RangeTest([_first(rate) for rate in results["lr"]], results["loss"], suggestion)


def _number(loss: Any) -> float:
    """The loss, where ignite goes by it: it would not stop at NaN."""
    number = float(loss)
    return math.inf if math.isnan(number) else number


def _first(rates: Any) -> float:
    """The rate, which is the same in all parameter groups."""
    return float(rates[0] if isinstance(rates, list) else rates)


def _endless(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        batch = None
        for batch in loader:
            yield batch
        if batch is None:
            raise UsageError("the loader is empty; give it batches")


@contextmanager
def _put_back(objects: SavedObjects) -> Iterator[None]:
    """Afterwards all objects are as they were, gradients and modes included."""
    state, modes = copy.deepcopy(objects.capture()), objects.modes()
    held = [p for module in objects.modules.values() for p in module.parameters()]
    held += [p for found in objects.optimizers.values() for p in parameters(found)]
    gradients = [None if p.grad is None else p.grad.clone() for p in held]
    attributes = {name: set(vars(found)) for name, found in objects.optimizers.items()}
    try:
        yield
    finally:
        objects.restore(state, "the state before find_learning_rate")
        objects.restore_modes(modes)
        for parameter, gradient in zip(held, gradients, strict=True):
            parameter.grad = gradient
        for name, found in objects.optimizers.items():
            for added in set(vars(found)) - attributes[name]:  # by the scheduler: a counting step
                delattr(found, added)
