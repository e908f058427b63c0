"""The metrics of a run: averages of the steps' keys, and those of ignite and torchmetrics.

Whatever their kind they are updated with each step's output, computed when something is due, and
saved with the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from igniter.average import Average
from igniter.errors import UsageError
from igniter.ignite_import import Engine
from igniter.ignite_import import Metric as IgniteMetric
from igniter.library_metrics import IgniteAccumulated, TorchmetricsAccumulated, missing_key


class Accumulated(Protocol):
    """What a metric has to offer to be followed over an epoch or an evaluation."""

    def reset(self) -> None:
        """Begin anew."""

    def update(self, engine: Engine, output: Any, samples: int) -> None:
        """Take in one step's output."""

    def compute(self) -> dict[str, float]:
        """The values by name, read from the device; empty where there is nothing to tell."""

    def state_dict(self) -> dict[str, Any]:
        """What makes it go on from here."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""


class KeyAverage:
    """The average of one key of the step's output."""

    def __init__(self, name: str, key: str, device: torch.device) -> None:
        self._name, self._key, self._device = name, key, device
        self._average = Average()
        self.reset = self._average.reset
        self.state_dict = self._average.state_dict

    def update(self, engine: Engine, output: Any, samples: int) -> None:
        """Count the key's value for ``samples`` samples."""
        try:
            value = output[self._key]
        except (KeyError, TypeError, IndexError):
            raise missing_key(self._name, self._key, output) from None
        self._average.update(value, samples)

    def compute(self) -> dict[str, float]:
        """The mean under the metric's name."""
        mean = self._average.compute()
        return {} if mean is None else {self._name: mean}

    def window(self, *, close: bool) -> dict[str, float]:
        """The mean over the window, under the metric's name; with ``close`` a new one begins."""
        mean = self._average.window()
        if close:
            self._average.mark()
        return {} if mean is None else {self._name: mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self._average.load_state_dict(state, self._device)


class ReportedAverage(KeyAverage):
    """The average of a key over those steps whose output has it."""

    def update(self, engine: Engine, output: Any, samples: int) -> None:
        """Count the key's value, where there is one, for ``samples`` samples."""
        if self._key in output:
            super().update(engine, output, samples)


def accumulated(name: str, metric: Any, device: torch.device) -> Accumulated:
    """What follows ``metric`` under ``name``: a key's average, or the metric itself.

    Raises:
        UsageError: ``metric`` is none of a key, an ignite Metric and a torchmetrics Metric.
    """
    if isinstance(metric, str):
        return KeyAverage(name, metric, device)
    if isinstance(metric, IgniteMetric):
        return IgniteAccumulated(name, metric)
    if all(
        callable(getattr(metric, needed, None)) for needed in ("update", "compute", "persistent")
    ):
        return TorchmetricsAccumulated(name, metric, device)
    raise UsageError(
        f"metric {name!r} is a {type(metric).__name__}; give a key of the step's output, a metric "
        "of ignite.metrics, or one of torchmetrics"
    )
