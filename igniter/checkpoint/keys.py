"""A module, and its state, as they are without ``torch.compile`` and data-parallel wrappers.

A compiled part is a wrapper that holds the part as ``_orig_mod``. That word is left out of every
name, so that a run goes on compiled or not, and its files load into the plain module.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch

_WRAPPED = "_orig_mod"


def unwrapped(value: Any) -> Any:
    """The module inside ``torch.compile`` and data-parallel wrappers; other objects themselves."""
    if hasattr(value, _WRAPPED):
        return unwrapped(getattr(value, _WRAPPED))
    if isinstance(value, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
        return unwrapped(value.module)
    return value


def plain_key(key: str) -> str:
    """``key`` as it is without ``torch.compile``."""
    if _WRAPPED not in key:
        return key
    return ".".join(part for part in key.split(".") if part != _WRAPPED)


def module_state(module: torch.nn.Module) -> dict[str, Any]:
    """The module's ``state_dict`` under plain keys; tensors are the module's own."""
    state = module.state_dict()
    if not any(_WRAPPED in key for key in state):
        return state
    return _renamed(state, plain_key)


def load_module(module: torch.nn.Module, state: Mapping[str, Any]) -> None:
    """Put back what :func:`module_state` gave, of a module compiled elsewhere or not at all.

    Raises:
        RuntimeError: it does not fit.
    """
    names = [*module.state_dict(), *(name for name, _ in module.named_modules())]
    own = {plain_key(name): name for name in names if _WRAPPED in name}
    module.load_state_dict(_renamed(state, lambda key: own.get(key, key)) if own else state)


def how_it_differs(module: torch.nn.Module, state: Mapping[str, Any]) -> list[str]:
    """What of ``state`` does not fit the module, a line each."""
    own = module_state(module)
    new = [key for key in own if key not in state]
    gone = [key for key in state if key not in own]
    shapes = [
        f"{key} {tuple(state[key].shape)} → {tuple(value.shape)}"
        for key, value in own.items()
        if _has_shape(value) and _has_shape(state.get(key)) and value.shape != state[key].shape
    ]
    found = {"new in the code": new, "gone from the code": gone, "of another shape": shapes}
    return [f"{what}: {some(items)}" for what, items in found.items() if items]


def some(names: list[str]) -> str:
    """The first of ``names``, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more}"


def _renamed(state: Mapping[str, Any], rename: Any) -> dict[str, Any]:
    renamed = OrderedDict((rename(key), value) for key, value in state.items())
    metadata = getattr(state, "_metadata", None)
    if metadata is not None:
        # The wrapper's own entry comes first and gives way to that of what it wraps.
        versions = OrderedDict((rename(key), value) for key, value in metadata.items())
        renamed._metadata = versions  # type: ignore[attr-defined]
    return renamed


def _has_shape(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not torch.nn.parameter.is_lazy(value)
