"""Stochastic weight averaging: the mean of a module's weights at the ends of epochs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.swa_utils import AveragedModel, update_bn

from igniter.devices import to_device
from igniter.handlers.averaging import Every, WeightAverage

if TYPE_CHECKING:
    from igniter.engine import StepEngine


class SWA(WeightAverage):
    """Averages a module's weights with equal shares (arXiv:1803.05407).

    The average is in the checkpoints, and the averaged module is exported as ``<of>_swa``.

    Args:
        of, every, start: see :class:`~igniter.handlers.averaging.WeightAverage`.
        loader: batches, or tuples that begin with one, by which the statistics of batch norm are
            computed for the averaged weights when training ends, by torch's ``update_bn``.
            Without it they stay those of the weights that were averaged last.
    """

    def __init__(
        self,
        of: str | None = None,
        *,
        start: int | str,
        every: Every = "epoch",
        loader: Iterable[Any] | None = None,
    ) -> None:
        super().__init__(of, every, start)
        self._loader = loader

    def averaged(self, module: torch.nn.Module) -> AveragedModel:
        """A new average of ``module``."""
        return AveragedModel(module)

    def on_training_end(self, trainer: StepEngine) -> None:
        """Compute the statistics of batch norm."""
        if self._loader is not None and self.average.n_averaged:
            update_bn((to_device(batch, trainer.device) for batch in self._loader), self.module)
