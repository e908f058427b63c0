"""Batches a second through igniter's resumable loader, over those of the plain DataLoader.

Both load the same data in batches of 64, shuffled, with the same workers, and nothing is done with
the batches. The clock starts when workers and prefetching are under way. An item is an image of
3x32x32 floats, or its index alone, where what a batch costs shows that holds next to nothing.

    python benchmarks/loading.py [--pairs 7] [--seconds 2] [--workers 0 2] [--items image index]
"""

from __future__ import annotations

import argparse
import functools
import itertools
import time
from collections.abc import Iterator
from typing import Any

import torch
from machine import in_turn, machine, spread
from torch.utils.data import DataLoader, Dataset

from igniter.loader import Batches

_SKIPPED = 50


class Images(Dataset[torch.Tensor]):
    def __init__(self) -> None:
        self._kept = torch.rand(1024, 3, 32, 32)

    def __len__(self) -> int:
        return 128_000

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._kept[index % 1024]


ITEMS: dict[str, Any] = {"image": Images(), "index": range(128_000)}


def loader(item: str, workers: int) -> DataLoader[Any]:
    return DataLoader(
        ITEMS[item],
        batch_size=64,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def plain(item: str, workers: int, seconds: float) -> float:
    batches = loader(item, workers)
    return rate(itertools.chain.from_iterable(itertools.repeat(batches)), seconds)


def resumable(item: str, workers: int, seconds: float) -> float:
    batches = Batches(loader(item, workers), seed=0, purpose="train")
    found = rate(batches, seconds)
    batches.close()
    return found


def rate(batches: Iterator[Any], seconds: float) -> float:
    """Batches a second, over ``seconds`` of them."""
    for _ in itertools.islice(batches, _SKIPPED):
        pass
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        next(batches)
        count += 1
    return count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="measured of each of a pair")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--items", nargs="+", choices=list(ITEMS), default=list(ITEMS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    print(f"{'item':>5}  {'workers':>7}  {'plain /s':>24}  {'resumable /s':>24}  {'ratio':>18}")
    for item, workers in itertools.product(args.items, args.workers):
        theirs, ours = in_turn(
            args.pairs,
            functools.partial(plain, item, workers, args.seconds),
            functools.partial(resumable, item, workers, args.seconds),
        )
        ratios = [with_it / without for without, with_it in zip(theirs, ours, strict=True)]
        print(
            f"{item:>5}  {workers:>7}  {spread(theirs, '.0f'):>24}  {spread(ours, '.0f'):>24}  "
            f"{spread(ratios, '.3f'):>18}"
        )
    print(f"median (min–max) of {args.pairs} pairs, in turn in one process")


if __name__ == "__main__":
    main()
