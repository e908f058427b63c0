"""Training fails as soon as a step returns NaN or infinity, in all its processes at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from igniter.errors import NonFiniteError, UsageError

if TYPE_CHECKING:
    from igniter.engine import StepEngine

_SELDOM = 50  # iterations; reading what a GPU has computed waits for it
_NONE = 2**62


class NaNGuard:
    """Raises :class:`~igniter.errors.NonFiniteError` where a step's output is not finite.

    Args:
        keys: of the output, that are looked at; all of them where none is given.
        every: after how many iterations what was seen is read, which waits for the device. By
            default after each on a CPU, after 50 elsewhere. The error names the first iteration.

    It is raised before the safe point, so that no checkpoint is made of what came after. ignite's
    ``TerminateOnNan`` ends the run as if it were complete.

    Raises:
        UsageError: ``every`` is below 1.
    """

    def __init__(self, *keys: str, every: int | None = None) -> None:
        if every is not None and every < 1:
            raise UsageError(f"NaNGuard(every={every}) must be at least 1")
        self._keys = keys
        self._every = every
        # What is not finite, or of which it is not known yet.
        self._seen: list[tuple[int, str, bool | torch.Tensor]] = []

    def on_batch_end(self, trainer: StepEngine, batch: Any, output: Any) -> None:
        """Look at the output of one step.

        Raises:
            NonFiniteError: something in it, or in one before that was not read, is not finite.
            UsageError: it lacks a key that is to be looked at.
        """
        iteration, device = trainer.state.iteration, trainer.device
        for key, value in self._floats(output):
            finite = _is_finite(value)
            if finite is not True:
                self._seen.append((iteration, key, finite))
        every = self._every or (1 if device.type == "cpu" else _SELDOM)
        if iteration % every == 0:
            self._read(device)

    def on_training_end(self, trainer: StepEngine) -> None:
        """Read what was not read yet.

        Raises:
            NonFiniteError: something in it is not finite.
        """
        self._read(trainer.device)

    def on_attempt_end(self, trainer: StepEngine) -> None:
        """Forget what was not read: another attempt has other tensors."""
        self._seen = []

    def _floats(self, output: Any) -> Iterator[tuple[str, float | torch.Tensor]]:
        if not isinstance(output, Mapping):
            return
        missing = [key for key in self._keys if key not in output]
        if missing:
            raise UsageError(
                f"NaNGuard: the step returned no {', '.join(missing)}; it returned "
                f"{', '.join(map(str, output))}"
            )
        for key in self._keys or output:
            value = output[key]
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                yield key, value.detach()
            elif isinstance(value, float):
                yield key, value

    def _read(self, device: torch.device) -> None:
        seen, self._seen = self._seen, []
        finite: list[bool] = []
        if seen:
            # All at once: each reading of its own would wait for the device.
            flags = [torch.as_tensor(flag, device=device) for *_, flag in seen]
            finite = torch.stack(flags).tolist()
        bad = [entry for entry, fine in zip(seen, finite, strict=True) if not fine]
        agreed = _smallest_of_all(bad[0][0] if bad else _NONE, device)
        if agreed == _NONE:
            return
        keys = [key for iteration, key, _ in bad if iteration == agreed]
        where = f"{', '.join(keys)} of the step's output" if keys else "another process's output"
        raise NonFiniteError(
            f"{where} is NaN or infinite at iteration {agreed}. Lower the learning rate or clip "
            "gradients, and go on from the last checkpoint with the same command"
        )


def _is_finite(value: float | torch.Tensor) -> bool | torch.Tensor:
    """Whether all of it is; a tensor, still to be read, where it is on another device."""
    if isinstance(value, float):
        return math.isfinite(value)
    if not value.is_cpu:
        return torch.isfinite(value).all()
    # By itself a number takes a twentieth of what torch takes.
    return math.isfinite(value.item()) if value.numel() == 1 else bool(torch.isfinite(value).all())


def _smallest_of_all(number: int, device: torch.device) -> int:
    """The smallest ``number`` among all processes that train together."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return number
    shared = torch.tensor(number, device=device)
    distributed.all_reduce(shared, distributed.ReduceOp.MIN)
    return int(shared)
