"""DataLoaders that were taken apart and rebuilt, opened at a position."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator
from typing import Any

import torch

from igniter.rng import Address
from igniter.sampling import BatchKeys
from igniter.sources import Opened, Source
from igniter.streams import Tasks
from igniter.tracking.display import Display

_ENDED = {"ended": True, "state": None}


class Seekable(Source):
    """A rebuilt loader of map-style data, opened without loading what comes before."""

    kind = "sampler"

    def __init__(
        self, loader: Any, keys: BatchKeys, generator: torch.Generator, load: Address
    ) -> None:
        super().__init__(loader)
        self._keys, self._generator, self._load = keys, generator, load
        if keys.stateful:
            self.forget = keys.stateful.forget_before

    def open(self, pass_: int, start: int) -> Opened:
        """The batches from ``start`` on."""
        self._keys.pass_, self._keys.start = pass_, start
        if self.loader.num_workers == 0 and not self.loader.pin_memory:
            self.iterator = self._read()
        else:
            self._generator.manual_seed(self._load(pass_))
            self.iterator = iter(self.loader)
        return self.iterator, 0

    def _read(self) -> Iterator[Any]:
        """The batches loaded here as a DataLoader's iterator does it, which adds 7 µs to each."""
        dataset, collate = self.loader.dataset, self.loader.collate_fn
        batched = self.loader.batch_sampler is not None
        fetch = dataset.__getitems__ if batched else dataset.__getitem__
        for key in self._keys:
            yield collate(fetch(key))

    def state(self, number: int) -> Any:
        """The sampler's state, where it has one."""
        return self._keys.stateful.state_at(number) if self._keys.stateful else None

    def restore(self, saved: Any) -> None:
        """Put the sampler's state back; None: the one it had at first."""
        if self._keys.stateful:
            self._keys.stateful.restore(saved)


class Streamed(Source):
    """A rebuilt loader of an iterable dataset: entered by its own state, or read again."""

    kind = "stream"

    def __init__(
        self, loader: Any, tasks: Tasks, generator: torch.Generator, load: Address, display: Display
    ) -> None:
        super().__init__(loader)
        self._tasks, self._generator, self._load = tasks, generator, load
        self._display = display
        self._saved: Any = None
        self._begin_pass()

    def _begin_pass(self) -> None:
        self._done = 0
        self._entries: list[Any] = [None] * self._tasks.workers
        self._used_up: set[int] = set()
        self._keeps_state = False

    def open(self, pass_: int, start: int) -> Opened:
        """The batches from ``start`` on, by the dataset's own state; else from the pass's start."""
        saved, self._saved = self._saved, None
        self._begin_pass()
        if start and saved is not None and saved["workers"] != self._tasks.workers:
            self._display.warn(
                f"the loader had {saved['workers']} workers and has {self._tasks.workers}: an "
                "iterable dataset gives its batches in an order that depends on their number, so "
                "the run will not end as if it had never been stopped. To go on as it began, "
                "start with the number it had"
            )
            saved = None
        known = start > 0 and saved is not None and saved["entries"] is not None
        if known:
            self._keeps_state = True
            self._done, self._entries = saved["task"], list(saved["entries"])
            for worker, entry in enumerate(self._entries):
                if entry is not None and entry["ended"]:
                    self._used_up.add(worker)
        again = 0 if known else start
        self._tasks.begin(pass_, first=self._done, saved=list(self._entries), drop=again)
        self._generator.manual_seed(self._load(pass_))
        self.iterator = iter(self.loader)
        return self._read(), again

    def _read(self) -> Iterator[Any]:
        workers = self._tasks.workers
        answers = itertools.islice(self.iterator, self._done % workers, None)
        while len(self._used_up) < workers:
            found, batch, state = next(answers)
            worker = self._done % workers
            self._done += 1
            self._entries[worker] = state
            if state is not None:
                self._keeps_state = True
            if found != "batch":
                self._entries[worker] = _ENDED
                self._used_up.add(worker)
            if found != "end":
                yield batch
        self._tasks.over = True
        for _ in answers:
            pass  # what is asked for already, so that the workers end or rest
        self._begin_pass()

    def state(self, number: int) -> Any:
        """The number of workers, whose turn it is, and what each goes on from."""
        if self._saved is not None:
            return self._saved
        entries = None
        if self._keeps_state:
            entries = [
                {"ended": False, "state": pickle.loads(entry)}
                if isinstance(entry, bytes)
                else entry
                for entry in self._entries
            ]
        return {"workers": self._tasks.workers, "task": self._done, "entries": entries}

    def restore(self, saved: Any) -> None:
        """Let the workers of the next pass that is opened go on from ``saved``."""
        self._saved = saved
        self.loader.dataset.rewind()
