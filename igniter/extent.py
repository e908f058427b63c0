"""How long a run is: the iterations of an epoch, and of the whole."""

from __future__ import annotations

from igniter.cadence import Length
from igniter.errors import UsageError
from igniter.settings import Settings
from igniter.spec import RunSpec


def extent(settings: Settings, spec: RunSpec, batches: int | None) -> Length:
    """How long the run is, in iterations; ``batches`` is the loader's length, if it can tell.

    Raises:
        UsageError: the loader is empty, or cannot tell its length and nobody else does.
    """
    limits = (spec.epoch_length or settings.epoch_length or batches, settings.limit_batches)
    epoch = min((limit for limit in limits if limit is not None), default=None)
    if batches == 0:
        raise UsageError("the training loader is empty: it has no batches (look at drop_last too)")
    if epoch is None:
        raise UsageError(
            "the training loader cannot tell its length; say how many batches make an epoch with "
            "--epoch-length or RunSpec(epoch_length=…)"
        )
    max_epochs = spec.max_epochs or settings.max_epochs
    ends = [] if max_epochs is None else [max_epochs * epoch]
    if settings.max_iterations is not None:
        ends.append(settings.max_iterations)
    return Length(epoch=epoch, total=min(ends))
