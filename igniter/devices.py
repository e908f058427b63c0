"""The device of a run: chosen by name, and batches moved to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from igniter.errors import UsageError


def device_named(name: str) -> torch.device:
    """The device called ``name``; ``auto`` is an accelerator where there is one, else the CPU.

    Raises:
        UsageError: there is no such device here.
    """
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first_line = str(error).splitlines()[0]
        raise UsageError(
            f"--device {name}: {first_line}; give cpu, or auto to take what there is"
        ) from error
    return device


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
