"""The ready-made callbacks, to be given in ``RunSpec(callback=[…])`` or ``Model.fit``.

Synopsis::

    from igniter.handlers import EMA, EarlyStopping

    ema = EMA(decay=0.999)
    train_spec = RunSpec(…, callback=[ema, EarlyStopping("eval/loss", patience=3)])
    eval_spec = RunSpec(…, weights=ema)

What a callback must remember is in the checkpoints by itself. The names are looked up when they
are asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from igniter.handlers.csv_log import CSVLog
    from igniter.handlers.early_stopping import EarlyStopping
    from igniter.handlers.ema import EMA
    from igniter.handlers.freezer import Freezer
    from igniter.handlers.learning_rate import find_learning_rate
    from igniter.handlers.mixup import CutMix, Mixup
    from igniter.handlers.nan_guard import NaNGuard
    from igniter.handlers.profiler import Profiler
    from igniter.handlers.side_checkpoints import SideCheckpoints
    from igniter.handlers.swa import SWA
    from igniter.handlers.sync_batch_norm import SyncBatchNorm

__all__ = [
    "EMA",
    "SWA",
    "CSVLog",
    "CutMix",
    "EarlyStopping",
    "Freezer",
    "Mixup",
    "NaNGuard",
    "Profiler",
    "SideCheckpoints",
    "SyncBatchNorm",
    "find_learning_rate",
]

_HOMES = {
    "CSVLog": "csv_log",
    "CutMix": "mixup",
    "EMA": "ema",
    "EarlyStopping": "early_stopping",
    "Freezer": "freezer",
    "Mixup": "mixup",
    "NaNGuard": "nan_guard",
    "Profiler": "profiler",
    "SWA": "swa",
    "SideCheckpoints": "side_checkpoints",
    "SyncBatchNorm": "sync_batch_norm",
    "find_learning_rate": "learning_rate",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'igniter.handlers' has no attribute {name!r}")
    return getattr(importlib.import_module(f"igniter.handlers.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
