"""What of a model is saved: its attributes that have a state, and those that training changes."""

from __future__ import annotations

import copy
import types
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch

from igniter.checkpoint.compare import first_difference
from igniter.checkpoint.portable import is_storable
from igniter.devices import detached
from igniter.protocols import has_state

ATTRIBUTES = "(attributes)"
"""The name that plain attributes are saved under, which is none of an attribute."""

_DELETED = "(deleted)"


def attributes_of(owner: Any) -> dict[str, Any]:
    """What ``owner`` may change: its attributes, in slots too, and those of the user's classes.

    A list that stands in the class is changed through ``self`` like one of its own.
    """
    found = dict(vars(owner))
    for kind in type(owner).__mro__:
        if kind is object or kind.__module__.startswith("igniter."):
            continue
        for name, value in vars(kind).items():
            if name in found or name.startswith("__"):
                continue
            if not isinstance(value, types.MemberDescriptorType):
                found[name] = value
            elif hasattr(owner, name):
                found[name] = getattr(owner, name)
    return found


def parts_of(owner: Any, leave_out: Collection[str]) -> dict[str, Any]:
    """The attributes of ``owner`` that have a state, by name, in the order of their assignment.

    In a list, tuple or dict each is found under ``<attribute>.<index or key>``. A tensor that is
    trained comes as a :class:`TrainedTensor`.
    """
    found: dict[int, tuple[str, Any]] = {}
    for name, value in attributes_of(owner).items():
        if name not in leave_out:
            for key, part in _with_items(name, value):
                if _is_trained(part):
                    found.setdefault(id(part), (key, TrainedTensor(part)))
                elif _can_be_saved(part):
                    found.setdefault(id(part), (key, part))
    return dict(found.values())


def _with_items(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    yield name, value
    if isinstance(value, (list, tuple)):
        yield from ((f"{name}.{index}", item) for index, item in enumerate(value))
    elif isinstance(value, dict):
        yield from ((f"{name}.{key}", item) for key, item in value.items())


def _can_be_saved(value: Any) -> bool:
    return isinstance(value, torch.Generator) or (not isinstance(value, type) and has_state(value))


def _is_trained(value: Any) -> bool:
    """Whether it is a tensor that an optimizer may hold: it must not become another one."""
    if isinstance(value, torch.nn.Parameter):
        return True
    return isinstance(value, torch.Tensor) and value.is_leaf and value.requires_grad


class TrainedTensor:
    """A tensor that is trained, as a part: it takes back its values and stays the same tensor."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def state_dict(self) -> dict[str, Any]:
        """Its values."""
        return {"tensor": self.tensor.detach()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put them back.

        Raises:
            ValueError: they are of another shape.
        """
        shape, saved = tuple(self.tensor.shape), tuple(state["tensor"].shape)
        if saved != shape:
            raise ValueError(f"of another shape: {saved} → {shape}")
        with torch.no_grad():
            self.tensor.copy_(state["tensor"])


def is_plain(value: Any) -> bool:
    """Whether an attribute is saved as data, and comes back as it was."""
    return is_storable(value) and not _would_be_another(value)


def _would_be_another(value: Any) -> bool:
    """Whether there is in it what comes back as something else.

    A tensor that is trained would not be the optimizer's, a named tuple would be without names.
    """
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple)):
        return hasattr(value, "_fields") or any(map(_would_be_another, value))
    return _is_trained(value)


class PlainAttributes:
    """The attributes of ``owner`` that are plain data: numbers, texts, tensors, lists of them.

    Those that are no longer as they were when this was made are its state: a counter, the best
    value so far. What only configures the owner is not, so that it can be given anew.
    """

    def __init__(self, owner: Any, leave_out: Collection[str]) -> None:
        self._owner = owner
        self._leave_out = frozenset(leave_out)
        self._before = copy.deepcopy(detached(self._now()))

    def _now(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in attributes_of(self._owner).items()
            if name not in self._leave_out and is_plain(value)
        }

    def state_dict(self) -> dict[str, Any]:
        """Those that have changed, by name, and the names of those that were deleted."""
        before, there = self._before, attributes_of(self._owner)
        changed = {
            name: detached(value)
            for name, value in self._now().items()
            if name not in before or first_difference(before[name], value, "") is not None
        }
        deleted = [name for name in before if name not in there]
        return {**changed, **({_DELETED: deleted} if deleted else {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set them as they were, and those that had not changed as at first."""
        changed = dict(state)
        deleted = changed.pop(_DELETED, [])
        now = self.state_dict()
        for name in (*now, *now.get(_DELETED, [])):
            if name in self._before:
                setattr(self._owner, name, copy.deepcopy(self._before[name]))
            elif name in vars(self._owner):
                delattr(self._owner, name)
        for name, value in changed.items():
            setattr(self._owner, name, value)
        for name in deleted:
            delattr(self._owner, name)
