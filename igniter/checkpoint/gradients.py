"""Which gradients still count at a safe point: those that no step has used up.

After a step a gradient is either cleared before the next backward pass, and then it is nothing to
save, or it is added to. Which of the two is seen by one parameter's gradient: whether it is the
same tensor as when the iteration began, and whether it has changed since the step.
"""

from __future__ import annotations

import torch


class StepWatch:
    """Follows one optimizer's steps, in half a microsecond an iteration."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._sample: torch.nn.Parameter | None = None
        # The sample's gradient when the iteration began, and as the step left it.
        self._before: torch.Tensor | None = None
        self._used: tuple[torch.Tensor, int] | None = None

    def begin_iteration(self) -> None:
        """Forget the steps of the iteration before."""
        self._used = None
        if self._sample is None:
            self._sample = self._smallest()
        self._before = None if self._sample is None else self._sample.grad

    def stepped(self, *_: object) -> None:
        """Take note of a step that was made just now."""
        if self._sample is None:
            # No gradient was there when the iteration began, so this one is new.
            self._sample = self._smallest()
        elif self._sample.grad is None:
            # A part that was not used this time. Whether another's is new is not known.
            self._sample = self._smallest()
            self._before = None if self._sample is None else self._sample.grad
        gradient = None if self._sample is None else self._sample.grad
        self._used = None if gradient is None else (gradient, gradient._version)

    def owed(self) -> bool:
        """Whether the gradients may be used again: saved when in doubt."""
        if self._used is None or self._sample is None:
            return True
        gradient, version = self._used
        now = self._sample.grad
        return now is not gradient or now._version != version or now is self._before

    def _smallest(self) -> torch.nn.Parameter | None:
        """The smallest parameter that has a gradient: what is held of it is small too."""
        having = [p for p in parameters(self._optimizer) if p.grad is not None]
        return min(having, key=torch.Tensor.numel, default=None)


def parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """All parameters of an optimizer, in the order of its groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
