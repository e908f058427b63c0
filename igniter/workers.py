"""A DataLoader rebuilt: the user's data and worker settings, igniter's indices and seeds."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from igniter.outputs import flush_or_drop
from igniter.rng import set_generators
from igniter.sampling import BatchKeys, Key
from igniter.signals import end_with_parent_alone, kept_from_children
from igniter.streams import Stream, Tasks

Loader = TypeVar("Loader", bound="DataLoader[Any]")


class Seeded(Dataset[Any]):
    """The user's dataset, its randomness set by the key of what is asked for.

    The fetcher collates right after in the same process, so collating is under the same seed.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitems__(self, key: Key) -> Any:
        seed, indices = key
        set_generators(seed)
        whole_batch = getattr(self.dataset, "__getitems__", None)
        if whole_batch:
            return whole_batch(indices)
        return [self.dataset[index] for index in indices]

    def __getitem__(self, key: Key) -> Any:
        seed, index = key
        set_generators(seed)
        return self.dataset[index]


def seekable(
    loader: DataLoader[Any], keys: BatchKeys, generator: torch.Generator
) -> DataLoader[Any]:
    """A loader of map-style data again, with ``keys`` in place of its indices."""
    settings = _worker_settings(loader)
    settings["collate_fn"] = loader.collate_fn
    if loader.batch_sampler is None:
        settings |= {"batch_size": None, "sampler": keys}
    else:
        settings["batch_sampler"] = keys
    return _built(Seeded(loader.dataset), generator, settings)


def streamed(loader: DataLoader[Any], tasks: Tasks, generator: torch.Generator) -> DataLoader[Any]:
    """A loader of an iterable dataset again, which answers ``tasks``."""
    dataset = Stream(loader.dataset, loader.batch_size, loader.drop_last, loader.collate_fn)
    settings = _worker_settings(loader)
    settings |= {"collate_fn": _as_it_is, "batch_size": None, "sampler": tasks}
    return _built(dataset, generator, settings)


def replica(loader: Loader, generator: torch.Generator) -> Loader:
    """A loader with a way of its own, its base seed from ``generator`` and its workers ours.

    Workers that are kept would go on with the randomness of the pass before.
    """
    twin = copy.copy(loader)
    # A DataLoader refuses to have some of these assigned.
    vars(twin).update(generator=generator, persistent_workers=False, in_order=True)
    if loader.num_workers > 0:
        twin.worker_init_fn = _WorkerStart(loader.worker_init_fn)
    return twin


@contextmanager
def starting_workers(loader: Any) -> Iterator[None]:
    """While the workers of ``loader`` are started, if it has any, nothing is in their way.

    Signals wait until the workers ignore them. Multiprocessing flushes stdout and stderr before
    each start, and what those cannot write would end training there.
    """
    if not getattr(loader, "num_workers", 0):
        yield
        return
    flush_or_drop()
    with kept_from_children():
        yield


def end_workers(loader: Any, iterator: Any) -> None:
    """End the workers of a DataLoader's iterator; of anything else, nothing.

    This is all of torch's private attributes that igniter uses.
    """
    shut_down = getattr(iterator, "_shutdown_workers", None)
    if shut_down is None:
        return
    shut_down()
    for worker in getattr(iterator, "_workers", ()):
        if worker.is_alive():
            worker.kill()
    if getattr(loader, "_iterator", None) is iterator:
        loader._iterator = None  # persistent workers: the next pass starts new ones


def _worker_settings(loader: DataLoader[Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {
        name: getattr(loader, name) for name in ("num_workers", "timeout", "persistent_workers")
    }
    # Without an accelerator it does nothing but warn, and the user's own loader is not to blame.
    settings["pin_memory"] = loader.pin_memory and torch.accelerator.is_available()
    if loader.num_workers > 0:
        settings["prefetch_factor"] = loader.prefetch_factor
        settings["multiprocessing_context"] = loader.multiprocessing_context
        settings["worker_init_fn"] = _WorkerStart(loader.worker_init_fn)
    return settings


def _built(
    dataset: Dataset[Any], generator: torch.Generator, settings: dict[str, Any]
) -> DataLoader[Any]:
    with warnings.catch_warnings():
        # Said of the user's own loader already.
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        return DataLoader(dataset, generator=generator, **settings)


def _as_it_is(batch: Any) -> Any:
    return batch


class _WorkerStart:
    """What a loader worker does first. A class, so that it can be pickled for spawned workers."""

    def __init__(self, users_own: Callable[[int], None] | None) -> None:
        self._users_own = users_own

    def __call__(self, worker_id: int) -> None:
        end_with_parent_alone()
        info = get_worker_info()
        if info is not None and isinstance(info.dataset, (Seeded, Stream)):
            # WorkerInfo is frozen; the user's code looks for the user's dataset there.
            object.__setattr__(info, "dataset", info.dataset.dataset)
        if self._users_own is not None:
            self._users_own(worker_id)
