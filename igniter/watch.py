"""What shows only in training: state that changes and is not saved, schedulers that will run out.

Looking changes nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from igniter.checkpoint.compare import first_difference
from igniter.ignite_import import Events
from igniter.run_engine import RunEngine
from igniter.schedules import Schedules

_SAMPLE = 64  # elements of each tensor that are compared


def look_now_and_then(engine: RunEngine, iteration: int, look: Callable[[int], object]) -> None:
    """Have ``look(iteration)`` called in training that goes on from ``iteration``.

    After the first iteration, the second, the fourth and so on, up to the first epoch's end, and at
    every epoch's end.
    """
    due = iteration + 1

    def after_iteration() -> None:
        nonlocal due
        if engine.state.iteration >= due:
            due += due - iteration
            look(engine.state.iteration)

    def after_epoch() -> None:
        early.remove()
        look(engine.state.iteration)

    early = engine.add_event_handler(Events.ITERATION_COMPLETED, after_iteration)
    engine.add_event_handler(Events.EPOCH_COMPLETED, after_epoch)


class Watch:
    """Watches one attempt; made when its state is what training begins with.

    Args:
        saved: the modules of ``to_save`` by name.
        unsaved: modules that steps or handlers use and ``to_save`` lacks, each under the words for
            it in a warning. A frozen teacher among them stays as it is, a moving average does not.
        schedules: the schedulers of ``to_save``.
    """

    def __init__(
        self,
        saved: Mapping[str, torch.nn.Module],
        unsaved: Mapping[str, torch.nn.Module],
        schedules: Schedules,
        warn: Callable[[str], None],
    ) -> None:
        self._schedules = schedules
        self._warn = warn
        self._watched = [
            *(_Watched(_CHANGES.format(words), module, None) for words, module in unsaved.items()),
            *(
                _Watched(_LEFT_OUT.format(name, f"{where}.{key}".lstrip(".")), part, key)
                for name, module in saved.items()
                for where, part in module.named_modules()
                for key in sorted(part._non_persistent_buffers_set)
            ),
        ]

    def begin(self, engine: RunEngine, iteration: int) -> None:
        """Watch ``engine`` from ``iteration`` on, the last one that is done."""
        if iteration:
            self._schedules.look(iteration)
        if not (self._watched or self._schedules):
            return
        look_now_and_then(engine, iteration, self._look)

    def _look(self, iteration: int) -> None:
        self._schedules.look(iteration)
        for watched in [watched for watched in self._watched if watched.changed()]:
            self._warn(watched.text)
            self._watched.remove(watched)


_CHANGES = (
    "{}, which changes in training and is not in to_save: after a stop it would begin anew. Add "
    "it to to_save"
)
_LEFT_OUT = (
    "to_save[{!r}] changes its buffer {} in training, which its state_dict leaves out: after a "
    "stop it would begin anew. Register it with persistent=True"
)


class _Watched:
    """The tensors of a module, or one buffer of it, with a sample of what they held."""

    def __init__(self, text: str, module: torch.nn.Module, buffer: str | None) -> None:
        self.text, self._module, self._buffer = text, module, buffer
        self._seen = self._samples()

    def changed(self) -> bool:
        """Whether the sample is another one now."""
        return first_difference(self._seen, self._samples(), "") is not None

    def _samples(self) -> list[Any]:
        tensors: Iterable[torch.Tensor | None] = (
            itertools.chain(self._module.parameters(), self._module.buffers())
            if self._buffer is None
            else [self._module._buffers[self._buffer]]
        )
        return [_sample(tensor) for tensor in tensors]


def _sample(tensor: torch.Tensor | None) -> torch.Tensor | None:
    try:
        return None if tensor is None else tensor.detach().reshape(-1)[:_SAMPLE].clone()
    except Exception:  # a kind of tensor that knows no such view; only a hint is at stake
        return None
