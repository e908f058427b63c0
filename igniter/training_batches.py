"""The batches of the training: of one loader, or of phases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from igniter.loader import Batches, length_of
from igniter.phases import PhasedBatches, Phases
from igniter.tracking.display import Display


def open_batches(
    loader: Any, *, seed: int, display: Display, before_workers: Callable[[], None]
) -> Batches | PhasedBatches:
    """The batches of the training, at its start."""

    def begin(loader: Any, epoch: int) -> Batches:
        return Batches(
            loader,
            seed=seed,
            purpose="train" if epoch == 1 else f"train/from-epoch-{epoch}",
            display=display,
            before_workers=before_workers,
        )

    if isinstance(loader, Phases):
        return PhasedBatches(loader, begin, length_of(loader))
    return begin(loader, 1)
