"""What a model changes in training that no checkpoint holds, found while it trains."""

from __future__ import annotations

import dataclasses
import enum
import io
from collections.abc import Collection, Iterator
from typing import Any

import torch

from igniter.checkpoint.keys import unwrapped
from igniter.models.parts import TrainedTensor, attributes_of, is_plain
from igniter.run_engine import RunEngine
from igniter.verify.fingerprints import fingerprints, is_data, is_generator, saves_itself
from igniter.watch import look_now_and_then

# Of what is looked at: parts of an attribute, elements of a tensor in it.
_LIMIT = 1000


class Unsaved:
    """Warns once of each attribute of ``owner`` that changes and is not saved.

    Args:
        owner: the model.
        saved: its parts, which are saved.
        leave_out: attributes of igniter's own.
    """

    def __init__(self, owner: Any, saved: Collection[Any], leave_out: Collection[str]) -> None:
        self._owner = owner
        self._leave_out = leave_out
        self._parts = list(saved)  # kept, so that no other object gets the id of one
        self._told: set[str] = set()

    def watch(self, trainer: RunEngine) -> None:
        """Begin, when the state is what training goes on with."""
        self._trainer = trainer
        self._before = self._now()
        look_now_and_then(trainer, trainer.state.iteration, self._look)

    def _look(self, iteration: int) -> None:
        for name, found in self._now().items():
            value = attributes_of(self._owner)[name]
            # Where an iterator is cannot be seen.
            moves = isinstance(value, Iterator) and found
            if name in self._told or (found == self._before.get(name, {}) and not moves):
                continue
            self._told.add(name)
            self._trainer.warn(
                f"{type(self._owner).__name__}.{name} ({type(value).__name__}) changes in training "
                "and is not saved: after a stop it would not be as it was. Assign what has a "
                "state_dict in setup(), and keep the rest as numbers, texts, tensors, lists or "
                "dicts of these"
            )

    def _now(self) -> dict[str, dict[str, str]]:
        """The fingerprints of what is not saved, by attribute."""
        saved = {id(self._owner), id(self._trainer)}  # that others lead back to
        for part in self._parts:
            saved |= {id(part), id(unwrapped(part))}
            if isinstance(part, TrainedTensor):
                saved.add(id(part.tensor))
            elif isinstance(part, torch.nn.Module):
                within = (*part.modules(), *part.parameters(), *part.buffers())
                saved.update(map(id, within))
        found = {}
        for name, value in attributes_of(self._owner).items():
            looked_at = name not in self._leave_out and self._may_be_state(value)
            if looked_at and not is_plain(value):
                found[name] = fingerprints(value, name, skip=saved, limit=_LIMIT)
        return found

    def _may_be_state(self, value: Any) -> bool:
        """Whether it is the user's to save: not a logger, a loader or the like."""
        if isinstance(value, (enum.Enum, Iterator)) or dataclasses.is_dataclass(value):
            return not isinstance(value, (type, io.IOBase))
        if is_data(value) or is_generator(value):
            return True
        if saves_itself(value):
            return not isinstance(value, type)
        own = {type(self._owner).__module__.partition(".")[0], "__main__"}
        return type(value).__module__.partition(".")[0] in own
