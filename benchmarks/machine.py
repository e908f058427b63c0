"""What every benchmark says first, and how it measures: in turn, by the median, with the spread."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import torch


def machine() -> str:
    """The machine and the versions, on one line."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{_processor()}, {os.cpu_count()} cores, {memory / 2**30:.0f} GiB, {device}; "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def in_turn(rounds: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Each measure's values of ``rounds`` rounds; every other round goes backwards.

    So what drifts on the machine meanwhile falls on all alike, and the values of one round can be
    compared with each other.
    """
    values: list[list[float]] = [[] for _ in measures]
    for number in range(rounds):
        turns = list(zip(values, measures, strict=True))
        for found, measure in reversed(turns) if number % 2 else turns:
            found.append(measure())
    return values


def spread(values: Sequence[float], form: str = ".1f") -> str:
    """``median (min–max)``."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:{form}} ({low:{form}}–{high:{form}})"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
