"""Batches from any position of a plain ``DataLoader``, the same for any number of workers.

The user's loader is taken apart and put together again round the same dataset, collate function
and worker settings. What changes is where indices come from: each batch carries a key (seed,
indices), and the seed is set in whichever process loads the batch. So the data, its order and its
augmentation depend on (seed, pass, batch number) alone: not on the number of workers, on what was
prefetched, or on where the run was stopped.

A pass is one trip through the loader; a position is (pass, number of its batches consumed).
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from igniter.errors import UsageError
from igniter.rng import Address, set_generators
from igniter.sampling import BatchKeys, StatefulSampler
from igniter.workers import Seeded, end_workers, rebuilt

_END = object()


class Batches:
    """An endless iterator over the passes of a loader, from a position on.

    ``loader`` is a ``DataLoader`` or any iterable that can be iterated again. ``purpose`` keeps
    the draws of training apart from those of each evaluation.
    """

    def __init__(
        self,
        loader: Any,
        *,
        seed: int,
        purpose: str,
        notify: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._open, self._sampler = _source(loader, seed, purpose)
        self._notify = notify
        self._iterator: Iterator[Any] | None = None
        self._ahead: list[Any] = []
        self._closed_at_exit = False
        self.length = _length(loader)
        self.pass_ = 0
        self.number = 0

    def seek(self, pass_: int, number: int = 0) -> None:
        """Make batch ``number`` of ``pass_`` the next one."""
        self.pass_, self.number = pass_, number
        self._iterator = None
        self._ahead.clear()

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Any:
        if self._ahead:
            batch = self._ahead.pop()
        else:
            batch = self._read()
            while batch is _END:
                if self.number == 0:
                    raise UsageError(
                        f"the loader gave no batch in pass {self.pass_ + 1}: it is empty, or it is "
                        "an iterator that can be used only once; hand in a loader that can be "
                        "iterated again"
                    )
                self._end_pass()
                batch = self._read()
        self.number += 1
        if self._sampler is not None:
            self._sampler.forget_before(self.number)
        return batch

    def _read(self) -> Any:
        """The next batch of the pass, or ``_END``."""
        if self._iterator is None:
            self._begin()
        assert self._iterator is not None
        return next(self._iterator, _END)

    def _begin(self) -> None:
        self._iterator = self._open(self.pass_, self.number)
        if self.number and isinstance(self._open, _Replayed):
            self._notify(
                f"the loader cannot be entered in the middle: loading {self.number} batches "
                "again to reach the position"
            )
        if not self._closed_at_exit:
            # At exit multiprocessing terminates and joins its workers; ours ignore SIGTERM.
            atexit.register(self.close)
            self._closed_at_exit = True

    def _end_pass(self) -> None:
        self.pass_, self.number, self._iterator = self.pass_ + 1, 0, None

    def state_dict(self) -> dict[str, Any]:
        """The position, and the sampler's own state where it has one.

        A pass whose batches are all consumed is over: going on from its end would mean to run
        through it again.
        """
        if self.length is not None and self.number >= self.length and not self._ahead:
            batch = self._read()
            if batch is _END:
                self._end_pass()
            else:  # more than the loader said
                self._ahead.append(batch)
        state: dict[str, Any] = {"pass": self.pass_, "number": self.number}
        if self._sampler is not None:
            state["sampler"] = self._sampler.state_at(self.number)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where :meth:`state_dict` was taken."""
        self.seek(state["pass"], state["number"])
        if self._sampler is not None and state.get("sampler") is not None:
            self._sampler.restore(state["sampler"])

    def close(self) -> None:
        """End the workers; one that does not answer is killed (it ignores SIGTERM)."""
        atexit.unregister(self.close)
        self._closed_at_exit = False
        self._iterator = None
        self._open.close()


def _source(
    loader: Any, seed: int, purpose: str
) -> tuple[_Seekable | _Replayed, StatefulSampler | None]:
    """How to open ``loader`` at a position, and its sampler if that keeps a state of its own."""
    load = Address(seed, f"{purpose}/load")
    plain = isinstance(loader, DataLoader) and type(loader).__iter__ is DataLoader.__iter__
    if not plain:
        return _Replayed(loader, load), None
    if isinstance(loader.dataset, IterableDataset):
        generator = torch.Generator()
        return _Replayed(rebuilt(loader, loader.dataset, None, generator), load, generator), None
    keys = BatchKeys(loader, Address(seed, f"{purpose}/order"), load)
    return _Seekable(loader, keys), keys.stateful


def _length(loader: Any) -> int | None:
    """Batches in a pass, or None where the loader cannot say."""
    try:
        return len(loader)
    except TypeError:
        return None


class _Source:
    """A loader, and the iterator of it that is open."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._iterator: Iterator[Any] | None = None

    def close(self) -> None:
        end_workers(self._loader, self._iterator)
        self._iterator = None


class _Seekable(_Source):
    """A map-style loader, opened at any position without loading what comes before it."""

    def __init__(self, loader: DataLoader[Any], keys: BatchKeys) -> None:
        super().__init__(rebuilt(loader, Seeded(loader.dataset), keys, torch.Generator()))
        self._keys = keys

    def __call__(self, pass_: int, start: int) -> Iterator[Any]:
        self._keys.pass_, self._keys.start = pass_, start
        self._iterator = iter(self._loader)
        return self._iterator


class _Replayed(_Source):
    """Any iterable of batches, run from the pass's start and thrown away up to the position."""

    def __init__(
        self, loader: Any, load: Address, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(loader)
        self._load, self._generator = load, generator

    def __call__(self, pass_: int, start: int) -> Iterator[Any]:
        if self._generator is not None:
            self._generator.manual_seed(self._load(pass_))
        for part in (self._loader, getattr(self._loader, "dataset", None)):
            set_epoch = getattr(part, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(pass_)
        set_generators(self._load(pass_))
        self._iterator = iter(self._loader)
        return self._from(self._iterator, pass_, start)

    def _from(self, batches: Iterator[Any], pass_: int, start: int) -> Iterator[Any]:
        number = 0
        while True:
            set_generators(self._load(pass_, number))
            try:
                batch = next(batches)
            except StopIteration:
                return
            if number >= start:
                yield batch
            number += 1
