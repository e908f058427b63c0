"""The device of a run: chosen by name, and batches moved to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
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
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, (str, bytes)):
        return batch
    if isinstance(batch, Mapping):
        moved = {key: to_device(value, device) for key, value in batch.items()}
        return moved if type(batch) is dict else type(batch)(moved)  # type: ignore[call-arg]
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(to_device(value, device) for value in batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        fields = [field.name for field in dataclasses.fields(batch) if field.init]
        return dataclasses.replace(
            batch, **{name: to_device(getattr(batch, name), device) for name in fields}
        )
    if hasattr(batch, "to"):
        return batch.to(device)
    return batch
