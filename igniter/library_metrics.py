"""The metrics of ignite and of torchmetrics: fed, computed, and their state kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from igniter.checkpoint.modes import kept_outside, make_persistent
from igniter.checkpoint.portable import is_storable
from igniter.devices import to_device
from igniter.errors import UsageError
from igniter.ignite_import import Engine, MetricGroup, MetricsLambda, RunningAverage
from igniter.ignite_import import Metric as IgniteMetric

# What an output may call prediction and target.
_PAIRS = (("prediction", "target"), ("y_pred", "y"))


class IgniteAccumulated:
    """A metric of ``ignite.metrics``, updated by igniter so that its state can be kept."""

    def __init__(self, name: str, metric: IgniteMetric) -> None:
        self._name, self._metric = name, metric
        self._fed = list(dict.fromkeys(_fed(metric)))
        self._updated = False

    def reset(self) -> None:
        """Begin anew."""
        self._metric.reset()
        self._updated = False

    def update(self, engine: Engine, output: Any, samples: int) -> None:
        """Hand over the output, as (prediction, target) where it holds those."""
        self._updated = True
        for metric in self._fed:
            if isinstance(metric, RunningAverage) and metric.src is not None:
                metric.update(None)  # it takes the value of its source, which was fed before
            else:
                # Not its update(): the lists of a detector's outputs are taken apart here.
                seen = _as_ignite_has_it(metric, output)
                stand_in: Any = SimpleNamespace(state=SimpleNamespace(output=seen))
                metric.iteration_completed(stand_in)

    def compute(self) -> dict[str, float]:
        """Every number the metric gives."""
        return flat(self._name, self._metric.compute()) if self._updated else {}

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


def _fed(metric: IgniteMetric) -> list[IgniteMetric]:
    """The metrics that take in outputs for ``metric``, in order.

    Those that a composed one is made of: its own ``update`` would pass by their transforms, and
    twice by a metric that stands in it twice.
    """
    if isinstance(metric, (MetricsLambda, MetricGroup)) and _takes_output_as_it_is(metric):
        return [fed for part in _parts(metric) for fed in _fed(part)]
    if isinstance(metric, RunningAverage) and metric.src is not None:
        return [*_fed(metric.src), metric]
    return [metric]


def _as_ignite_has_it(metric: IgniteMetric, output: Any) -> Any:
    """The output, or the items of it that the metric asks for by ignite's names."""
    keys = metric.required_output_keys
    pair = prediction_and_target(output)
    if keys is None or pair is None or not _takes_output_as_it_is(metric):
        return output
    named = {**output, "y_pred": pair[0], "y": pair[1]}
    # Of a loss's ``criterion_kwargs`` there may be none.
    return tuple(named[key] for key in keys if key in named)


def _takes_output_as_it_is(metric: IgniteMetric) -> bool:
    # ignite's default is ``lambda x: x``; a transform of the user's own knows the output.
    transform = getattr(metric._output_transform, "__code__", None)
    return transform is not None and transform.co_code == (lambda x: x).__code__.co_code


def _data(metric: IgniteMetric) -> dict[str, Any]:
    """Its attributes that are data, but for the device, which may be another one next time."""
    return {n: v for n, v in vars(metric).items() if n != "_device" and is_storable(v)}


def _parts(metric: IgniteMetric) -> list[IgniteMetric]:
    found = []
    for value in vars(metric).values():
        parts = value.values() if isinstance(value, dict) else value
        found += [
            part
            for part in (parts if isinstance(value, (dict, list, tuple)) else (value,))
            if isinstance(part, IgniteMetric)
        ]
    return found


def _within(metric: IgniteMetric) -> list[IgniteMetric]:
    """A metric and those it is composed of, each once, always in the same order."""
    found = [metric, *(inner for part in _parts(metric) for inner in _within(part))]
    return list(dict.fromkeys(found))


class TorchmetricsAccumulated:
    """A metric or collection of torchmetrics (recognised by its methods, not imported)."""

    def __init__(self, name: str, metric: Any, device: torch.device) -> None:
        self._name, self._device = name, device
        self._metric = metric.to(device)
        if isinstance(metric, torch.nn.Module):
            make_persistent(metric)
        self._updated = False

    def reset(self) -> None:
        """Begin anew."""
        self._metric.reset()
        self._updated = False

    def update(self, engine: Engine, output: Any, samples: int) -> None:
        """Hand over prediction and target."""
        pair = prediction_and_target(output)
        if pair is None:
            raise missing_key(self._name, "prediction", output)
        # A metric that keeps each output would keep with it all that it was computed by.
        self._metric.update(*(part.detach() if torch.is_tensor(part) else part for part in pair))
        self._updated = True

    def compute(self) -> dict[str, float]:
        """Every number the metric gives."""
        return flat(self._name, self._metric.compute()) if self._updated else {}

    def state_dict(self) -> dict[str, Any]:
        """The metric's own state, and what torchmetrics keeps outside of it."""
        kept = [kept_outside(module) for module in self._modules()]
        return {"updated": self._updated, "metric": self._metric.state_dict(), "outside": kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.reset()  # and with it what was computed before
        self._updated = state["updated"]
        self._metric.load_state_dict(state["metric"])
        for module, kept in zip(self._modules(), state["outside"], strict=True):
            vars(module).update(kept)
        # The states are what was loaded, from wherever; the metric knows its device.
        self._metric.to(self._device)

    def _modules(self) -> list[Any]:
        metric = self._metric
        return list(metric.modules()) if isinstance(metric, torch.nn.Module) else [metric]


def prediction_and_target(output: Any) -> tuple[Any, Any] | None:
    """The two in a step's output, under either of their names; None where it lacks them."""
    for prediction, target in _PAIRS:
        if isinstance(output, Mapping) and prediction in output and target in output:
            return output[prediction], output[target]
    return None


def missing_key(name: str, key: str, output: Any) -> UsageError:
    """What to raise where the metric ``name`` finds no ``key`` in a step's output."""
    if not isinstance(output, Mapping):
        return UsageError(
            f"the step returned {type(output).__name__}, not a dict; metric {name!r} reads the key "
            f"{key!r}: return a dict such as {{{key!r}: loss}}"
        )
    held = ", ".join(repr(str(found)) for found in output) or "nothing"
    return UsageError(
        f"the step's output lacks {key!r}, which metric {name!r} reads; it holds {held}"
    )


def flat(name: str, value: Any) -> dict[str, float]:
    """A metric's value, however nested, as numbers by ``name``, ``name/key`` and ``name/index``.

    Raises:
        UsageError: there is something in it that is no number.
    """
    if isinstance(value, torch.Tensor) and value.ndim > 0:
        value = value.flatten().tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        return {
            full: number
            for key, part in value.items()
            for full, number in flat(f"{name}/{key}", part).items()
        }
    try:
        return {name: float(value)}
    except (TypeError, ValueError):
        raise UsageError(
            f"metric {name!r} gives a {type(value).__name__}, which is no number"
        ) from None
