"""Which indices make each batch, from any batch of a pass on, and the seed it is loaded under.

Shuffled and sequential orders are worked out at the position itself. A sampler of the user's own
is run from the start of the pass, which draws indices and loads nothing; one that keeps a state of
its own goes on from that.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, cast

from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from igniter.order import Sequential, Shuffled
from igniter.protocols import has_state, set_epoch, set_own_generators
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
        self._parts = list(_nested(self._sampler))
        self._ordered = _ordered(self._sampler)
        self.stateful = next((StatefulSampler(p) for p in self._parts if has_state(p)), None)
        self.pass_, self.start = 0, 0

    def __iter__(self) -> Iterator[Key]:
        return self._drawn(self.pass_) if self._ordered is None else self._computed(self.pass_)

    def _computed(self, pass_: int) -> Iterator[Key]:
        """The order worked out at the position itself."""
        assert self._ordered is not None
        length = len(self._ordered.data_source)
        shuffled = _is(self._ordered, RandomSampler)
        order = Shuffled(length, self._order(pass_)) if shuffled else Sequential(length)
        if self._ordered is self._sampler:
            for number in range(self.start, length):
                yield self._load(pass_, number), order.slice(number, number + 1)[0]
            return
        size, number = self._sampler.batch_size, self.start
        while True:
            indices = order.slice(number * size, (number + 1) * size)
            if not indices or (len(indices) < size and self._sampler.drop_last):
                return
            yield self._load(pass_, number), indices
            number += 1

    def _drawn(self, pass_: int) -> Iterator[Key]:
        """The user's own sampler, run from the pass's start: its indices, not its data."""
        for part in self._parts:
            set_epoch(part, pass_)
        number = self.stateful.begin() if self.stateful else 0
        # What was saved at the very end of a pass may give the nothing that was left of it.
        at_end = number == 0 and self.stateful is not None and self.stateful.restored
        self._seed(pass_, number)
        draws = iter(self._sampler)
        while True:
            self._seed(pass_, number)
            try:
                indices = next(draws)
            except StopIteration:
                if at_end:
                    at_end = False
                    draws = iter(self._sampler)
                    continue
                if self.stateful:
                    self.stateful.end()
                return
            at_end = False
            if self.stateful:
                self.stateful.note(number + 1)
            if number >= self.start:
                yield self._load(pass_, number), indices
            number += 1

    def _seed(self, pass_: int, number: int) -> None:
        """Set all that a draw may take its randomness from, also what other loaders share."""
        seed = self._order(pass_, number)
        set_generators(seed)
        set_own_generators(self._parts, seed)


def _nested(sampler: Any) -> Iterator[Any]:
    """A sampler, the one it draws from, and so on."""
    while sampler is not None:
        yield sampler
        sampler = getattr(sampler, "sampler", None)


def _ordered(sampler: Any) -> SequentialSampler | RandomSampler | None:
    """The sampler of indices, where its order is one that is worked out rather than drawn."""
    if _is(sampler, BatchSampler):
        sampler = sampler.sampler
    if _is(sampler, SequentialSampler):
        return cast(SequentialSampler, sampler)
    if _is(sampler, RandomSampler) and not sampler.replacement:
        whole = sampler.num_samples == len(sampler.data_source)
        return cast(RandomSampler, sampler) if whole else None
    return None


def _is(sampler: Any, kind: type) -> bool:
    """Whether it is torch's own, or what torchdata's StatefulDataLoader has in its place."""
    own = type(sampler)
    return own is kind or (
        own.__name__ == kind.__name__ and own.__module__.startswith("torchdata.")
    )


class StatefulSampler:
    """A sampler with a ``state_dict`` of its own, which prefetching runs ahead of training.

    Its state after each batch drawn is kept until that batch is consumed.
    """

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        self._initial: Any = copy.deepcopy(sampler.state_dict())
        self._states: dict[int, Any] = {}
        self._after: Any = None
        self._first = 0
        self._used = False
        self.restored = False

    def begin(self) -> int:
        """The number of the batch that its next iterator gives first."""
        first, self._first = self._first, 0
        self._used = True
        self._states = {first: copy.deepcopy(self._sampler.state_dict())}
        return first

    def note(self, number: int) -> None:
        """Keep the state before batch ``number``, which is drawn next."""
        self.restored = False
        self._states[number] = copy.deepcopy(self._sampler.state_dict())

    def end(self) -> None:
        """Keep the state after the last batch, which is that before the next pass."""
        self._after = copy.deepcopy(self._sampler.state_dict())

    def forget_before(self, number: int) -> None:
        """Let go of the state before the batch that was consumed last."""
        self._states.pop(number - 1, None)

    def state_at(self, number: int) -> Any:
        """The state before batch ``number``, which is the next to be consumed."""
        between_passes = number == 0 and self._after is not None
        return {
            "number": number,
            "state": self._after if between_passes else self._states.get(number),
        }

    def restore(self, saved: Any) -> None:
        """Let the sampler go on from what :meth:`state_at` gave; None is its first state."""
        if saved is None or saved["state"] is None:
            if self._used:
                self._sampler.load_state_dict(copy.deepcopy(self._initial))
            self._first, self._states = 0, {}
        else:
            self._sampler.load_state_dict(copy.deepcopy(saved["state"]))
            self._first, self._states = saved["number"], {saved["number"]: saved["state"]}
        self._after = None
        self.restored = True
