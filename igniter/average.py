"""The average over samples of a number or tensor, as state that can be saved.

An average is the sum of (value x samples) over the samples seen, so a short last batch counts for
what it holds. Values stay on their device and are never read in the loop: they are copied into a
block, which is folded into float64 sums when it is full. It is full after a fixed count, so that
neither logging nor saving changes the order in which floating-point numbers are added. Copying into
a block that is there costs half of making a tensor for each value, and no more than adding it to
one sum would.
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
        # Values and their weights on the device of the first value, each element as a tensor, too.
        self._values = self._device_weights = torch.empty(0)
        self._value_cells: list[torch.Tensor] = []
        self._weight_cells: list[torch.Tensor] = []
        self._weights = [0] * _BLOCK  # what the device has
        self._held = 0
        self.mark()

    def reset(self) -> None:
        """Begin anew, but for the window, which goes on."""
        self._fold()
        self._total, self._samples = 0.0, 0

    def mark(self) -> None:
        """Begin a new window."""
        self._window_total: Any = 0.0
        self._window_samples = 0
        self._window_start = self._held

    def update(self, value: Any, samples: int) -> None:
        """Count ``value`` for ``samples`` samples; a tensor of several elements for those."""
        if isinstance(value, torch.Tensor):
            weight = samples
            if value.ndim:
                samples, weight = value.numel(), 1
                value = value.sum(dtype=_widest(value.device))
            if not self._value_cells:
                self._make_block(value.device)
            self._put(value.detach(), weight)
            if self._held == _BLOCK:
                self._fold()
        else:
            # Not through the block: a number is on the host, where adding it costs nothing.
            self._total = self._total + float(value) * samples
            self._window_total = self._window_total + float(value) * samples
        self._samples += samples
        self._window_samples += samples

    def _make_block(self, device: torch.device) -> None:
        block = torch.zeros(2, _BLOCK, dtype=_widest(device), device=device)
        self._values, self._device_weights = block.unbind()
        self._value_cells = list(self._values.unbind())
        self._weight_cells = list(self._device_weights.unbind())
        self._weights = [0] * _BLOCK

    def _put(self, value: torch.Tensor, weight: int) -> None:
        held = self._held
        # A copy: the value may be a part of what the next step changes in place.
        self._value_cells[held].copy_(value)
        if self._weights[held] != weight:
            # Filled in, since the host would wait for a list of weights to be copied to a device.
            self._weight_cells[held].fill_(weight)
            self._weights[held] = weight
        self._held += 1

    def _fold(self) -> None:
        folded = self._sum_from(0)
        in_window = folded if self._window_start == 0 else self._sum_from(self._window_start)
        self._total = self._total + folded
        self._window_total = self._window_total + in_window
        self._held = self._window_start = 0

    def _sum_from(self, start: int) -> Any:
        if start == self._held:
            return 0.0
        part = slice(start, self._held)
        return (self._values[part] * self._device_weights[part]).sum()

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
            "block": self._values[: self._held].clone() if self._held else None,
            "weights": self._weights[: self._held],
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        """Take up the sums of :meth:`state_dict`, on ``device``."""
        self._total = _on(device, state["total"])
        self._samples = state["samples"]
        self._window_total = _on(device, state["window_total"])
        self._window_samples = state["window_samples"]
        self._held = 0
        if state["weights"]:
            self._make_block(torch.device(device))
            for value, weight in zip(state["block"].to(device), state["weights"], strict=True):
                self._put(value, weight)
        self._window_start = state["window_start"]


def _on(device: torch.device | str, total: Any) -> Any:
    return total.to(device) if isinstance(total, torch.Tensor) else total


def _widest(device: torch.device) -> torch.dtype:
    """Float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


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
