"""Ways to train, each on ten points of a plane, built anew for every attempt.

An epoch has four batches of up to three points, and a run three epochs.
"""

from __future__ import annotations

import copy
import datetime
import importlib
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support import Crash, points_loader
from torch import nn
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn

from igniter import RunSpec, train
from igniter.engine import Events
from igniter.result import Result


@dataclass
class Technique:
    """What one attempt trains: the step takes (engine, batch of shape N x 2)."""

    to_save: Mapping[str, Any]
    step: Callable[[Any, torch.Tensor], torch.Tensor]
    attach: Callable[[Any], None] = lambda trainer: None


torch.set_num_threads(1)

TECHNIQUES: dict[str, Callable[[], Technique]] = {}


def technique(build: Callable[[], Technique]) -> Callable[[], Technique]:
    """Enter it under its name."""
    TECHNIQUES[build.__name__] = build
    return build


def attempt(
    build: Callable[[], Technique], run_dir: Path, stop: str = "", **settings: Any
) -> Result | None:
    """One start, perhaps stopped at ``iteration:SIGNAL``; None where it ended as if killed.

    The signal ``crash`` ends it as a kill does, within this process.
    """
    torch.manual_seed(0)
    built = build()
    at, _, name = stop.partition(":")

    def step(engine: Any, batch: Any) -> dict[str, Any]:
        loss = built.step(engine, batch[0])
        if stop and engine.state.iteration == int(at):
            if name == "crash":
                raise Crash
            os.kill(os.getpid(), signal.Signals[name])
        return {"loss": loss}

    given = {
        "output_dir": run_dir, "max_epochs": 3, "mlflow": False, "progress": "none",
        "log_every": 2, "save_every": "5 iterations", "picture": False,
    }  # fmt: skip
    try:
        return train(
            to_save=built.to_save,
            train_spec=RunSpec(
                step=step,
                loader=points_loader(),
                metrics={"loss": "loss"},
                callback=lambda engine, trainer: built.attach(trainer),
            ),
            **{**given, **settings},
        )
    except Crash:
        return None


def network(*more: nn.Module) -> nn.Sequential:
    """Two layers with batch norm and dropout between them, and ``more`` behind."""
    return nn.Sequential(
        nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 1), *more
    )


def sgd(model: nn.Module, **how: Any) -> torch.optim.Optimizer:
    """SGD with momentum."""
    return torch.optim.SGD(model.parameters(), **{"lr": 0.05, "momentum": 0.9, **how})


def loss_of(model: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor) -> torch.Tensor:
    """The loss of a batch; batch norm cannot do with a batch of one."""
    batch = batch.repeat(2, 1) if len(batch) == 1 else batch
    return (model(batch) - batch.sum(dim=1, keepdim=True)).square().mean()


def update(model: Any, optimizer: Any, batch: torch.Tensor) -> torch.Tensor:
    """The ordinary update."""
    optimizer.zero_grad()
    loss = loss_of(model, batch)
    loss.backward()
    optimizer.step()
    return loss


def trained_by(
    make: Callable[[nn.Module], torch.optim.Optimizer], model: nn.Module | None = None
) -> Technique:
    """A network trained by the optimizer that ``make`` gives it."""
    model = network() if model is None else model
    optimizer = make(model)
    return Technique(
        {"model": model, "optimizer": optimizer},
        lambda engine, batch: update(model, optimizer, batch),
    )


def scheduled(make: Callable[[Any], Any], every: str = "iteration") -> Technique:
    """A network whose learning rate follows the scheduler that ``make`` gives."""
    model = network()
    optimizer = sgd(model)
    scheduler = make(optimizer)

    def advance(loss: torch.Tensor) -> None:
        if isinstance(scheduler, schedulers.ReduceLROnPlateau):
            scheduler.step(float(loss.detach()))
        else:
            scheduler.step()

    def step(engine: Any, batch: torch.Tensor) -> torch.Tensor:
        loss = update(model, optimizer, batch)
        if every == "iteration":
            advance(loss)
        return loss

    def attach(trainer: Any) -> None:
        if every == "epoch":
            trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: advance(torch.tensor(1.0)))

    saved = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    return Technique(saved, step, attach)


# -- gradients ---------------------------------------------------------------------------------


def accumulating(clear: str) -> Technique:
    """Steps after every third iteration, which no epoch divides by; how gradients are cleared."""
    model = network()
    optimizer = sgd(model)

    def step(engine: Any, batch: torch.Tensor) -> torch.Tensor:
        first = engine.state.iteration % 3 == 1
        if clear == "before" and first:
            optimizer.zero_grad()
        loss = loss_of(model, batch)
        (loss / 3).backward()
        if engine.state.iteration % 3 == 0:
            optimizer.step()
            if clear == "after":
                optimizer.zero_grad()
            if clear == "to zero":
                optimizer.zero_grad(set_to_none=False)
        return loss

    return Technique({"model": model, "optimizer": optimizer}, step)


for _clear in ("before", "after", "to zero"):
    TECHNIQUES[f"accumulation cleared {_clear}"] = lambda clear=_clear: accumulating(clear)


@technique
def gradients_never_cleared() -> Technique:
    """Every step is made with the sum of all gradients so far."""
    model = nn.Linear(2, 1)
    optimizer = sgd(model, lr=0.001)

    def step(engine: Any, batch: torch.Tensor) -> torch.Tensor:
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        return loss

    return Technique({"model": model, "optimizer": optimizer}, step)


@technique
def step_before_backward() -> Technique:
    """Each iteration steps with the gradients that the one before has left."""
    model = network()
    optimizer = sgd(model)

    def step(engine: Any, batch: torch.Tensor) -> torch.Tensor:
        if engine.state.iteration > 1:
            optimizer.step()
            optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        return loss

    return Technique({"model": model, "optimizer": optimizer}, step)


@technique
def clipping_with_gradients_of_no_optimizer() -> Technique:
    """The norm counts parameters that no optimizer holds and nobody clears."""
    model = network()
    optimizer = sgd(model[3])

    def step(engine: Any, batch: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        return loss

    return Technique({"model": model, "optimizer": optimizer}, step)


@technique
def two_optimizers_one_every_third_iteration() -> Technique:
    """A body that is updated at once, and a head that gathers three iterations."""
    model = network()
    often, seldom = sgd(model[0]), sgd(model[3])

    def step(engine: Any, batch: torch.Tensor) -> torch.Tensor:
        often.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        often.step()
        if engine.state.iteration % 3 == 0:
            seldom.step()
            seldom.zero_grad()
        return loss

    return Technique({"model": model, "often": often, "seldom": seldom}, step)


@technique
def gan() -> Technique:
    """A generator and a discriminator in turns, each with its optimizer."""
    generator = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    discriminator = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    for_g = torch.optim.Adam(generator.parameters(), betas=(0.5, 0.9))
    for_d = torch.optim.Adam(discriminator.parameters(), betas=(0.5, 0.9))

    def step(engine: Any, batch: torch.Tensor) -> torch.Tensor:
        made = generator(torch.randn_like(batch))
        if engine.state.iteration % 2:
            for_d.zero_grad()
            loss = discriminator(made.detach()).mean() - discriminator(batch).mean()
            loss.backward()
            for_d.step()
        else:
            for_g.zero_grad()
            loss = -discriminator(made).mean()
            loss.backward()  # leaves gradients in the discriminator too
            for_g.step()
        return loss

    saved = {"g": generator, "d": discriminator, "for_g": for_g, "for_d": for_d}
    return Technique(saved, step)


# -- mixed precision ---------------------------------------------------------------------------


@technique
def bfloat16_autocast() -> Technique:
    """The forward pass in bfloat16."""
    model = network()
    optimizer = sgd(model)

    def step(engine: Any, batch: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        return loss

    return Technique({"model": model, "optimizer": optimizer}, step)


def scaled(*, save_scaler: bool = True, device: str = "cpu") -> Technique:
    """A gradient scaler whose scale doubles after every second step and halves at an overflow."""
    model = network().to(device)
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**10, growth_interval=2)

    def step(engine: Any, batch: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast(device, torch.float16 if device == "cuda" else torch.bfloat16):
            loss = loss_of(model, batch)
        overflow = float("inf") if engine.state.iteration in (2, 6) else 1.0
        scaler.scale(loss * overflow).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
        # So that the scale itself, and not what it cancels out to, shapes the result.
        with torch.no_grad():
            model[3].bias.add_(scaler.get_scale() * 1e-6)
        return loss.detach() if overflow == 1.0 else torch.zeros(())

    saved = {"model": model, "optimizer": optimizer}
    return Technique(saved | ({"scaler": scaler} if save_scaler else {}), step)


TECHNIQUES["grad_scaler"] = scaled


# -- parts of models ---------------------------------------------------------------------------


def unfreezing(*, add_group: bool) -> Technique:
    """A body frozen, its batch norm in eval mode, until the second epoch."""
    model = network()
    model[0].requires_grad_(False)
    model[1].eval()
    optimizer = sgd(model[3]) if add_group else sgd(model)

    def unfreeze() -> None:
        model[0].requires_grad_(True)
        model[1].train()
        if add_group:
            optimizer.add_param_group({"params": model[0].parameters(), "lr": 0.01})

    def attach(trainer: Any) -> None:
        trainer.add_event_handler(Events.EPOCH_STARTED(once=2), unfreeze)

    return Technique(
        {"model": model, "optimizer": optimizer},
        lambda engine, batch: update(model, optimizer, batch),
        attach,
    )


TECHNIQUES["unfreezing"] = lambda: unfreezing(add_group=False)
TECHNIQUES["unfreezing_with_a_group_of_its_own"] = lambda: unfreezing(add_group=True)


def averaged(**how: Any) -> Technique:
    """A moving average of the weights, updated after every second step."""
    model = network()
    optimizer = sgd(model)
    average = AveragedModel(model, **how)

    def step(engine: Any, batch: torch.Tensor) -> torch.Tensor:
        loss = update(model, optimizer, batch)
        if engine.state.iteration % 2 == 0:
            average.update_parameters(model)
        return loss

    return Technique({"model": model, "optimizer": optimizer, "average": average}, step)


TECHNIQUES["swa"] = averaged
TECHNIQUES["ema"] = lambda: averaged(multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
TECHNIQUES["weight_norm"] = lambda: trained_by(
    sgd,
    nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(3, 1)),
    ),
)


class Tied(nn.Module):
    """Two layers with one weight, which the second uses transposed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.second.weight = self.first.weight

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Shape N x 2 to N x 1."""
        return self.second(self.first(batch)).mean(dim=1, keepdim=True)


TECHNIQUES["tied_weights"] = lambda: trained_by(sgd, Tied())


@technique
def lazy_layers() -> Technique:
    """Lazy layers, made real by one batch before training."""
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.LazyLinear(1))
    model(torch.zeros(2, 2))
    return trained_by(sgd, model)


class Counting(nn.Module):
    """Holds values of many kinds besides tensors, and scales its output by some of them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mask", torch.tensor([1.0]), persistent=False)
        self.seen: dict[str, Any] = {
            "scale": np.float64(1.0),
            "span": (0, np.int32(3)),
            "since": datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
            "array": np.zeros(3),
            "names": {"a", "b"},
        }

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """The same shape."""
        self.calls += 1
        self.seen["scale"] = np.float64(self.seen["scale"] * 0.9)
        self.seen["since"] += datetime.timedelta(days=1)
        self.seen["array"] = self.seen["array"] + self.seen["scale"]
        day = self.seen["since"].timetuple().tm_yday
        return self.mask * batch * float(self.seen["scale"]) + float(self.calls) / day

    def get_extra_state(self) -> dict[str, Any]:
        """All but the tensors."""
        return copy.deepcopy(self.seen)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.seen = copy.deepcopy(state)


TECHNIQUES["extra_state"] = lambda: trained_by(sgd, network(Counting()))


# -- optimizers --------------------------------------------------------------------------------


@technique
def lbfgs() -> Technique:
    """An optimizer that evaluates the loss by itself, several times a step."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.3, max_iter=3, history_size=4)

    def step(engine: Any, batch: torch.Tensor) -> torch.Tensor:
        noise = torch.randn_like(batch)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, batch + noise)
            loss.backward()
            return loss

        return optimizer.step(closure)

    return Technique({"model": model, "optimizer": optimizer}, step)


class Remembering(torch.optim.Optimizer):
    """SGD that keeps numbers, words and lists in its state."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.05, "name": "remembering", "span": (1, 2)})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Step by the mean size of the last gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state.setdefault("sizes", []).append(float(parameter.grad.abs().mean()))
                state["sizes"] = state["sizes"][-3:]
                state["phase"] = "odd" if state.get("phase") == "even" else "even"
                factor = 1.0 if state["phase"] == "odd" else 0.5
                size = sum(state["sizes"]) / len(state["sizes"])
                parameter.add_(parameter.grad, alpha=-group["lr"] * factor / (1 + size))


class Master(torch.optim.Optimizer):
    """SGD on float32 copies of its parameters, which may be of fewer bits."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.05})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Step the copies, and round."""
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                master = state.setdefault("master", parameter.float())
                master.add_(parameter.grad.float(), alpha=-group["lr"])
                parameter.copy_(master)


@technique
def float32_copies_of_bfloat16_weights() -> Technique:
    """Torch's own loading would round the copies."""
    model = nn.Linear(2, 1).bfloat16()
    optimizer = Master(model.parameters())
    return Technique(
        {"model": model, "optimizer": optimizer},
        lambda engine, batch: update(model, optimizer, batch.bfloat16()).float(),
    )


TECHNIQUES["optimizer_with_words_in_its_state"] = lambda: trained_by(
    lambda model: Remembering(model.parameters())
)
for _name, _how in {
    "Adam foreach": ("Adam", {"foreach": True}),
    "Adam fused": ("Adam", {"fused": True}),
    "AdamW amsgrad": ("AdamW", {"amsgrad": True}),
    "SGD fused": ("SGD", {"lr": 0.05, "momentum": 0.9, "fused": True}),
    "Adam lr tensor": ("Adam", {"lr": torch.tensor(0.01), "foreach": False}),
    "Rprop": ("Rprop", {}),
    "ASGD": ("ASGD", {}),
    "RAdam": ("RAdam", {}),
    "Adafactor": ("Adafactor", {}),
}.items():
    TECHNIQUES[_name] = lambda how=_how: trained_by(
        lambda model: getattr(torch.optim, how[0])(model.parameters(), **copy.deepcopy(how[1]))
    )
TECHNIQUES["named_parameters"] = lambda: trained_by(
    lambda model: torch.optim.SGD(model.named_parameters(), lr=0.05)
)


# -- schedulers --------------------------------------------------------------------------------

_S = schedulers
SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: _S.LambdaLR(o, lambda n: 0.9**n),
    "MultiplicativeLR": lambda o: _S.MultiplicativeLR(o, lambda n: 0.9),
    "StepLR": lambda o: _S.StepLR(o, 2),
    "MultiStepLR": lambda o: _S.MultiStepLR(o, [2, 5]),
    "ConstantLR": lambda o: _S.ConstantLR(o, total_iters=4),
    "LinearLR": lambda o: _S.LinearLR(o, total_iters=12),
    "ExponentialLR": lambda o: _S.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: _S.PolynomialLR(o, 12, 2.0),
    "CosineAnnealingLR": lambda o: _S.CosineAnnealingLR(o, 12),
    "CosineAnnealingWarmRestarts": lambda o: _S.CosineAnnealingWarmRestarts(o, 3, 2),
    "ReduceLROnPlateau": lambda o: _S.ReduceLROnPlateau(o, patience=0, threshold=0.5),
    "CyclicLR": lambda o: _S.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "CyclicLR scale_fn": lambda o: _S.CyclicLR(o, 0.01, 0.1, 3, scale_fn=lambda x: 0.9**x),
    "OneCycleLR": lambda o: _S.OneCycleLR(o, 0.1, total_steps=12),
    "SequentialLR": lambda o: _S.SequentialLR(
        o, [_S.LinearLR(o, total_iters=4), _S.CosineAnnealingLR(o, 8)], [4]
    ),
    "ChainedScheduler": lambda o: _S.ChainedScheduler(
        [_S.ConstantLR(o, total_iters=3), _S.ExponentialLR(o, 0.9)]
    ),
    "SWALR": lambda o: SWALR(o, 0.01, anneal_epochs=5),
}
for _name, _make in SCHEDULERS.items():
    TECHNIQUES[_name] = lambda make=_make: scheduled(make)
for _name in ("StepLR", "SequentialLR", "ReduceLROnPlateau"):
    TECHNIQUES[f"{_name} each epoch"] = lambda make=SCHEDULERS[_name]: scheduled(make, "epoch")


def scheduled_by_ignite(make: Callable[[Any], Any]) -> Technique:
    """A network whose learning rate is set by a handler of ignite's."""
    built = trained_by(sgd)
    scheduler = make(built.to_save["optimizer"])
    return Technique(
        {**built.to_save, "scheduler": scheduler},
        built.step,
        lambda trainer: trainer.add_event_handler(Events.ITERATION_STARTED, scheduler),
    )


def from_ignite(name: str) -> Any:
    """One of ignite's handlers, whose import takes long."""
    return getattr(importlib.import_module("ignite.handlers"), name)


for _name, _make in {
    "cosine of ignite's": lambda o: from_ignite("CosineAnnealingScheduler")(o, "lr", 0.1, 0.01, 5),
    "linear of ignite's": lambda o: from_ignite("LinearCyclicalScheduler")(o, "lr", 0.1, 0.01, 6),
    "piecewise of ignite's": lambda o: from_ignite("PiecewiseLinear")(
        o, "lr", [(2, 0.1), (9, 0.01)]
    ),
    "warm-up of ignite's": lambda o: from_ignite("create_lr_scheduler_with_warmup")(
        _S.ExponentialLR(o, 0.9), 0.0, 4
    ),
}.items():
    TECHNIQUES[_name] = lambda make=_make: scheduled_by_ignite(make)


# -- compiled ----------------------------------------------------------------------------------


def compiled(how: str, backend: str = "eager") -> Technique:
    """A network compiled as a whole, in a part, in place, or not at all."""
    model = network()
    if how == "part":
        model[3] = torch.compile(model[3], backend=backend)
    used: Any = torch.compile(model, backend=backend) if how == "whole" else model
    if how == "in place":
        model.compile(backend=backend)
    optimizer = torch.optim.SGD(used.named_parameters(), lr=0.05, momentum=0.9)
    average = AveragedModel(used)

    def step(engine: Any, batch: torch.Tensor) -> torch.Tensor:
        loss = update(used, optimizer, batch)
        average.update_parameters(used)
        return loss

    return Technique({"model": used, "optimizer": optimizer, "average": average}, step)
