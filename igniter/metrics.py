"""The metrics of a run: averages of the steps' keys, and those of ignite and torchmetrics.

Whatever their kind they are updated with each step's output, computed when something is due, and
saved with the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from igniter.average import Average
from igniter.checkpoint.portable import is_storable
from igniter.devices import to_device
from igniter.errors import UsageError
from igniter.ignite_import import Engine
from igniter.ignite_import import Metric as IgniteMetric


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
            raise _missing_key(self._name, self._key, output) from None
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


def _missing_key(name: str, key: str, output: Any) -> UsageError:
    if not isinstance(output, Mapping):
        return UsageError(
            f"the step returned {type(output).__name__}, not a dict; metric {name!r} reads the key "
            f"{key!r}: return a dict such as {{{key!r}: loss}}"
        )
    held = ", ".join(repr(str(found)) for found in output) or "nothing"
    return UsageError(
        f"the step's output lacks {key!r}, which metric {name!r} reads; it holds {held}"
    )


class IgniteAccumulated:
    """A metric of ``ignite.metrics``, updated by igniter so that its state can be kept."""

    def __init__(self, name: str, metric: IgniteMetric) -> None:
        self._name, self._metric = name, metric
        self._updated = False
        # ignite's default is ``lambda x: x``; a transform of the user's own knows the output.
        transform = getattr(metric._output_transform, "__code__", None)
        self._takes_pairs = transform is not None and transform.co_code == _AS_IT_IS.co_code

    def reset(self) -> None:
        """Begin anew."""
        self._metric.reset()
        self._updated = False

    def update(self, engine: Engine, output: Any, samples: int) -> None:
        """Hand over the output, as (prediction, target) where it holds those."""
        self._updated = True
        pair = _prediction_and_target(output) if self._takes_pairs else None
        if pair is None:
            self._metric.iteration_completed(engine)
        else:
            self._metric.update(pair)

    def compute(self) -> dict[str, float]:
        """Every number the metric gives."""
        return _flat(self._name, self._metric.compute()) if self._updated else {}

    def state_dict(self) -> dict[str, Any]:
        """The metric's attributes that are data.

        ``Metric.state_dict`` is not enough: metrics that collect every output cannot load what
        they give, and one of the user's own may not say which of its attributes matter.
        """
        return {
            "updated": self._updated,
            "metrics": [_data(part) for part in _within(self._metric)],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self._updated = state["updated"]
        for part, data in zip(_within(self._metric), state["metrics"], strict=True):
            device = getattr(part, "_device", torch.device("cpu"))
            for name, value in data.items():
                setattr(part, name, to_device(value, device))


def _data(metric: IgniteMetric) -> dict[str, Any]:
    """Its attributes that are data, but for the device, which may be another one next time."""
    return {n: v for n, v in vars(metric).items() if n != "_device" and is_storable(v)}


def _within(metric: IgniteMetric) -> list[IgniteMetric]:
    """A metric and those it is composed of, always in the same order."""
    found = [metric]
    for value in vars(metric).values():
        parts = value.values() if isinstance(value, dict) else value
        for part in parts if isinstance(value, (dict, list, tuple)) else (value,):
            if isinstance(part, IgniteMetric):
                found += _within(part)
    return found


class TorchmetricsAccumulated:
    """A metric or collection of torchmetrics (recognised by its methods, not imported)."""

    def __init__(self, name: str, metric: Any, device: torch.device) -> None:
        self._name = name
        self._metric = metric.to(device)
        self._metric.persistent(True)
        self._updated = False

    def reset(self) -> None:
        """Begin anew."""
        self._metric.reset()
        self._updated = False

    def update(self, engine: Engine, output: Any, samples: int) -> None:
        """Hand over prediction and target."""
        pair = _prediction_and_target(output)
        if pair is None:
            raise _missing_key(self._name, "prediction", output)
        self._metric.update(*pair)
        self._updated = True

    def compute(self) -> dict[str, float]:
        """Every number the metric gives."""
        return _flat(self._name, self._metric.compute()) if self._updated else {}

    def state_dict(self) -> dict[str, Any]:
        """The metric's own state."""
        return {"updated": self._updated, "metric": self._metric.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self._updated = state["updated"]
        self._metric.load_state_dict(state["metric"])
        if self._updated:
            # torchmetrics keeps the count of updates outside its state and warns at 0.
            self._metric._update_count = max(1, getattr(self._metric, "_update_count", 1))


_AS_IT_IS = (lambda x: x).__code__


def _prediction_and_target(output: Any) -> tuple[Any, Any] | None:
    for prediction, target in (("prediction", "target"), ("y_pred", "y")):
        if isinstance(output, Mapping) and prediction in output and target in output:
            return output[prediction], output[target]
    return None


def _flat(name: str, value: Any) -> dict[str, float]:
    if isinstance(value, Mapping):
        return {
            full: number
            for key, part in value.items()
            for full, number in _flat(f"{name}/{key}" if name else str(key), part).items()
        }
    if isinstance(value, torch.Tensor) and value.ndim > 0:
        return {f"{name}/{index}": float(part) for index, part in enumerate(value.flatten())}
    return {name: float(value)}


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
