"""Layers that do not train for a part of the run."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from igniter.checkpoint.gradients import parameters
from igniter.checkpoint.groups import add_group
from igniter.checkpoint.keys import plain_key, some
from igniter.errors import CheckpointMismatch, UsageError
from igniter.handlers.moments import moment

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from igniter.engine import StepEngine


class Freezer:
    """Freezes layers from one moment of the run to another.

    Synopsis::

        Freezer("module.features", until="3 epochs")

    Args:
        layers: by their names, the name in ``to_save`` first: all parameters at or below them.
        after: the moment when they freeze; a number of iterations, or text such as ``"1 epoch"``.
        until: the moment when they train on; None for never.
        learning_rate: of those of them that no optimizer holds yet: they are added to it as a group
            of their own when they begin to train. By default it is the optimizer's own.
        optimizer: its name in ``to_save``, where there are several.
        eval_batch_norm: whether frozen batch norm is in eval mode, so that its statistics stay as
            they are, even where the step calls ``train()``.

    A parameter that was frozen before stays so. What is frozen now is in the checkpoints.

    Raises:
        UsageError: no layer is given.
    """

    def __init__(
        self,
        *layers: str,
        after: int | str = 0,
        until: int | str | None = None,
        learning_rate: float | None = None,
        optimizer: str | None = None,
        eval_batch_norm: bool = False,
    ) -> None:
        if not layers:
            raise UsageError("Freezer() freezes nothing; name layers, such as 'model.features'")
        self.layers = layers
        self._after, self._until = after, "end" if until is None else until
        self._learning_rate = learning_rate
        self._optimizer_name = optimizer
        self._eval_batch_norm = eval_batch_norm
        self._own: dict[str, torch.nn.Parameter] = {}
        self._norms: list[tuple[torch.nn.Module, torch.nn.Module]] = []
        self._hooks: list[RemovableHandle] = []
        self._span = range(0)
        self._is_frozen: bool | None = None  # not known at an attempt's start
        self._frozen: list[str] = []  # the names of those that this has frozen
        self._resumed = False

    def attach(self, trainer: StepEngine) -> None:
        """Find the layers.

        Raises:
            UsageError: a name fits nothing, another Freezer has it too, ``until`` is not later than
                ``after``, or the optimizer to add the layers to cannot be told.
            CheckpointMismatch: it was other layers that this had frozen.
        """
        assert trainer.length is not None  # a training always has one
        first, last = moment(self._after, trainer.length), moment(self._until, trainer.length)
        if last <= first:
            raise UsageError(
                f"{self}: until={self._until!r} is not later than after={self._after!r}"
            )
        self._span = range(first + 1, last + 1)
        modules = trainer.objects_of(torch.nn.Module)
        self._own = self._below({
            f"{key}.{plain_key(name)}": parameter
            for key, module in modules.items()
            for name, parameter in module.named_parameters(remove_duplicate=False)
        })  # fmt: skip
        norms = {
            f"{key}.{plain_key(name)}": (part, module)
            for key, module in modules.items()
            for name, part in module.named_modules()
            if isinstance(part, torch.nn.modules.batchnorm._NormBase)
        }
        self._norms = [norms[n] for n in norms if any(_is_below(n, layer) for layer in self.layers)]
        for other in trainer.objects_of(Freezer).values():
            if other is not self:
                self._refuse_overlap(other)
        if not self._resumed:
            self._frozen = []
        strange = [name for name in self._frozen if name not in self._own]
        if strange:
            raise CheckpointMismatch(
                f"{self}: at the checkpoint it had frozen {some(strange)}. Give the Freezers their "
                "layers in the order they were in, or start afresh with --resume never"
            )
        missing = self._missing(trainer)
        if missing:
            self._optimizer(trainer)
        elif self._learning_rate is not None and not self._resumed:
            raise UsageError(
                f"{self}: the optimizer holds these layers already, so learning_rate would not be "
                "used; leave them out of the optimizer, or the learning rate out here"
            )
        self._is_frozen, self._resumed = None, False

    def on_batch_start(self, trainer: StepEngine, batch: Any) -> None:
        """Freeze the layers, or let them train, where this is the first step of either."""
        wanted = trainer.state.iteration in self._span
        if wanted is self._is_frozen:
            return
        self._is_frozen = wanted
        if wanted:
            self._freeze()
        elif self._frozen:
            self._unfreeze(trainer)

    def on_attempt_end(self, trainer: StepEngine) -> None:
        """Leave the modules without hooks."""
        self._remove_hooks()

    def state_dict(self) -> dict[str, Any]:
        """The names of the parameters that are frozen now."""
        return {"frozen": list(self._frozen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._frozen, self._resumed = list(state["frozen"]), True

    def __str__(self) -> str:
        return f"Freezer({', '.join(map(repr, self.layers))})"

    def _freeze(self) -> None:
        # After a resume they are frozen already, and named.
        self._frozen += [name for name, p in self._own.items() if p.requires_grad]
        for name in self._frozen:
            # An optimizer would step by a gradient that is left.
            self._own[name].requires_grad_(False).grad = None
        if self._eval_batch_norm:
            self._hooks = [part.register_forward_pre_hook(_in_eval_mode) for part, _ in self._norms]

    def _unfreeze(self, trainer: StepEngine) -> None:
        self._remove_hooks()
        missing = self._missing(trainer)
        for name in self._frozen:
            self._own[name].requires_grad_()
        self._frozen = []
        if self._eval_batch_norm:
            for part, whole in self._norms:
                part.train(whole.training)
        if missing:
            rate = {} if self._learning_rate is None else {"lr": self._learning_rate}
            add_group(self._optimizer(trainer), missing, **rate)

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _missing(self, trainer: StepEngine) -> dict[str, torch.nn.Parameter]:
        """Those of the layers' parameters that no optimizer holds, each under one name."""
        optimizers = trainer.objects_of(torch.optim.Optimizer).values()
        held = {id(p) for found in optimizers for p in parameters(found)}
        missing = {}
        for name, parameter in self._own.items():
            if id(parameter) not in held:
                held.add(id(parameter))
                missing[name] = parameter
        return missing

    def _optimizer(self, trainer: StepEngine) -> torch.optim.Optimizer:
        """The one to add parameters to."""
        found = trainer.objects_of(torch.optim.Optimizer)
        name = self._optimizer_name
        if name is None and len(found) == 1:
            name = next(iter(found))
        if name not in found:
            raise UsageError(
                f"{self}: no optimizer holds these layers, and it cannot be told which is to have "
                f"them; there is {', '.join(found) or 'none'}. Give optimizer='…'"
            )
        for key, value in trainer.objects.items():
            # A scheduler on a metric takes in groups that come later.
            scheduled = isinstance(value, LRScheduler) and not isinstance(value, ReduceLROnPlateau)
            if scheduled and value.optimizer is found[name]:
                raise UsageError(
                    f"{self}: no optimizer holds these layers, and {name} cannot be given more "
                    f"while the scheduler {key} sets its rates. Give it these layers from the "
                    "start: what is frozen is not updated"
                )
        return found[name]

    def _below(self, named: Mapping[str, torch.nn.Parameter]) -> dict[str, torch.nn.Parameter]:
        found: dict[str, torch.nn.Parameter] = {}
        for layer in self.layers:
            below = {name: p for name, p in named.items() if _is_below(name, layer)}
            if not below:
                known = {n.rsplit(".", i)[0] for n in named for i in range(1, n.count(".") + 1)}
                near = difflib.get_close_matches(layer, sorted(known | set(named)), n=1, cutoff=0.0)
                raise UsageError(
                    f"Freezer({layer!r}): no parameter of to_save is called so or below it; the "
                    f"nearest name is {some(near) or 'none'}"
                )
            found |= below
        return found

    def _refuse_overlap(self, other: Freezer) -> None:
        both = [
            (own, its)
            for own in self.layers
            for its in other.layers
            if _is_below(own, its) or _is_below(its, own)
        ]
        if both:
            raise UsageError(
                f"two Freezers have {both[0][0]!r} and {both[0][1]!r}; give each layer to one"
            )


def _is_below(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")


def _in_eval_mode(part: torch.nn.Module, _: object) -> None:
    part.eval()
