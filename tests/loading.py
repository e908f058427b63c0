"""Datasets and loaders of many kinds, and what a stop may change of the batches they give."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from igniter.checkpoint.portable import decode, encode
from igniter.loader import Batches

SIZE = 19
Make = Callable[[], Any]


def noise() -> list[float]:
    """A number from each of the three generators."""
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


class Points(Dataset):
    """Indices, each with noise of all three generators."""

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([float(index), *noise()])


class Stream(IterableDataset):
    """Numbers with noise, each worker its own share; the epoch is in them where it is told."""

    def __init__(self, size: int = SIZE) -> None:
        self.size, self.epoch = size, 0

    def set_epoch(self, epoch: int) -> None:
        """Take it down."""
        self.epoch = epoch

    def numbers(self) -> range:
        """What this worker reads."""
        info = get_worker_info()
        return range(self.size) if info is None else range(info.id, self.size, info.num_workers)

    def __iter__(self) -> Iterator[torch.Tensor]:
        # Private generators seeded as torch's documentation tells to.
        info = get_worker_info()
        own = np.random.default_rng(0 if info is None else info.seed % 2**32)
        for number in self.numbers():
            drawn = 0.0 if info is None or info.num_workers == 1 else own.random()
            yield torch.tensor([float(number), self.epoch, drawn, *noise()])


class DatasetState(Stream):
    """The same with a state of the dataset's own, which it changes as it goes."""

    def __init__(self, size: int = SIZE) -> None:
        super().__init__(size)
        self.read = 0
        self.loads = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        numbers = self.numbers()
        while self.read < len(numbers):
            self.read += 1
            yield torch.tensor([float(numbers[self.read - 1]), self.epoch, *noise()])
        self.read = 0

    def state_dict(self) -> dict[str, Any]:
        """How much was read."""
        return {"read": self.read}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.read = state["read"]


class _Reader:
    """An iterator with a state: its position, and a generator of its own."""

    def __init__(self, numbers: range, epoch: int) -> None:
        self.numbers, self.epoch, self.read = numbers, epoch, 0
        self.generator = torch.Generator().manual_seed(epoch)

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> torch.Tensor:
        if self.read == len(self.numbers):
            raise StopIteration
        self.read += 1
        drawn = float(torch.rand((), generator=self.generator))
        return torch.tensor([float(self.numbers[self.read - 1]), self.epoch, drawn, *noise()])

    def state_dict(self) -> dict[str, Any]:
        """Tensors too, which are changed in place."""
        return {"read": torch.tensor(self.read), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.read = int(state["read"])
        self.generator.set_state(state["generator"])


class IteratorState(Stream):
    """A stream whose iterator keeps the state."""

    def __iter__(self) -> Any:
        return _Reader(self.numbers(), self.epoch)


def taken(source: Batches, count: int) -> list[bytes]:
    """The next ``count`` batches, as bytes."""
    return [next(source).numpy().tobytes() for _ in range(count)]


def opened(loader: Any, **how: Any) -> Batches:
    """Its batches."""
    return Batches(loader, **{"seed": 0, "purpose": "train", **how})


def straight(make: Make, count: int) -> list[bytes]:
    """``count`` batches without a stop."""
    source = opened(make())
    found = taken(source, count)
    source.close()
    return found


def with_stops(makes: Sequence[Make], stops: Sequence[int], count: int, **how: Any) -> list[bytes]:
    """``count`` batches with a stop after each number of ``stops``.

    Each attempt makes its loader anew, in turn from ``makes``; the position goes through what a
    checkpoint can hold.
    """
    found: list[bytes] = []
    state: Any = None
    for attempt, stop in enumerate([*stops, count]):
        source = opened(makes[attempt % len(makes)](), **how)
        if state is not None:
            source.load_state_dict(decode(state))
        found += taken(source, stop - len(found))
        state = encode(source.state_dict(), "loader")
        source.close()
    return found
