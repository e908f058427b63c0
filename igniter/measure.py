"""What every run logs besides its metrics: learning rates, the epoch, and how fast it goes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from igniter.metrics import KeyAverage, ReportedAverage

GRADIENT_NORM = "grad_norm"

_STATM = Path("/proc/self/statm")


class Counted(Protocol):
    """What the loop counts over an attempt."""

    samples: int
    """Samples that steps have handled."""
    waited: float
    """Seconds spent waiting for batches."""


class Speed:
    """How fast training goes: measured over windows, each from one log point to the next.

    The time of a window is that of training: fetching, steps, handlers. Evaluations and saves are
    left out, so that runs which evaluate more often can be compared; so is the first iteration of
    an attempt, which starts workers, finds its place in the data and compiles kernels.

    ``clock`` gives seconds from any origin.
    """

    def __init__(
        self, counted: Counted, device: torch.device, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._counted = counted
        self._device = device
        self._clock = clock
        self._begun: float | None = None
        self._paused: float | None = None

    def pause(self) -> None:
        """Stop the clock, for an evaluation or a save.

        Waits for the device, which may be many steps behind and would do them in the pause; what
        comes next waits for it anyway.
        """
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        self._paused = self._clock()

    def go_on(self, iteration: int) -> None:
        """After ``iteration`` and all that followed from it: let the clock run."""
        if self._begun is None:
            self._begin(iteration)
        elif self._paused is not None:
            self._begun += self._clock() - self._paused
        self._paused = None

    def window(self, iteration: int) -> dict[str, float]:
        """The figures of the window that ends with ``iteration``; the next one begins."""
        if self._begun is None:
            return {}
        seconds = self._clock() - self._begun
        iterations = iteration - self._iteration
        samples = self._counted.samples - self._samples
        waited = self._counted.waited - self._waited
        self._begin(iteration)
        if iterations == 0 or seconds <= 0:
            return {}
        return {
            "perf/samples_per_second": samples / seconds,
            "perf/seconds_per_iteration": seconds / iterations,
            "perf/data_wait_share": waited / seconds,
            **_memory(self._device),
        }

    def _begin(self, iteration: int) -> None:
        self._begun = self._clock()
        self._iteration = iteration
        self._samples, self._waited = self._counted.samples, self._counted.waited


@dataclass(frozen=True)
class Measures:
    """What is logged at every log point of a run, whatever its metrics are."""

    optimizers: Mapping[str, torch.optim.Optimizer]
    epoch_length: int
    gradient_norm: Mapping[str, KeyAverage]
    speed: Speed

    def results(self, iteration: int, *, close: bool) -> dict[str, float]:
        """What is a function of the run; with ``close`` the window of the gradient norm ends."""
        norms = [average.window(close=close) for average in self.gradient_norm.values()]
        return {
            **{f"train/{name}": value for norm in norms for name, value in norm.items()},
            **learning_rates(self.optimizers),
            "epoch": iteration / self.epoch_length,
        }


def learning_rates(optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, float]:
    """The rate of every parameter group, as the next step finds it.

    It is called ``lr`` where there is one, else ``lr/<optimizer>/<group>``, the group being its
    ``"name"`` or its index.
    """
    rates = {
        f"lr/{name}/{label}": float(group["lr"])
        for name, optimizer in optimizers.items()
        for label, group in zip(_labels(optimizer), optimizer.param_groups, strict=True)
        if group.get("lr") is not None  # some optimizers find their own
    }
    return {"lr": next(iter(rates.values()))} if len(rates) == 1 else rates


def _labels(optimizer: torch.optim.Optimizer) -> list[str]:
    indices = [str(index) for index, _ in enumerate(optimizer.param_groups)]
    names = [
        str(group.get("name", index))
        for index, group in zip(indices, optimizer.param_groups, strict=True)
    ]
    return names if len(set(names)) == len(names) else indices


def gradient_norm(metrics: Mapping[str, Any], device: torch.device) -> dict[str, KeyAverage]:
    """What follows the ``grad_norm`` that a step may return; nothing where a metric does.

    The norm is the step's to compute: it knows about clipping and scaling, and which parameters.
    """
    if GRADIENT_NORM in metrics or GRADIENT_NORM in metrics.values():
        return {}
    return {GRADIENT_NORM: ReportedAverage(GRADIENT_NORM, GRADIENT_NORM, device)}


def _memory(device: torch.device) -> dict[str, float]:
    """What the process holds in memory, and the most it held on the device in this window.

    In units of 10^6 bytes, as MLflow's own system metrics are.
    """
    held = {}
    resident = _resident_bytes()
    if resident is not None:
        held["perf/memory_megabytes"] = resident / 1e6
    module = torch.get_device_module(device)
    if hasattr(module, "max_memory_allocated"):  # which neither the CPU nor Apple's has
        held["perf/gpu_peak_memory_megabytes"] = module.max_memory_allocated(device) / 1e6
        module.reset_peak_memory_stats(device)
    return held


def _resident_bytes() -> int | None:
    try:
        pages = int(_STATM.read_bytes().split()[1])
    except OSError:  # not Linux
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
