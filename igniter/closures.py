"""What a step function uses besides its arguments, to find state that no checkpoint would hold."""

from __future__ import annotations

import functools
import random
import types
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from igniter.checkpoint.keys import unwrapped

_DEPTH = 4


def used(step: Any) -> Iterator[tuple[str, Any]]:
    """Everything that ``step`` uses besides its arguments, by the name it uses it under.

    Found in its closure, its globals, its bound object, its defaults, and in the functions of the
    same script that it calls. An object used under two names comes twice.
    """
    return _used_by(step, _DEPTH, set())


def unsaved(step: Any, saved: Iterable[Any]) -> dict[str, Any]:
    """Objects with state that ``step`` uses, by the name it uses them under, not among ``saved``.

    A part of what is saved counts as saved: of a module, or an attribute of another object. An
    object whose state is empty, such as a loss function, has nothing to lose.
    """
    held = {id(part) for value in saved for part in parts(value)}
    found: dict[str, Any] = {}
    for name, value in used(step):
        value = unwrapped(value)
        if id(value) not in held and _has_state(value):
            found.setdefault(name, value)
    return found


def private_generators(loader: Any) -> list[str]:
    """Attributes of a loader's dataset and samplers that are random generators of their own.

    A sampler that has a ``state_dict`` is taken to save its own; torch generators of samplers are
    set before each draw.
    """
    owners = {
        "the dataset's": getattr(loader, "dataset", None),
        "the sampler's": getattr(loader, "sampler", None),
        "the batch sampler's": getattr(loader, "batch_sampler", None),
    }
    return [
        f"{owner} attribute {name!r}"
        for owner, value in owners.items()
        if hasattr(value, "__dict__") and not hasattr(value, "state_dict")
        for name, attribute in vars(value).items()
        if isinstance(attribute, (random.Random, np.random.Generator, np.random.RandomState))
    ]


def parts(value: Any) -> list[Any]:
    """A saved object with what it answers for: a module's parts, another object's attributes."""
    value = unwrapped(value)
    if isinstance(value, torch.nn.Module):
        return list(value.modules())
    held = [unwrapped(item) for item in vars(value).values()] if _plain(value) else []
    modules = [part for item in held if isinstance(item, torch.nn.Module) for part in parts(item)]
    return [value, *held, *modules]


def _has_state(value: Any) -> bool:
    if isinstance(value, (type, DataLoader, types.ModuleType)):
        return False
    if isinstance(value, torch.Generator):
        return True
    if not (hasattr(value, "state_dict") and hasattr(value, "load_state_dict")):
        return False
    try:
        return bool(value.state_dict())
    except Exception:  # only a hint is at stake, and the object is the user's
        return False


def _used_by(function: Any, depth: int, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if depth == 0:
        return
    if isinstance(function, functools.partial):
        values = [*function.args, *function.keywords.values()]
        for value in (function.func, *values):
            yield from _each(getattr(value, "__name__", type(value).__name__), value, depth, seen)
    elif isinstance(function, types.MethodType):
        yield from _each("self", function.__self__, depth, seen)
        yield from _used_by(function.__func__, depth, seen)
    elif isinstance(function, types.FunctionType):
        if id(function) not in seen:
            seen.add(id(function))
            for name, value in _names_of(function):
                yield from _each(name, value, depth, seen)
    elif _plain(function) and callable(function):
        yield from _used_by(type(function).__call__.__get__(function), depth, seen)


def _each(name: str, value: Any, depth: int, seen: set[int]) -> Iterator[tuple[str, Any]]:
    yield name, value
    if isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
        yield from _used_by(value, depth - 1, seen)
    elif isinstance(value, (list, tuple)) and len(value) < 100:
        for index, item in enumerate(value):
            yield f"{name}[{index}]", item
    elif isinstance(value, dict) and len(value) < 100:
        for key, item in value.items():
            yield f"{name}[{key!r}]", item
    elif depth and _plain(value) and id(value) not in seen and not hasattr(value, "state_dict"):
        # It keeps others together; what has a state of its own answers for its parts.
        seen.add(id(value))
        for key, item in vars(value).items():
            yield from _each(f"{name}.{key}", item, depth - 1, seen)


def _names_of(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:
            pass  # not assigned yet
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield name, function.__globals__[name]
    for index, value in enumerate(function.__defaults__ or ()):
        yield f"default {index}", value


def _plain(value: Any) -> bool:
    """Whether ``value`` is an ordinary object of the user's own to look into."""
    return hasattr(value, "__dict__") and not isinstance(
        value, (type, types.ModuleType, torch.nn.Module)
    )
