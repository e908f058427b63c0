"""An average of a module's weights over training: updated, saved, evaluated with and exported.

The arithmetic is that of torch's ``AveragedModel``; EMA and SWA say which average it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.optim.swa_utils import AveragedModel

from igniter.checkpoint.gradients import parameters
from igniter.checkpoint.keys import load_module, module_state
from igniter.errors import CheckpointMismatch, UsageError
from igniter.handlers.moments import moment

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from igniter.engine import StepEngine

Every = int | Literal["update", "epoch"]


class WeightAverage:
    """What EMA and SWA have in common.

    Args:
        of: the name in ``to_save`` of the module; it may be left out where there is one alone.
        every: ``update`` (of an optimizer that holds a part of the module, once an iteration at
            most), ``epoch``, or every so many updates.
        start: updates and epochs up to this moment do not count; a number of iterations, or text
            such as ``"5 epochs"``.

    Averaged are the parameters; buffers are copied as they are. Until there is an average the
    module's own weights stand in for it.

    Raises:
        UsageError: an argument cannot be.
    """

    def __init__(self, of: str | None, every: Every, start: int | str) -> None:
        number = 1 if every == "update" else every
        if number != "epoch" and (not isinstance(number, int) or number < 1):
            raise UsageError(
                f"{type(self).__name__}(every={every!r}) must be 'update', 'epoch' or a number"
            )
        self._of, self._every, self._start = of, number, start
        self._pair: tuple[torch.nn.Module, AveragedModel] | None = None  # the live one first
        self._hooks: list[RemovableHandle] = []
        self._first = self._updates = 0
        self._updated = False
        self._loaded: dict[str, Any] = {}

    def averaged(self, module: torch.nn.Module) -> AveragedModel:
        """A new average of ``module``."""
        raise NotImplementedError

    @property
    def module(self) -> torch.nn.Module:
        """The module with the averaged weights, a copy, from the start of training on.

        Raises:
            UsageError: training has not started.
        """
        return self.average.module

    @property
    def average(self) -> AveragedModel:
        """Torch's object that holds :attr:`module`.

        Raises:
            UsageError: training has not started.
        """
        return self._attached()[1]

    def attach(self, trainer: StepEngine) -> None:
        """Copy the module, and put back what was loaded.

        Raises:
            UsageError: the module cannot be told.
            CheckpointMismatch: what was loaded is the average of another one.
        """
        kind = type(self).__name__
        self._of, live = _module(kind, self._of, trainer.objects)
        before = self._loaded.get("of", self._of)
        if before != self._of:
            raise CheckpointMismatch(
                f"{kind}: the checkpoint has the average of {before!r}, and this one is of "
                f"{self._of!r}. Give the averages in the order they were in, or start afresh with "
                "--resume never"
            )
        self._first = 0 if trainer.length is None else moment(self._start, trainer.length)
        average = self.averaged(live)
        for parameter in average.parameters():
            parameter.requires_grad_(False).grad = None
        if self._loaded:
            load_module(average, self._loaded["average"])
        self._updates = self._loaded.get("updates", 0)
        self._pair, self._loaded = (live, average), {}

    def on_attempt_start(self, trainer: StepEngine) -> None:
        """Follow the updates of the optimizers.

        Raises:
            UsageError: there is none.
        """
        optimizers = list(trainer.objects_of(torch.optim.Optimizer).values())
        if not optimizers and self._every != "epoch":
            raise UsageError(
                f"{type(self).__name__}: there is no optimizer in to_save whose updates could be "
                "followed; add it, or give every='epoch'"
            )
        own = {id(parameter) for parameter in self._attached()[0].parameters()}

        def after_step(optimizer: torch.optim.Optimizer, *_: object) -> None:
            # Asked at each step: a group may have been added since.
            self._updated |= any(id(parameter) in own for parameter in parameters(optimizer))

        self._hooks = [optimizer.register_step_post_hook(after_step) for optimizer in optimizers]

    def on_batch_start(self, trainer: StepEngine, batch: Any) -> None:
        """Let what was updated between two steps not count."""
        self._updated = False

    def on_batch_end(self, trainer: StepEngine, batch: Any, output: Any) -> None:
        """Take the weights into the average where that is due."""
        iteration = trainer.state.iteration
        if iteration <= self._first:
            return
        if self._every == "epoch":
            due = trainer.length is not None and trainer.length.ends_epoch(iteration)
        else:
            self._updates += self._updated
            due = self._updated and self._updates % self._every == 0
        if due:
            live, average = self._attached()
            average.update_parameters(live)

    def on_attempt_end(self, trainer: StepEngine) -> None:
        """Follow the optimizers no longer."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the module has the averaged weights; afterwards its own, whatever happens.

        They are copied to and fro: whoever holds a tensor of the module goes on holding it.
        """
        live, average = self._attached()
        if not average.n_averaged:
            yield
            return
        own = [tensor.detach().clone() for tensor in _tensors(live)]
        try:
            _copy(_tensors(average.module), live)
            yield
        finally:
            _copy(own, live)

    def exported_modules(self) -> dict[str, torch.nn.Module]:
        """What is exported besides, by name: the averaged module, if anything was averaged."""
        if self._pair is None or not self.average.n_averaged:
            return {}
        return {f"{self._of}_{type(self).__name__.lower()}": self.module}

    def state_dict(self) -> dict[str, Any]:
        """The average, of which module it is, and how many updates were counted."""
        if self._pair is None:
            return self._loaded
        average = module_state(self.average)
        return {"of": self._of, "updates": self._updates, "average": average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there at the next :meth:`attach`."""
        self._pair, self._loaded = None, dict(state)

    def _attached(self) -> tuple[torch.nn.Module, AveragedModel]:
        if self._pair is None:
            raise UsageError(
                f"{type(self).__name__} has no weights yet: it takes part in no run. Give it in "
                "RunSpec(callback=[…]) of the training"
            )
        return self._pair


def _module(kind: str, name: str | None, objects: Mapping[str, Any]) -> tuple[str, torch.nn.Module]:
    """The module called ``name``, or the only one that has parameters."""
    found = {
        key: value
        for key, value in objects.items()
        if isinstance(value, torch.nn.Module) and any(True for _ in value.parameters())
    }
    if name is None and len(found) == 1:
        return next(iter(found.items()))
    if name is None or name not in found:
        what = "which module?" if name is None else f"to_save has no module {name!r}."
        raise UsageError(f"{kind}: {what} There is {', '.join(found) or 'none'}; give of='…'")
    return name, found[name]


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    return itertools.chain(module.parameters(), module.buffers())


@torch.no_grad()
def _copy(source: Iterable[torch.Tensor], module: torch.nn.Module) -> None:
    for tensor, own in zip(source, _tensors(module), strict=True):
        own.copy_(tensor)
