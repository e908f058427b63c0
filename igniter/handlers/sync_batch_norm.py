"""Batch norm over the batches of all processes that train together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from igniter.errors import UsageError

if TYPE_CHECKING:
    from igniter.engine import StepEngine


class SyncBatchNorm:
    """Turns batch norm into torch's ``SyncBatchNorm`` where there is more than one process.

    igniter trains in one process today, where it does nothing: a script may have it for later.
    """

    def attach(self, trainer: StepEngine) -> None:
        """Convert the parts of each module of ``to_save``, parameters and buffers kept.

        Raises:
            UsageError: a module is itself a batch norm, which cannot be put in its own place.
        """
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()):
            return
        if distributed.get_world_size() == 1:
            return
        for name, module in trainer.objects_of(torch.nn.Module).items():
            converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
            if converted is not module:
                raise UsageError(
                    f"to_save[{name!r}] is itself a batch norm and cannot be converted in its "
                    "place; build it as torch.nn.SyncBatchNorm"
                )
