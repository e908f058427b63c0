"""Batches from any position of a loader, the same for any number of workers."""

from __future__ import annotations

import gc
import io
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from test_exact_properties import Case, Points, Stateful, Stop, check
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    get_worker_info,
)

from igniter.errors import UsageError
from igniter.loader import Batches
from igniter.tracking.display import Display

SIZE = 19


def batches(loader: Any, seed: int = 0, purpose: str = "train") -> Batches:
    """The batches of a loader."""
    return Batches(loader, seed=seed, purpose=purpose)


def taken(source: Batches, count: int) -> list[bytes]:
    """The next ``count`` batches, as bytes."""
    return [next(source).numpy().tobytes() for _ in range(count)]


def points(**how: Any) -> DataLoader[Any]:
    """Noisy points in batches of five, four in a pass, the last one short."""
    return DataLoader(Points(), **{"batch_size": 5, "shuffle": True, **how})


def collate(samples: list[torch.Tensor]) -> torch.Tensor:
    """A collate function that draws too."""
    return torch.stack(samples) + random.random() + float(np.random.rand()) + torch.rand(())


@pytest.mark.parametrize("number", [0, 1, 3, 4])
@pytest.mark.parametrize("pass_", [0, 2])
def test_entered_anywhere(pass_: int, number: int) -> None:
    """From a position come the batches that reading up to there would leave.

    Traps: every later epoch is out of phase (IG); a mid-epoch resume uses the next epoch's order,
    or loses the same batches ever after (HE); the first resumed epoch comes in the order of
    epoch 0 (Lightning#21938).
    """
    straight = taken(batches(points()), 16)
    assert len(set(straight)) == 16
    resumed = batches(points())
    resumed.load_state_dict({"pass": pass_, "number": number})
    start = pass_ * 4 + number
    assert taken(resumed, 16 - start) == straight[start:]


@pytest.mark.parametrize("how", [{}, {"persistent_workers": True}, {"prefetch_factor": 4}])
def test_workers_change_nothing(how: dict[str, Any]) -> None:
    """Order, augmentation and what collating draws are the same for 0 and 2 workers.

    Trap: no PyTorch peer restores the workers' randomness.
    """
    straight = taken(batches(points(collate_fn=collate)), 9)
    working = batches(points(collate_fn=collate, num_workers=2, **how))
    assert taken(working, 6) == straight[:6]
    state = working.state_dict()
    assert state == {"pass": 1, "number": 2}
    working.load_state_dict(state)
    assert taken(working, 3) == straight[6:]
    working.close()


def test_users_worker_init_fn() -> None:
    """It is called in each worker and finds the user's own dataset; torch's seeds mean nothing.

    Trap: worker_init_fn reseeds from entropy (PA).
    """

    def start(worker: int) -> None:
        info = get_worker_info()
        assert type(info.dataset) is Points
        assert info.id == worker
        random.seed(os.urandom(8))
        torch.seed()

    working = batches(points(num_workers=1, worker_init_fn=start))
    assert taken(working, 5) == taken(batches(points()), 5)
    working.close()


def test_purposes_and_seeds_differ() -> None:
    """Training and evaluation on one loader see other noise, and so do two seeds."""
    found = [
        taken(batches(points(), seed, purpose), 1)[0]
        for seed in (0, 1)
        for purpose in ("train", "eval/a", "eval/b")
    ]
    assert len(set(found)) == 6


def test_without_batching() -> None:
    """A loader with batch_size=None gives single samples, in the order of its own."""
    loader = DataLoader(Points(), batch_size=None, sampler=RandomSampler(Points()))
    straight = taken(batches(loader), 40)
    resumed = batches(loader)
    resumed.seek(1, 3)
    assert taken(resumed, 18) == straight[22:]
    assert len(set(straight)) == 40


def test_whole_batches_at_once() -> None:
    """A dataset with __getitems__ is asked for a batch at a time, by plain indices."""
    asked: list[Any] = []

    class Whole(Points):
        def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
            asked.append(indices)
            return [self[index] for index in indices]

    loader = DataLoader(Whole(), batch_size=5, shuffle=True)
    assert taken(batches(loader), 4) == taken(batches(points()), 4)
    assert sorted(index for indices in asked for index in indices) == list(range(SIZE))


@pytest.mark.parametrize("sampler", ["shuffled", "drawn"])
def test_seeking_loads_nothing(sampler: str) -> None:
    """What comes before the position is not loaded, whatever the sampler.

    Trap: skipping by loading takes hours (transformers#11284).
    """
    loaded: list[int] = []

    class Counting(Dataset):
        def __len__(self) -> int:
            return 10**6

        def __getitem__(self, index: int) -> int:
            loaded.append(index)
            return index

    data = Counting()
    how: dict[str, Any] = {"shuffle": True}
    if sampler == "drawn":
        how = {"sampler": RandomSampler(range(2000), replacement=True)}
    source = batches(DataLoader(data, batch_size=2, **how))
    source.seek(3, 900)
    next(source)
    assert len(loaded) == 2


def test_distributed_sampler() -> None:
    """set_epoch is called with the number of the pass, and the position counts batches.

    Trap: the distributed sampler skips N samples for N batches (HE).
    """
    sampler = DistributedSampler(Points(), num_replicas=2, rank=1, seed=5)
    loader = DataLoader(Points(), batch_size=3, sampler=sampler)
    straight = taken(batches(loader), 12)
    resumed = batches(loader)
    resumed.seek(1, 2)
    assert taken(resumed, 6) == straight[6:]
    sampler.set_epoch(2)
    expected = [int(index) for index in sampler]
    whole = batches(loader)
    whole.seek(2)
    assert [int(i) for _ in range(4) for i in next(whole)[:, 0]] == expected


class Stream(IterableDataset):
    """Eleven numbers with noise, which can only be read from the start."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        for number in range(11):
            yield torch.tensor([number + random.random() + float(torch.rand(()))])


class Shuffling(DataLoader):
    """A loader with a way of its own."""

    def __iter__(self) -> Iterator[Any]:
        batches = list(super().__iter__())
        random.shuffle(batches)
        return iter(batches)


class Plain:
    """No DataLoader at all."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        for _ in range(3):
            yield torch.rand(2) + float(np.random.rand())


@pytest.mark.parametrize(
    ("loader", "length"),
    [
        (lambda: DataLoader(Stream(), batch_size=4), 3),
        (lambda: Shuffling(Points(), batch_size=5), 4),
        (Plain, 3),
    ],
)
def test_replayed(loader: Any, length: int) -> None:
    """What cannot be entered is read again up to the position, and said to be; no bit changes."""
    straight = taken(batches(loader()), 3 * length)
    said = io.StringIO()
    resumed = Batches(loader(), seed=0, purpose="train", display=Display("plain", stdout=said))
    resumed.seek(1, 2)
    assert taken(resumed, 2 * length - 2) == straight[length + 2 :]
    assert said.getvalue().count("\n") == 1
    assert "loading 2 batches again" in said.getvalue()


def test_iterator_used_up() -> None:
    """What can be iterated only once is refused when it gives nothing, and does not loop for ever.

    Trap: 0 steps for ever (HE).
    """
    source = batches(iter([torch.zeros(1)]))
    next(source)
    with pytest.raises(UsageError, match="gave no batch in pass 2"):
        next(source)


def test_users_loader_is_left_alone() -> None:
    """The user's own loader, iterated by the user, is as it was."""
    loader = points()
    taken(batches(loader), 6)
    torch.manual_seed(1)
    first = [batch[:, 0].tolist() for batch in loader]
    torch.manual_seed(1)
    assert [batch[:, 0].tolist() for batch in points()] == first


def test_workers_end_with_close() -> None:
    """close() ends the workers, though they ignore SIGTERM; another seek starts new ones."""
    source = batches(points(num_workers=2, persistent_workers=True))
    straight = taken(source, 2)
    source.close()
    gc.collect()
    children = {str(child) for child in torch.multiprocessing.active_children()}
    assert children == set()
    source.seek(0)
    assert taken(source, 2) == straight
    source.close()


def test_short_pass_with_drop_last() -> None:
    """drop_last leaves the short batch out, in every pass and from every position."""
    data = TensorDataset(torch.arange(7.0))
    source = batches(DataLoader(data, batch_size=3, shuffle=True, drop_last=True))
    source.seek(0, 1)
    assert [len(next(source)[0]) for _ in range(5)] == [3] * 5
    assert (source.pass_, source.number) == (2, 2)


@pytest.mark.parametrize(
    ("case", "stops"),
    [
        (Case(sampler="stateful"), [Stop(2)]),
        (Case(sampler="stateful"), [Stop(2), Stop(3), Stop(7)]),
        (Case(sampler="stateful", workers=2), [Stop(2), Stop(7)]),
        (Case(sampler="stateful", save_every="3 iterations"), [Stop(5, rude=True)]),
        (Case(sampler="stateful", drop_last=True), [Stop(3), Stop(6)]),
        (Case(sampler="stateful"), [Stop(4)]),
    ],
    ids=str,
)
def test_stateful_sampler(case: Case, stops: list[Stop]) -> None:
    """A sampler with a state of its own goes on from it; prefetching does not run it ahead."""
    check(case, stops)


def test_stateful_sampler_saved_before_it_is_used() -> None:
    """A position that was restored can be saved again at once."""

    def loader() -> Any:
        return DataLoader(Points(), batch_size=5, sampler=Stateful())

    source = batches(loader())
    taken(source, 2)
    state = source.state_dict()
    straight = taken(source, 4)
    again, third = batches(loader()), batches(loader())
    again.load_state_dict(state)
    assert again.state_dict() == state
    third.load_state_dict(again.state_dict())
    assert taken(third, 4) == straight
