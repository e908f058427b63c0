"""The device of a run: chosen by name, and batches moved to it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import torch

from igniter.errors import UsageError


def device_named(name: str | torch.device) -> torch.device:
    """The device called ``name``; ``auto`` is an accelerator where there is one, else the CPU.

    Raises:
        UsageError: there is no such device here, or it cannot be used.
    """
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(str(name))
    except RuntimeError as error:
        raise UsageError(f"'{name}' is no device; give auto, cpu, cuda, cuda:1 or mps") from error
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name}: {_why_not(device, error)}; give cpu or auto") from error
    return device


def _why_not(device: torch.device, error: Exception) -> str:
    """Why nothing can be put on ``device``: torch's own words only where it should have worked."""
    is_built = getattr(getattr(torch.backends, device.type, None), "is_built", None)
    if is_built is not None and not is_built():
        return f"this torch has no {device.type.upper()}"
    device_count = getattr(getattr(torch, device.type, None), "device_count", None)
    if device_count is None or (device.index or 0) >= device_count():
        return f"this machine has no {device}"
    return str(error).splitlines()[0]


def to_device(batch: Any, device: torch.device) -> Any:
    """``batch`` with every tensor on ``device``, without waiting for the copies.

    Tensors are found in dicts, lists, tuples, named tuples and dataclasses; an object with a
    ``to`` method is asked to move itself; anything else stays as it is.
    """

    def move(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(device, non_blocking=True)
        return value.to(device) if hasattr(value, "to") else value

    return _changed(batch, move)


def detached(value: Any) -> Any:
    """``value`` with every tensor in it without its history of operations, found likewise."""
    return _changed(value, lambda part: part.detach() if isinstance(part, torch.Tensor) else part)


def _changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """``value`` with everything in it, at any depth, as ``change`` makes it."""
    if isinstance(value, (torch.Tensor, str, bytes)):
        return change(value)
    if isinstance(value, Mapping):
        items = {key: _changed(item, change) for key, item in value.items()}
        if type(value) is dict:
            return items
        if not isinstance(value, MutableMapping):
            return type(value)(items)  # type: ignore[call-arg]
        made = copy.copy(value)  # with what it has besides, such as a defaultdict's factory
        for key, item in items.items():  # a Counter's update() adds
            made[key] = item
        return made
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_changed(item, change) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_changed(item, change) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(
            value, **{name: _changed(getattr(value, name), change) for name in fields}
        )
    return change(value)
