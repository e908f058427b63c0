"""Which indices make each batch, from any batch of a pass on, and the seed it is loaded under.

Shuffled and sequential orders are worked out at the position itself. A sampler of the user's own
is run from the start of the pass, which draws indices and loads nothing; one that keeps a state of
its own goes on from that.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from igniter.order import Sequential, Shuffled
from igniter.rng import Address, set_generators

# What is sent to the process that loads a batch: its seed, and the indices that make it. A plain
# tuple: pickling a class of its own takes 4 µs more for each batch.
Key = tuple[int, Any]


class BatchKeys:
    """The batch sampler (or sampler, without batching) of a rebuilt loader: one key a batch."""

    def __init__(self, loader: DataLoader[Any], order: Address, load: Address) -> None:
        self._order, self._load = order, load
        self._sampler: Any = (
            loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        )
        self._inner = getattr(self._sampler, "sampler", None)
        self._ordered = _ordered(self._sampler)
        self.stateful = StatefulSampler.of(self._sampler) or StatefulSampler.of(self._inner)
        self.pass_, self.start = 0, 0

    def __iter__(self) -> Iterator[Key]:
        pass_ = self.pass_
        draws = self._drawn(pass_) if self._ordered is None else self._computed(pass_)
        for number, indices in draws:
            yield self._load(pass_, number), indices

    def _computed(self, pass_: int) -> Iterator[tuple[int, Any]]:
        """The order worked out at the position itself."""
        assert self._ordered is not None
        length = len(self._ordered.data_source)
        shuffled = isinstance(self._ordered, RandomSampler)
        order = Shuffled(length, self._order(pass_)) if shuffled else Sequential(length)
        if self._ordered is self._sampler:
            for number in range(self.start, length):
                yield number, order.slice(number, number + 1)[0]
            return
        size, number = self._sampler.batch_size, self.start
        while True:
            indices = order.slice(number * size, (number + 1) * size)
            if not indices or (len(indices) < size and self._sampler.drop_last):
                return
            yield number, indices
            number += 1

    def _drawn(self, pass_: int) -> Iterator[tuple[int, Any]]:
        """The user's own sampler, run from the pass's start: its indices, not its data."""
        for sampler in (self._sampler, self._inner):
            set_epoch = getattr(sampler, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(pass_)
        number = self.stateful.begin() if self.stateful else 0
        self._seed(pass_, number)
        draws = iter(self._sampler)
        while True:
            self._seed(pass_, number)
            try:
                indices = next(draws)
            except StopIteration:
                if self.stateful:
                    self.stateful.end()
                return
            if self.stateful:
                self.stateful.note(number + 1)
            if number >= self.start:
                yield number, indices
            number += 1

    def _seed(self, pass_: int, number: int) -> None:
        """Set all that a draw may take its randomness from, also what other loaders share."""
        seed = self._order(pass_, number)
        set_generators(seed)
        for sampler in (self._sampler, self._inner):
            generator = getattr(sampler, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(seed)


def _ordered(sampler: Any) -> SequentialSampler | RandomSampler | None:
    """The sampler of indices, where its order is one that is worked out rather than drawn."""
    if type(sampler) is BatchSampler:
        sampler = sampler.sampler
    if type(sampler) is SequentialSampler:
        return sampler
    if type(sampler) is RandomSampler and not sampler.replacement:
        return sampler if sampler.num_samples == len(sampler.data_source) else None
    return None


class StatefulSampler:
    """A sampler with a ``state_dict`` of its own, which prefetching runs ahead of training.

    Its state after each batch drawn is kept until that batch is consumed.
    """

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        self._states: dict[int, Any] = {}
        self._first = 0

    @classmethod
    def of(cls, sampler: Any) -> StatefulSampler | None:
        """What follows ``sampler``, where it has a state of its own."""
        has_state = hasattr(sampler, "state_dict") and hasattr(sampler, "load_state_dict")
        return cls(sampler) if has_state else None

    def begin(self) -> int:
        """The number of the batch that its next iterator gives first."""
        first, self._first = self._first, 0
        self._states = {first: copy.deepcopy(self._sampler.state_dict())}
        return first

    def note(self, number: int) -> None:
        """Keep the state before batch ``number``, which is drawn next."""
        self._states[number] = copy.deepcopy(self._sampler.state_dict())

    def end(self) -> None:
        """Keep the state after the last batch as that before the next pass."""
        self._states[0] = copy.deepcopy(self._sampler.state_dict())

    def forget_before(self, number: int) -> None:
        """Let go of the state before the batch that was consumed last."""
        self._states.pop(number - 1, None)

    def state_at(self, number: int) -> Any:
        """The state before batch ``number``, which is the next to be consumed."""
        return {"number": number, "state": self._states.get(number)}

    def restore(self, saved: Any) -> None:
        """Let the sampler go on from what :meth:`state_at` gave."""
        if saved["state"] is not None:
            self._sampler.load_state_dict(saved["state"])
            self._first = saved["number"]
            self._states = {self._first: saved["state"]}
