"""How each kind of loader is opened at a position, and what it must remember besides.

A source gives the batches of a pass from a number on. What draws random numbers in this process
does so under the seed of its address.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from types import GeneratorType
from typing import Any

import torch

from igniter.errors import UsageError
from igniter.protocols import set_epoch, set_own_generators
from igniter.rng import Address, set_generators

USED_UP = (
    "hand in one that can be iterated again (a DataLoader, a list, an object whose __iter__ is a "
    "generator function), or train for no more than it gives: --epoch-length, --max-iterations"
)


# Batches, and how many of them are to be loaded again and thrown away to reach the position.
Opened = tuple[Iterator[Any], int]


class Source:
    """A loader, and the iterator of it that is open.

    Attributes:
        kind: what a saved state is of, where there is one.
        told_of_end: whether only the batch after tells that a pass is over, so that it is asked for
            at each save. A loader's own state at the end of a pass may be the start of the next.
        forget: called with the number of batches consumed, after each of them; None where nothing
            is kept for the batches that were prefetched.
    """

    kind = ""
    told_of_end = False
    forget: Callable[[int], None] | None = None

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.iterator: Any = None

    def open(self, pass_: int, start: int) -> Opened:
        """The batches of ``pass_``, and how many of them come before number ``start``."""
        raise NotImplementedError

    def state(self, number: int) -> Any:
        """What it takes, besides the position, to go on before batch ``number``; None if nothing.

        Asked between two batches, when all before ``number`` are consumed.
        """
        return None

    def restore(self, saved: Any) -> None:
        """Let the next :meth:`open` go on from what :meth:`state` gave.

        None: from the position, with whatever state the loader had at first.
        """


class Listed(Source):
    """A list of batches, entered by index."""

    def __init__(self, loader: Sequence[Any], load: Address) -> None:
        super().__init__(loader)
        self._load = load

    def open(self, pass_: int, start: int) -> Opened:
        """The batches from index ``start`` on."""
        return self._read(pass_, start), 0

    def _read(self, pass_: int, start: int) -> Iterator[Any]:
        for number in range(start, len(self.loader)):
            set_generators(self._load(pass_, number))
            yield self.loader[number]


class Stateful(Source):
    """An iterable that is no DataLoader and keeps a state of its own."""

    kind = "loader"
    told_of_end = True

    def __init__(self, loader: Any, load: Address) -> None:
        super().__init__(loader)
        self._load = load
        self._saved: Any = None

    def open(self, pass_: int, start: int) -> Opened:
        """The batches that it gives, which are where its own state is."""
        return self._read(pass_, start), 0

    def _read(self, pass_: int, start: int) -> Iterator[Any]:
        # What was saved at the very end of a pass may give the nothing that was left of it.
        at_end = start == 0 and self._saved is not None
        self._saved = None
        set_epoch(self.loader, pass_)
        # Its first batch may be read at once.
        set_generators(self._load(pass_, start))
        self.iterator = iter(self.loader)
        number = start
        while True:
            set_generators(self._load(pass_, number))
            try:
                batch = next(self.iterator)
            except StopIteration:
                if not at_end:
                    return
                at_end, self.iterator = False, iter(self.loader)
                continue
            at_end = False
            yield batch
            number += 1

    def state(self, number: int) -> Any:
        """Its own state, once it was begun."""
        if self._saved is not None or self.iterator is None:
            return self._saved
        return copy.deepcopy(self.loader.state_dict())

    def restore(self, saved: Any) -> None:
        """Load its own state."""
        self._saved = saved
        if saved is not None:
            self.loader.load_state_dict(copy.deepcopy(saved))


class Replayed(Source):
    """Any iterable of batches, run from the pass's start."""

    def __init__(
        self, loader: Any, load: Address, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(loader)
        self._load, self._generator = load, generator
        inner = [getattr(loader, name, None) for name in ("dataset", "sampler", "batch_sampler")]
        self._parts = [loader, *inner]

    def open(self, pass_: int, start: int) -> Opened:
        """The batches from the pass's start.

        Raises:
            UsageError: the loader is a generator that is not at its start.
        """
        if isinstance(self.loader, GeneratorType) and (
            inspect.getgeneratorstate(self.loader) != inspect.GEN_CREATED
        ):
            raise UsageError(f"the loader is a generator that was begun before: {USED_UP}")
        seed = self._load(pass_)
        if self._generator is not None:
            self._generator.manual_seed(seed)
        for part in self._parts:
            set_epoch(part, pass_)
        set_own_generators(self._parts, seed)
        set_generators(seed)
        self.iterator = iter(self.loader)
        return self._read(pass_), start

    def _read(self, pass_: int) -> Iterator[Any]:
        for number in itertools.count():
            set_generators(self._load(pass_, number))
            try:
                batch = next(self.iterator)
            except StopIteration:
                return
            yield batch
