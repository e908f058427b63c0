"""ignite, imported without the optimizers of ``torch.distributed``.

ignite asks for one of them, to gather it where a process holds a part. Importing their package
compiles nine TorchScript classes, a quarter of a second at each start of each run, so ignite is
given a name in its place that stands for the same class, and finds it where it has been imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_PACKAGE = "torch.distributed.optim"


class _Stands(type):
    """A class whose instances are those of the class in torch that has its name."""

    def __instancecheck__(cls, value: object) -> bool:
        there = getattr(sys.modules.get(_PACKAGE), cls.__name__, None)
        # An instance of the class exists only where its package has been imported.
        return there is not None and there is not cls and isinstance(value, there)


@contextmanager
def _without_distributed_optimizers() -> Iterator[None]:
    if _PACKAGE in sys.modules:
        yield
        return
    stand_in = ModuleType(_PACKAGE)
    stand_in.ZeroRedundancyOptimizer = _Stands(  # type: ignore[attr-defined]
        "ZeroRedundancyOptimizer", (), {}
    )
    sys.modules[_PACKAGE] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(_PACKAGE) is stand_in:
            del sys.modules[_PACKAGE]


with _without_distributed_optimizers():
    from ignite.engine import Engine, Events
    from ignite.engine.events import EventEnum
    from ignite.handlers import EarlyStopping as IgniteEarlyStopping
    from ignite.handlers import FastaiLRFinder
    from ignite.metrics import Metric, MetricGroup, MetricsLambda, RunningAverage

__all__ = [
    "Engine",
    "EventEnum",
    "Events",
    "FastaiLRFinder",
    "IgniteEarlyStopping",
    "Metric",
    "MetricGroup",
    "MetricsLambda",
    "RunningAverage",
]
