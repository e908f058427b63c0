"""What every benchmark says first, and how it measures: in turn, by the median, with the spread."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

_CHUNK = 1 << 24


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


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """What is printed goes nowhere, by child processes and progress bars too; errors are raised."""
    sys.stdout.flush()  # what was printed before is not to go there
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for descriptor in (*kept, nowhere):
            os.close(descriptor)


def resident() -> float:
    """Megabytes of this process that are in memory; Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def write_plainly(tensors: Iterable[torch.Tensor], path: Path) -> float:
    """Seconds to write the bytes of ``tensors``, on the CPU, to a new file and fsync it."""
    begun = time.perf_counter()
    with path.open("xb", buffering=0) as file:
        _write(tensors, file)
        os.fsync(file.fileno())
    taken = time.perf_counter() - begun
    path.unlink()
    return taken


def touch_page_cache(tensors: Collection[torch.Tensor], directory: Path) -> None:
    """Fill as much of the page cache as two checkpoints and a plain file will take, and free it.

    A virtual machine's memory is slow when it is used for the first time since it was started.
    """
    path = directory / "touched"
    with path.open("xb", buffering=0) as file:
        for _ in range(3):
            _write(tensors, file)
    path.unlink()


def _write(tensors: Iterable[torch.Tensor], file: Any) -> None:
    for tensor in tensors:
        content: Any = tensor.detach().reshape(-1).view(torch.uint8).numpy()
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest[:_CHUNK]) :]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
