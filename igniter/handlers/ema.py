"""The exponential moving average of a module's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from igniter.errors import UsageError
from igniter.handlers.averaging import Every, WeightAverage


class EMA(WeightAverage):
    """Follows a module's weights with an exponential moving average.

    Synopsis::

        ema = EMA(decay=0.999)
        RunSpec(train_step, loader, callback=[ema])
        RunSpec(eval_step, eval_loader, weights=ema)  # evaluated with the averaged weights

    What an evaluation has its weights from need not be among the callbacks. The average is in the
    checkpoints, and the averaged module is exported as ``<of>_ema``.

    Args:
        of, every, start: see :class:`~igniter.handlers.averaging.WeightAverage`.
        decay: the average's share in the next one, from 0 to below 1.
        warmup: whether after n averages the decay is at most (1 + n) / (10 + n), so that the
            weights of the beginning are soon forgotten.

    Raises:
        UsageError: an argument cannot be.
    """

    def __init__(
        self,
        of: str | None = None,
        *,
        decay: float = 0.999,
        every: Every = "update",
        start: int | str = 0,
        warmup: bool = False,
    ) -> None:
        super().__init__(of, every, start)
        if not 0 <= decay < 1:
            raise UsageError(f"EMA(decay={decay}) must be at least 0 and below 1")
        self._decay, self._warmup = decay, warmup

    def averaged(self, module: torch.nn.Module) -> AveragedModel:
        """A new average of ``module``."""
        return AveragedModel(module, multi_avg_fn=self._mix)

    def _mix(self, average: Any, live: Any, number: Any) -> None:
        decay = self._decay
        if self._warmup:
            # Not ``number``, which torch has copied to the weights' device: it would be waited for.
            done = int(self.average.n_averaged)
            decay = min(decay, (1 + done) / (10 + done))
        get_ema_multi_avg_fn(decay)(average, live, number)  # type: ignore[no-untyped-call]
