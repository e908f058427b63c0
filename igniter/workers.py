"""A DataLoader rebuilt: the user's data and worker settings, igniter's indices and seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from igniter.rng import set_generators
from igniter.sampling import BatchKeys, Key
from igniter.signals import end_with_parent_alone


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


def end_workers(loader: Any, iterator: Any) -> None:
    """End the workers of a DataLoader's iterator; of anything else, nothing."""
    shut_down = getattr(iterator, "_shutdown_workers", None)
    if shut_down is None:
        return
    shut_down()
    for worker in getattr(iterator, "_workers", ()):
        if worker.is_alive():
            worker.kill()
    if getattr(loader, "_iterator", None) is iterator:
        loader._iterator = None  # persistent workers: the next pass starts new ones


def rebuilt(
    loader: DataLoader[Any], dataset: Any, keys: BatchKeys | None, generator: torch.Generator
) -> DataLoader[Any]:
    """``loader`` again, with its own settings but for where indices and seeds come from."""
    settings: dict[str, Any] = {
        name: getattr(loader, name)
        for name in ("num_workers", "collate_fn", "pin_memory", "timeout", "persistent_workers")
    }
    if keys is None:
        # Kept workers would go on with the randomness of the pass before.
        settings["persistent_workers"] = False
    if loader.num_workers > 0:
        settings["prefetch_factor"] = loader.prefetch_factor
        settings["multiprocessing_context"] = loader.multiprocessing_context
        settings["worker_init_fn"] = _WorkerStart(loader.worker_init_fn)
    if keys is not None and loader.batch_sampler is not None:
        settings["batch_sampler"] = keys
    else:
        settings["batch_size"] = loader.batch_size
        settings["sampler"] = keys
        settings["drop_last"] = loader.drop_last
    return DataLoader(dataset, generator=generator, **settings)


class _WorkerStart:
    """What a loader worker does first. A class, so that it can be pickled for spawned workers."""

    def __init__(self, users_own: Callable[[int], None] | None) -> None:
        self._users_own = users_own

    def __call__(self, worker_id: int) -> None:
        end_with_parent_alone()
        info = get_worker_info()
        if info is not None and isinstance(info.dataset, Seeded):
            # WorkerInfo is frozen; the user's code looks for the user's dataset there.
            object.__setattr__(info, "dataset", info.dataset.dataset)
        if self._users_own is not None:
            self._users_own(worker_id)
