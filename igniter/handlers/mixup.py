"""Samples of a batch mixed with one another: mixup and CutMix.

Each sample is mixed with the one before it in the batch, which a shuffled loader draws at random.
What is drawn, and how it is computed, is as in ``MixUp`` and ``CutMix`` of torchvision's transforms
v2, bit for bit; theirs take images alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import one_hot

from igniter.errors import UsageError

if TYPE_CHECKING:
    from igniter.engine import StepEngine


class _Mixing:
    """Replaces each training batch, a pair of inputs and targets, by a mixed one.

    Args:
        alpha: both parameters of the beta distribution that the share of a sample is drawn from.
        num_classes: how many classes there are, where targets are class indices.

    Raises:
        UsageError: ``alpha`` is not above 0.
    """

    def __init__(self, alpha: float = 1.0, num_classes: int | None = None) -> None:
        if not alpha > 0:
            raise UsageError(f"{type(self).__name__}(alpha={alpha}) must be above 0")
        self._num_classes = num_classes
        both = torch.tensor([float(alpha)])
        self._beta = torch.distributions.Beta(both, both)

    def on_batch_start(self, trainer: StepEngine, batch: Any) -> None:
        """Let the step have a mixed batch; targets become shares of classes.

        Raises:
            UsageError: the batch is no pair of tensors that can be mixed.
        """
        if not (
            isinstance(batch, (tuple, list))
            and len(batch) == 2
            and all(isinstance(part, torch.Tensor) for part in batch)
        ):
            raise self._refused("the batch is no pair of tensors: inputs and targets")
        inputs, targets = batch
        if not inputs.is_floating_point():
            raise self._refused(f"the inputs are {inputs.dtype}, not floating-point")
        mixed = self.mix(inputs, self._shares(targets))
        trainer.state.batch = list(mixed) if isinstance(batch, list) else mixed  # type: ignore[assignment]

    def mix(self, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix inputs of shape N × … and targets of shape N × classes."""
        raise NotImplementedError

    def _draw(self) -> float:
        return float(self._beta.sample(()))

    def _shares(self, targets: torch.Tensor) -> torch.Tensor:
        if targets.ndim == 1 and not targets.is_floating_point():
            if self._num_classes is None:
                raise self._refused("the targets are class indices; give num_classes")
            targets = one_hot(targets.long(), self._num_classes)
        if targets.ndim != 2:
            raise self._refused(
                f"the targets have shape {tuple(targets.shape)}, and must be class indices of "
                "shape N, or shares of shape N × classes"
            )
        return targets if targets.is_floating_point() else targets.float()

    def _refused(self, what: str) -> UsageError:
        return UsageError(f"{type(self).__name__}: {what}")


class Mixup(_Mixing):
    """Each input, and its target, is a weighted mean of two samples (arXiv:1710.09412).

    The step finds ``(inputs, targets)`` with targets of shape N × ``num_classes``, as
    ``cross_entropy`` takes them. ``alpha`` and ``num_classes`` are as in the paper; evaluations
    have their batches as they are.
    """

    def mix(self, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix inputs of shape N × … and targets of shape N × classes."""
        share = self._draw()
        return _mean(inputs, share), _mean(targets, share)


class CutMix(_Mixing):
    """In each image a box is taken from another; targets are mixed by area (arXiv:1905.04899).

    Inputs have shape N × … × height × width; otherwise as :class:`Mixup`.
    """

    def mix(self, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix images of shape N × … × H × W and targets of shape N × classes.

        Raises:
            UsageError: the inputs are no images.
        """
        if inputs.ndim < 3:
            raise self._refused(f"inputs of shape {tuple(inputs.shape)} are no images")
        share = self._draw()
        height, width = inputs.shape[-2:]
        column, row = int(torch.randint(width, (1,))), int(torch.randint(height, (1,)))
        half = 0.5 * math.sqrt(1.0 - share)
        rows = _span(row, int(half * height), height)
        columns = _span(column, int(half * width), width)
        mixed = inputs.clone()
        mixed[..., rows, columns] = inputs.roll(1, 0)[..., rows, columns]
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        return mixed, _mean(targets, 1.0 - area / (width * height))


def _mean(values: torch.Tensor, share: float) -> torch.Tensor:
    return values * share + values.roll(1, 0) * (1.0 - share)


def _span(middle: int, half: int, length: int) -> slice:
    return slice(max(middle - half, 0), min(middle + half, length))
