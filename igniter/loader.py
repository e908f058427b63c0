"""Batches from any position of a loader, the same for any number of workers where that can be.

The user's loader is taken apart and put together again round the same dataset, collate function
and worker settings. What changes is where indices come from: each batch carries a key (seed,
indices), and the seed is set in whichever process loads the batch. So the data, its order and its
augmentation depend on (seed, pass, batch number) alone: not on the number of workers, on what was
prefetched, or on where the run was stopped. Iterable datasets are read in the same way, task by
task; what order they give is their own, and may depend on the number of workers.

A pass is one trip through the loader; a position is (pass, number of its batches consumed).
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, IterDataPipe

from igniter.dataloaders import Seekable, Streamed
from igniter.errors import CheckpointMismatch, UsageError
from igniter.protocols import has_state
from igniter.rng import Address
from igniter.sampling import BatchKeys
from igniter.sources import USED_UP, Listed, Replayed, Source, Stateful
from igniter.streams import Tasks
from igniter.tracking.display import Display
from igniter.workers import end_workers, replica, seekable, starting_workers, streamed

_END = object()


class Batches:
    """An endless iterator over the passes of a loader, from a position on.

    ``loader`` is a ``DataLoader`` or any iterable of batches. ``purpose`` keeps the draws of
    training apart from those of each evaluation. ``display`` is told of what cannot be had at
    once, or not exactly. ``before_workers`` is called before workers are started.
    """

    def __init__(
        self,
        loader: Any,
        *,
        seed: int,
        purpose: str,
        display: Display | None = None,
        before_workers: Callable[[], None] = lambda: None,
    ) -> None:
        self._display = display or Display("none")
        self._before_workers = before_workers
        self._source = _source(loader, seed, purpose, self._display)
        self._forget = self._source.forget
        self._iterator: Iterator[Any] | None = None
        self._ahead: list[Any] = []
        self._state: dict[str, Any] = {}
        self._closed_at_exit = False
        self.length = length_of(loader)
        self.pass_ = 0
        self.number = 0

    def seek(self, pass_: int, number: int = 0) -> None:
        """Make batch ``number`` of ``pass_`` the next one."""
        self.load_state_dict({"pass": pass_, "number": number})

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Any:
        batch = self._ahead.pop() if self._ahead else self._read()
        while batch is _END:
            if self.number == 0:
                raise UsageError(
                    f"the loader gave no batch in pass {self.pass_ + 1}: it is empty, or an "
                    f"iterator that is used up: {USED_UP}"
                )
            self._end_pass()
            batch = self._read()
        self.number += 1
        if self._forget is not None:
            self._forget(self.number)
        return batch

    def enter(self, interrupted: Callable[[], bool]) -> bool:
        """Go to the position, where that takes loading batches again; tell whether it was reached.

        ``interrupted()`` is asked before each of them, and ends that. At the start of a pass there
        is nothing to do, and the loader is not touched yet.
        """
        return self._iterator is not None or self.number == 0 or self._open(interrupted)

    def _read(self) -> Any:
        """The next batch of the pass, or ``_END``."""
        if self._iterator is None:
            self._open()
        assert self._iterator is not None
        return next(self._iterator, _END)

    def _open(self, interrupted: Callable[[], bool] = lambda: False) -> bool:
        if not self._closed_at_exit:
            # At exit multiprocessing terminates and joins its workers; ours ignore SIGTERM.
            atexit.register(self.close)
            self._closed_at_exit = True
        if getattr(self._source.loader, "num_workers", 0):
            self._before_workers()
        with starting_workers(self._source.loader):
            batches, before = self._source.open(self.pass_, self.number)
        if before and not self._throw_away(batches, before, interrupted):
            return False
        self._iterator = batches
        return True

    def _throw_away(
        self, batches: Iterator[Any], count: int, interrupted: Callable[[], bool]
    ) -> bool:
        with self._display.replaying(count) as show:
            for done in range(count):
                if interrupted():
                    return False
                if next(batches, _END) is _END:
                    self._display.warn(
                        f"the pass has {done} batches, and {count} of it were trained on before: "
                        "the data changed, so this is not the run it was"
                    )
                    break
                show(done + 1)
        return True

    def _end_pass(self) -> None:
        self.pass_, self.number, self._iterator = self.pass_ + 1, 0, None

    def pass_is_over(self) -> bool:
        """Whether the pass has no batch left; one that it has is held until it is asked for."""
        if not self._ahead:
            batch = self._read()
            if batch is _END:
                return True
            self._ahead.append(batch)
        return False

    def state_dict(self) -> dict[str, Any]:
        """The position, and what the loader keeps as a state of its own.

        A pass whose batches are all consumed is over: going on from its end would mean to run
        through it again.
        """
        if not self._ahead:
            self._state = self._state_now()
            if self._may_be_over() and self.pass_is_over():
                self._end_pass()
                self._state = self._state_now()
        return self._state

    def _may_be_over(self) -> bool:
        if self._source.told_of_end:
            return self._iterator is not None
        return self.length is not None and self.number >= self.length

    def _state_now(self) -> dict[str, Any]:
        state: dict[str, Any] = {"pass": self.pass_, "number": self.number}
        own = self._source.state(self.number)
        if own is not None:
            state |= {"kind": self._source.kind, "own": own}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where :meth:`state_dict` was taken.

        Raises:
            CheckpointMismatch: it was taken of phases.
        """
        if "phase" in state:
            raise CheckpointMismatch(
                f"the checkpoint was made in a phase from epoch {state['phase']} on, and the "
                "loader has no phases. Build it as it was"
            )
        own = state.get("own")
        if own is not None and state["kind"] != self._source.kind:
            self._display.warn(
                f"the checkpoint holds the state of a {state['kind']}, which the loader no longer "
                "has: it is entered by the number of batches"
            )
            own = None
        self.pass_, self.number = state["pass"], state["number"]
        self._iterator = None
        self._ahead.clear()
        self._source.restore(own)

    def close(self) -> None:
        """End the workers; one that does not answer is killed (it ignores SIGTERM).

        A sampler or dataset with a state is left as it was found: the script may train again.
        """
        atexit.unregister(self.close)
        self._closed_at_exit = False
        self._iterator = None
        end_workers(self._source.loader, self._source.iterator)
        self._source.iterator = None
        self._source.restore(None)


def _source(loader: Any, seed: int, purpose: str, display: Display) -> Source:
    """How ``loader`` is opened at a position."""
    load = Address(seed, f"{purpose}/load")
    generator = torch.Generator()
    if not isinstance(loader, DataLoader):
        if _is_list(loader):
            return Listed(loader, load)
        if has_state(loader):
            return Stateful(loader, load)
        if purpose == "train" and isinstance(loader, Iterator):
            display.say(
                "the training loader is an iterator, which can be run through once. A stop is "
                "exact if each start of the script makes it give the same batches: those before "
                "the position are then loaded again"
            )
        return Replayed(loader, load)
    if not getattr(loader, "in_order", True) and loader.num_workers > 0:
        display.say("in_order=False is set aside: batches that come as they may cannot be resumed")
    if not _is_plain(loader) or isinstance(loader.dataset, IterDataPipe):
        return Replayed(replica(loader, generator), load, generator)
    if isinstance(loader.dataset, IterableDataset):
        tasks = Tasks(max(loader.num_workers, 1), load, Address(seed, f"{purpose}/begin"))
        return Streamed(streamed(loader, tasks, generator), tasks, generator, load, display)
    keys = BatchKeys(loader, Address(seed, f"{purpose}/order"), load)
    return Seekable(seekable(loader, keys, generator), keys, generator, load)


def _is_list(loader: Any) -> bool:
    """Whether iterating means to go through the indices."""
    if isinstance(loader, (list, tuple)):
        return True
    return isinstance(loader, Sequence) and type(loader).__iter__ is Sequence.__iter__


def _is_plain(loader: DataLoader[Any]) -> bool:
    """Whether its way of iterating is torch's, or that of torchdata's StatefulDataLoader."""
    way = type(loader).__iter__
    return way is DataLoader.__iter__ or way.__module__.startswith("torchdata.")


def length_of(loader: Any) -> int | None:
    """Batches in a pass, or None where the loader cannot say."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None
