"""Updates of the weights: precision, gradient accumulation and clipping, as the flags say.

Synopsis::

    updates = Updates(model)

    def train_step(engine, batch):
        inputs, targets = batch
        with updates.autocast():
            loss = criterion(model(inputs), targets)
        updates.backward(loss, weight=len(targets))
        if updates.due:
            updates.step(optimizer)
            scheduler.step()
            optimizer.zero_grad()
        return {"loss": loss, **updates.measured()}

    RunSpec(step=train_step, loader=loader, updates=updates)

An update is one step of an optimizer, from the gradients of one batch, or of a group of batches
where they are accumulated. Groups begin anew with each epoch; the last of an epoch may be shorter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from igniter.checkpoint.gradients import parameters

Precision = Literal["fp32", "bf16", "fp16"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class UpdateOptions:
    """How weights are updated.

    Args:
        precision: of the operations that torch's autocast takes as safe in it; weights stay as
            they are. With ``fp16`` the loss is scaled (``torch.amp.GradScaler``).
        accumulate: batches whose gradients make one update.
        clip_norm: the largest 2-norm of an optimizer's gradients taken together.
        clip_value: the largest absolute value of each element of a gradient.
        compile: whether modules are compiled by ``torch.compile``.
    """

    precision: Precision = "fp32"
    accumulate: int = 1
    clip_norm: float | None = None
    clip_value: float | None = None
    compile: bool = False

    def methods(self) -> set[str]:
        """What of :class:`Updates` a step has to use for them to be obeyed."""
        used = set() if self.precision == "fp32" else {"autocast"}
        if self.accumulate > 1:
            used.add("due")
        changed = (self.precision == "fp16", self.accumulate > 1, self.clip_norm, self.clip_value)
        return used | {"backward", "step"} if any(changed) else used

    def flags(self) -> str:
        """Those that are not as by default, as on the command line."""
        default = UpdateOptions()
        given = {n: v for n, v in vars(self).items() if v != getattr(default, n)}
        return ", ".join(
            f"--{n.replace('_', '-')}" + ("" if v is True else f" {v}") for n, v in given.items()
        )


class Updates:
    """Makes the updates of one run.

    Args:
        modules: those that ``--compile`` compiles.

    Attributes:
        stepped: whether the last :meth:`step` changed the weights; not where fp16 overflowed.
        used: the names of what the step has used.
    """

    def __init__(self, *modules: torch.nn.Module) -> None:
        self._modules = modules
        self._is_due = True
        self.stepped = True
        self.used: set[str] = set()
        self._norm: torch.Tensor | None = None
        self.configure(UpdateOptions(), torch.device("cpu"), None)

    def configure(
        self, options: UpdateOptions, device: torch.device, epoch_length: int | None
    ) -> None:
        """Work as ``options`` say, on ``device``, in epochs of so many iterations."""
        self.options = options
        self._device = device
        self._epoch_length = epoch_length
        clips = options.clip_norm is not None or options.clip_value is not None
        self._changes_gradients = clips or options.accumulate > 1 or options.precision == "fp16"
        self._scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")
        self._unit: Any = None
        self._weight: Any = 0
        self._is_counted = self._is_over = False
        if options.compile:
            for module in self._modules:
                module.compile()

    def begin(self, iteration: int) -> None:
        """Let the batch at hand be that of ``iteration``, counted from 1 over the whole run."""
        self._norm = None
        self._is_counted = False
        if self._is_over:
            self._unit, self._weight, self._is_over = None, 0, False
        number = iteration
        if self._epoch_length is not None:
            number = (iteration - 1) % self._epoch_length + 1
        self._is_due = number % self.options.accumulate == 0 or number == self._epoch_length

    @property
    def due(self) -> bool:
        """Whether the batch at hand is the last of its group, so that an update follows."""
        self.used.add("due")
        return self._is_due

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Within it operations have the run's precision."""
        self.used.add("autocast")
        dtype = _DTYPES.get(self.options.precision)
        if dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype)

    def backward(self, loss: torch.Tensor, weight: Any = 1) -> None:
        """Add the gradients of ``loss``, a mean over ``weight`` samples, tokens or the like.

        The gradients of a group come out as those of the mean over all of it, of whatever sizes
        its batches are. ``weight`` is a number, or a tensor of one element, which is not read.
        Several losses of one batch, such as the two of a GAN, are to have the same weight.
        """
        self.used.add("backward")
        # A group that was begun is finished, whatever --accumulate is after a resume.
        if self.options.accumulate > 1 or self._unit is not None:
            if self._unit is None:
                # Near 1, for the sake of fp16: the loss itself would be scaled by thousands.
                floor = isinstance(weight, torch.Tensor)
                self._unit = weight.clamp(min=1).float() if floor else float(max(weight, 1))
            share = weight / self._unit
            if not self._is_counted:
                self._weight, self._is_counted = self._weight + share, True
            loss = loss * share
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, *optimizers: torch.optim.Optimizer) -> None:
        """Update the weights by the gradients of the group; each optimizer once in it."""
        self.used.add("step")
        options = self.options
        if not self._changes_gradients and self._unit is None:
            for optimizer in optimizers:
                optimizer.step()
            return
        # One whose parameters all lack a gradient is refused by the scaler.
        optimizers = tuple(o for o in optimizers if any(p.grad is not None for p in parameters(o)))
        for optimizer in optimizers:
            self._scaler.unscale_(optimizer)
        gradients = [p for o in optimizers for p in parameters(o) if p.grad is not None]
        if self._unit is not None:
            # Of batches that all count for nothing the gradients are zero, and are to stay so.
            whole = self._weight
            is_tensor = isinstance(whole, torch.Tensor)
            whole = whole.clamp(min=_TINY) if is_tensor else max(whole, _TINY)
            for parameter in gradients:
                parameter.grad.div_(whole)  # type: ignore[union-attr]
        if options.clip_norm is not None:
            self._norm = torch.nn.utils.clip_grad_norm_(gradients, options.clip_norm)
        if options.clip_value is not None:
            torch.nn.utils.clip_grad_value_(gradients, options.clip_value)
        before = self._scaler.get_scale()
        for optimizer in optimizers:
            self._scaler.step(optimizer)
        if optimizers:
            self._scaler.update()
        # torch has no other word for it: the scale falls where a gradient overflowed.
        self.stepped = self._scaler.get_scale() >= before
        # Another optimizer's step, for the same group, may follow.
        self._is_over = True

    def measured(self) -> dict[str, torch.Tensor]:
        """For the step to return: the norm of this batch's update, before it was clipped by it.

        Under ``grad_norm``; nothing where there was no such update.
        """
        return {} if self._norm is None else {"grad_norm": self._norm}

    def state_dict(self) -> dict[str, Any]:
        """What the group holds so far, and the scale of fp16."""
        return {
            "unit": None if self._is_over else self._unit,
            "weight": 0 if self._is_over else self._weight,
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._unit, self._weight = state["unit"], state["weight"]
        if state["scaler"] and self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])
