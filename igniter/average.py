"""The average over samples of a number or tensor, as state that can be saved.

An average is the sum of (value x samples) over the samples seen, so a short last batch counts for
what it holds. Values stay on their device and are never read in the loop: they are kept, detached,
and folded into float64 sums a block at a time. A block is full after a fixed count, so that neither
logging nor saving changes the order in which floating-point numbers are added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

_BLOCK = 64


class Average:
    """The mean over samples since :meth:`reset`, and over the window since :meth:`mark`."""

    def __init__(self) -> None:
        self._total: Any = 0.0
        self._samples = 0
        self._block: list[torch.Tensor] = []
        self._weights: list[int] = []
        self.mark()

    def reset(self) -> None:
        """Begin anew, but for the window, which goes on."""
        self._fold()
        self._total, self._samples = 0.0, 0

    def mark(self) -> None:
        """Begin a new window."""
        self._window_total: Any = 0.0
        self._window_samples = 0
        self._window_start = len(self._block)

    def update(self, value: Any, samples: int) -> None:
        """Count ``value`` for ``samples`` samples; a tensor of several elements for those."""
        if isinstance(value, torch.Tensor):
            weight = samples
            value = value.detach()
            if value.ndim > 0:
                samples, weight = value.numel(), 1
                value = value.sum(dtype=_widest(value))
            else:
                value = value.clone()  # it may be a part of what the next step changes in place
            self._block.append(value)
            self._weights.append(weight)
            if len(self._block) == _BLOCK:
                self._fold()
        else:
            # Not through the block: a number is on the host, where adding it costs nothing.
            self._total = self._total + float(value) * samples
            self._window_total = self._window_total + float(value) * samples
        self._samples += samples
        self._window_samples += samples

    def _fold(self) -> None:
        self._total = self._total + self._sum_from(0)
        self._window_total = self._window_total + self._sum_from(self._window_start)
        self._block, self._weights, self._window_start = [], [], 0

    def _sum_from(self, start: int) -> Any:
        if start == len(self._block):
            return 0.0
        values = torch.stack(self._block[start:])
        wide = _widest(values)
        weights = torch.tensor(self._weights[start:], dtype=wide, device=values.device)
        return (values.to(wide) * weights).sum()

    def compute(self) -> float | None:
        """The mean since the reset, None where no sample was counted. Reads the device."""
        if self._samples == 0:
            return None
        return float(self._total + self._sum_from(0)) / self._samples

    def window(self) -> float | None:
        """The mean of the window, likewise."""
        if self._window_samples == 0:
            return None
        total = self._window_total + self._sum_from(self._window_start)
        return float(total) / self._window_samples

    def state_dict(self) -> dict[str, Any]:
        """The sums, and the block that is not full yet."""
        return {
            "total": self._total,
            "samples": self._samples,
            "window_total": self._window_total,
            "window_samples": self._window_samples,
            "window_start": self._window_start,
            "block": torch.stack(self._block) if self._block else None,
            "weights": list(self._weights),
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        """Take up the sums of :meth:`state_dict`, on ``device``."""
        self._total = _on(device, state["total"])
        self._samples = state["samples"]
        self._window_total = _on(device, state["window_total"])
        self._window_samples = state["window_samples"]
        self._window_start = state["window_start"]
        block = state["block"]
        self._block = [] if block is None else list(block.to(device).unbind())
        self._weights = list(state["weights"])


def _on(device: torch.device | str, total: Any) -> Any:
    return total.to(device) if isinstance(total, torch.Tensor) else total


def _widest(tensor: torch.Tensor) -> torch.dtype:
    """Float64 where the device has it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def samples_in(batch: Any, output: Any, batch_size: Callable[[Any], int] | None = None) -> int:
    """How many samples a batch counts for.

    What the step returned as ``batch_size``, else what ``batch_size(batch)`` says, else the first
    dimension of the first tensor or array in the batch, else 1.
    """
    if isinstance(output, Mapping) and "batch_size" in output:
        return int(output["batch_size"])
    if batch_size is not None:
        return int(batch_size(batch))
    shape = _first_shape(batch)
    return shape[0] if shape else 1


def _first_shape(batch: Any) -> Sequence[int] | None:
    """That of the first tensor, or of the first array that has a dimension."""
    if isinstance(batch, torch.Tensor):
        return batch.shape
    shape: Sequence[int] | None = getattr(batch, "shape", None)
    if shape:
        return shape
    if not isinstance(batch, (list, tuple)):
        batch = batch.values() if isinstance(batch, Mapping) else batch
        if isinstance(batch, (str, bytes)) or not hasattr(batch, "__iter__"):
            return None
    for part in batch:
        found = _first_shape(part)
        if found is not None:
            return found
    return None
