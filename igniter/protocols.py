"""What the user's samplers, datasets and loaders may offer besides being iterated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


def has_state(part: Any) -> bool:
    """Whether ``part`` can be saved, and go on from what was saved."""
    names = ("state_dict", "load_state_dict")
    return all(callable(getattr(part, name, None)) for name in names)


def set_epoch(part: Any, pass_: int) -> None:
    """Tell ``part`` the number of the pass, where it has ``set_epoch``."""
    tell = getattr(part, "set_epoch", None)
    if tell is not None:
        tell(pass_)


def set_own_generators(parts: Iterable[Any], seed: int) -> None:
    """Set the torch generators that parts have as their ``generator``."""
    for part in parts:
        generator = getattr(part, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(seed)
