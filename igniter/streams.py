"""Iterable datasets read task by task, so that a pass can be entered at any batch.

torch gives the worker of an iterable dataset no word about where the run stands. So the dataset is
wrapped as one that is asked for tasks by number: task *t* goes to worker *t* modulo the number of
workers, and says under which seed to read the next batch. A worker whose part of the data is used
up answers its tasks with that word; the pass is over when all are. The batches come in the order
in which torch's own loader for iterable datasets gives them.

A dataset, or the iterator it gives, may keep a state of its own (``state_dict`` and
``load_state_dict``). The state after each batch then travels with the batch.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterator
from typing import Any, Literal

from torch.utils.data import Dataset, get_worker_info

from igniter.protocols import has_state, set_epoch
from igniter.rng import Address, set_generators

# Plain tuples: pickling a class of their own takes some microseconds more for each batch.
# The pass, the seed of what happens before its first batch, and what the worker goes on from.
Opening = tuple[int, int, "dict[str, Any] | None"]
# "open": begin the pass, read nothing. "drop": read a batch and throw it away.
Want = Literal["open", "drop", "give"]
Task = tuple[int, Want, "Opening | None"]
# "last": a batch, after which the worker's part of the data is used up. "end": it was before.
Found = Literal["batch", "last", "end"]
# What was found, the batch, and the pickled state after it.
Answer = tuple[Found, Any, "bytes | None"]


class Stream(Dataset[Any]):
    """The user's iterable dataset, collated as the user's loader does, one task at a time.

    Each pass begins with the state that the dataset had at first, so that a pass depends on its
    number alone: not on whether the process has been through others before.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None,
        drop_last: bool,
        collate: Callable[[Any], Any],
    ) -> None:
        self.dataset = dataset
        self._batch_size, self._drop_last = batch_size, drop_last
        self._collate = collate
        self._items: Any = None
        self._initial: bytes | None = None

    def __getitem__(self, task: Task) -> Answer:
        seed, want, opening = task
        if opening is not None:
            self._begin(*opening)
        if want == "open" or self._items is None:
            return "end", None, None
        set_generators(seed)
        found, items = self._read(self._items)
        # Before collating, which may change what the state refers to.
        state = self._state() if found == "batch" else None
        if found != "batch":
            self._items = None
        if found == "end":
            return found, None, None
        batch = self._collate(items)
        return found, batch if want == "give" else None, state

    def rewind(self) -> None:
        """Give the dataset the state back that it had at first, if it has one."""
        state = None if self._initial is None else pickle.loads(self._initial)
        if state is not None:
            self.dataset.load_state_dict(state)

    def _begin(self, pass_: int, seed: int, saved: dict[str, Any] | None) -> None:
        set_generators(seed)
        info = get_worker_info()
        if info is not None:
            # The user's code may seed generators of its own with it, in each pass anew.
            object.__setattr__(info, "seed", seed)
        if saved is not None and saved["ended"]:
            self._items = None
            return
        set_epoch(self.dataset, pass_)
        self._items = iter(self.dataset)
        state = None if saved is None else saved["state"]
        if has_state(self._items):
            if state is not None:
                self._items.load_state_dict(state)
        elif has_state(self.dataset):
            if self._initial is None:
                self._initial = pickle.dumps(self.dataset.state_dict())
            else:
                self.rewind()
            if state is not None:
                self.dataset.load_state_dict(state)
            set_epoch(self.dataset, pass_)  # a state may hold another
            self._items = iter(self.dataset)

    def _read(self, items: Iterator[Any]) -> tuple[Found, Any]:
        if self._batch_size is None:
            try:
                return "batch", next(items)
            except StopIteration:
                return "end", None
        batch = list(itertools.islice(items, self._batch_size))
        if len(batch) == self._batch_size:
            return "batch", batch
        return ("last", batch) if batch and not self._drop_last else ("end", None)

    def _state(self) -> bytes | None:
        """The state to go on from, as bytes: it may be changed in place by the next batch."""
        for part in (self._items, self.dataset):
            if has_state(part):
                return pickle.dumps(part.state_dict())
        return None


class Tasks:
    """The sampler of a rebuilt loader of :class:`Stream`: an endless sequence of tasks.

    Args:
        workers: among how many processes torch deals the tasks out; 1 without workers.
        load, begin: the addresses of what reading a batch, and beginning a pass, may draw.
    """

    def __init__(self, workers: int, load: Address, begin: Address) -> None:
        self.workers = workers
        self._load, self._begin_at = load, begin
        self.begin(0)

    def begin(
        self,
        pass_: int,
        *,
        first: int = 0,
        saved: list[dict[str, Any] | None] | None = None,
        drop: int = 0,
    ) -> None:
        """What the next iterator gives: the tasks of ``pass_`` from number ``first`` on.

        Each worker goes on from its entry of ``saved``. Tasks below ``drop`` are of batches that
        nobody wants.
        """
        self.over = False
        self._pass, self._first, self._drop = pass_, first, drop
        self._saved = saved or [None] * self.workers

    def __iter__(self) -> Iterator[Task]:
        # torch begins with worker 0. Tasks that only open the pass come before the first one, so
        # that it falls to its own worker, whose number the user's code may go by.
        begin = self._first - self._first % self.workers
        for number in itertools.count(begin):
            if self.over:
                return
            opening = None
            worker = number - begin
            if worker < self.workers:
                seed = self._begin_at(self._pass, worker)
                opening = (self._pass, seed, self._saved[worker])
            want: Want = "give"
            if number < self._first:
                want = "open"
            elif number < self._drop:
                want = "drop"
            yield self._load(self._pass, number), want, opening
