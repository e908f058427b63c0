"""igniter: from a function that trains on one batch to a training program.

Synopsis::

    from igniter import RunSpec, train
    from igniter.args import train_kwargs
    from igniter.main import igniter_main

The names are looked up when they are asked for, so that ``import igniter`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from igniter import journal
    from igniter._version import __version__
    from igniter.errors import IgniterError, Interrupted
    from igniter.main import igniter_main
    from igniter.models.loading import load_model
    from igniter.models.model import Model
    from igniter.result import Result
    from igniter.spec import RunSpec
    from igniter.training import evaluate, train

__all__ = [
    "IgniterError",
    "Interrupted",
    "Model",
    "Result",
    "RunSpec",
    "__version__",
    "evaluate",
    "igniter_main",
    "journal",
    "load_model",
    "train",
]

_HOMES = {
    "IgniterError": "igniter.errors",
    "Interrupted": "igniter.errors",
    "Model": "igniter.models.model",
    "Result": "igniter.result",
    "RunSpec": "igniter.spec",
    "__version__": "igniter._version",
    "evaluate": "igniter.training",
    "igniter_main": "igniter.main",
    "load_model": "igniter.models.loading",
    "train": "igniter.training",
}


def __getattr__(name: str) -> Any:
    if name == "journal":
        return importlib.import_module("igniter.journal")
    if name not in _HOMES:
        raise AttributeError(f"module 'igniter' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
