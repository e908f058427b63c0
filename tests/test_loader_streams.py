"""Iterable datasets with workers: every worker goes on where it was, whosever turn it is."""

from __future__ import annotations

import io
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from loading import (
    DatasetState,
    IteratorState,
    Stream,
    noise,
    opened,
    straight,
    taken,
    with_stops,
)
from support import Small, assert_same_run
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from igniter.tracking.display import Display

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

DATASETS: dict[str, Callable[..., Any]] = {
    "no state": Stream,
    "state in the dataset": DatasetState,
    "state in the iterator": IteratorState,
}
HOW: dict[str, dict[str, Any]] = {
    "2 workers": {"num_workers": 2, "drop_last": True},
    "3 kept workers": {"num_workers": 3, "persistent_workers": True, "prefetch_factor": 1},
    "4 workers": {"num_workers": 4, "batch_size": 2, "prefetch_factor": 4},
}


def loader(dataset: Any, **how: Any) -> DataLoader[Any]:
    """In batches of three; 19 numbers divide unevenly among most numbers of workers."""
    return DataLoader(dataset, **{"batch_size": 3, **how})


@pytest.mark.parametrize("kind", DATASETS)
@pytest.mark.parametrize("how", HOW)
def test_stops_with_workers(kind: str, how: str) -> None:
    """Stopped in any worker's turn, near the end too, when some have no more to give.

    The number of workers stays: an iterable dataset gives another order for another number.
    """

    def make() -> Any:
        return loader(DATASETS[kind](), **HOW[how])

    expected = straight(make, 11)
    assert len(set(expected)) == 11
    assert with_stops([make], [1, 5, 7], 11) == expected


def rows(source: Any, count: int) -> list[list[float]]:
    """The numbers in each of ``count`` batches."""
    return [next(source)[:, 0].tolist() for _ in range(count)]


@pytest.mark.parametrize("workers", [0, 2, 3, 4])
@pytest.mark.parametrize("drop_last", [False, True])
def test_the_order_is_torchs(workers: int, drop_last: bool) -> None:
    """Batches hold what torch's own way through an iterable dataset puts in them, in its order."""
    data = loader(Stream(), num_workers=workers, drop_last=drop_last)
    expected = [batch[:, 0].tolist() for batch in data]
    source = opened(data)
    assert rows(source, 2 * len(expected)) == expected * 2
    source.close()


def test_stops_when_workers_have_ended() -> None:
    """Saved after the last batch of one worker, those of the others are not forgotten."""

    def make() -> Any:
        return loader(IteratorState(7), num_workers=2)

    # Worker 0 has two batches, the second of them short; worker 1 has one.
    expected = straight(make, 7)
    assert with_stops([make], range(1, 7), 7) == expected
    source = opened(make())
    found = []
    for stop in range(1, 4):
        found += taken(source, stop - len(found))
        state = source.state_dict()
        assert state["number"] == 0 or state["own"]["entries"] is not None
        again = opened(make())
        again.load_state_dict(state)
        assert taken(again, 1) == [expected[stop]]
        again.close()
    source.close()


def test_one_worker_is_as_none() -> None:
    """No worker and one give the same, and may be changed for each other at a resume."""
    for kind in DATASETS.values():
        makes = [lambda n=n, kind=kind: loader(kind(), num_workers=n) for n in (0, 1)]
        assert with_stops(makes, [2, 5, 9], 15) == straight(makes[0], 15)


def test_a_lost_turn_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the comparison fails where worker 0 always begins."""
    from igniter.streams import Tasks

    begin = Tasks.begin
    monkeypatch.setattr(Tasks, "begin", lambda self, pass_, **how: begin(self, pass_))

    def make() -> Any:
        return loader(IteratorState(), num_workers=2)

    assert with_stops([make], [3], 7) != straight(make, 7)


@pytest.mark.parametrize("kind", DATASETS)
def test_another_number_of_workers(kind: str) -> None:
    """The same order cannot be had then: said with both numbers, and the pass read again."""

    def make(workers: int) -> Any:
        return loader(DATASETS[kind](), num_workers=workers)

    source = opened(make(2))
    taken(source, 4)
    state = source.state_dict()
    source.close()
    warned = io.StringIO()
    other = opened(make(1), display=Display("none", stderr=warned))
    other.load_state_dict(state)
    expected = straight(lambda: make(1), 12)
    assert taken(other, 8) == expected[4:]
    other.close()
    assert "had 2 workers and has 1" in warned.getvalue()
    assert "start with the number it had" in warned.getvalue()


class Placed(IterableDataset):
    """Shards itself in every way that torch's documentation shows."""

    def __init__(self) -> None:
        self.start, self.end = 0, 12

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = get_worker_info()
        assert info is not None
        assert type(info.dataset) is Placed
        assert info.dataset is self
        for number in range(self.start, self.end):
            yield torch.tensor([float(number), float(info.id), *noise()])


def shard(worker: int) -> None:
    """A worker_init_fn that changes the dataset's copy in the worker."""
    info = get_worker_info()
    assert info is not None
    assert info.id == worker
    share = info.dataset.end // info.num_workers
    info.dataset.start = worker * share
    info.dataset.end = info.dataset.start + share


@pytest.mark.parametrize("persistent", [False, True])
def test_sharded_by_worker_init_fn(persistent: bool) -> None:
    """A worker keeps its number over resumes, so that the user's sharding by it holds."""

    def make() -> Any:
        return loader(Placed(), num_workers=3, worker_init_fn=shard, persistent_workers=persistent)

    expected = straight(make, 14)
    assert with_stops([make], [1, 5, 8], 14) == expected
    source = opened(make())
    source.seek(0, 4)
    found = [next(source) for _ in range(2)]
    assert [batch[:, 1].tolist() for batch in found] == [[1.0], [2.0]]
    source.close()


def test_nothing_is_sent_for_batches_read_again() -> None:
    """What is read again only to be thrown away stays in the worker."""
    source = opened(loader(Stream(), num_workers=1))
    source.seek(0, 5)
    batches, before = source._source.open(0, 5)
    iterator = source._source.iterator
    sent = []
    source._source.iterator = (sent.append(answer[1]) or answer for answer in iterator)
    for _ in range(before + 1):
        next(batches)
    assert [batch is None for batch in sent] == [True] * 5 + [False]
    source._source.iterator = iterator
    source.close()


class Walker(DatasetState):
    """A dataset that wants to walk on over the ends of passes."""

    left = 6

    def __iter__(self) -> Iterator[torch.Tensor]:
        while self.left:
            self.left -= 1
            self.read += 1
            yield torch.tensor([float(self.read), *noise()])
        self.left = 6

    def state_dict(self) -> dict[str, Any]:
        """How much was read, and what is left of the pass."""
        return {"read": self.read, "left": self.left}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.read, self.left = state["read"], state["left"]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("persistent", [False, True])
def test_each_pass_begins_with_the_first_state(workers: int, persistent: bool) -> None:
    """A pass depends on its number alone, not on which process has been through others."""
    if persistent and not workers:
        pytest.skip("nothing to keep")

    def make() -> Any:
        return loader(Walker(), num_workers=workers, persistent_workers=persistent)

    source = opened(make())
    assert rows(source, 4) == [[1, 2, 3], [4, 5, 6]] * 2
    source.close()
    assert with_stops([make], [1, 2, 3], 6) == straight(make, 6)


class Failing(Stream):
    """A stream that breaks."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from itertools.islice(super().__iter__(), 4)
        raise OSError("the disk is gone")


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_come_through(workers: int) -> None:
    """An error of the user's in the stream arrives as what it is, after the batches before it."""
    source = opened(loader(Failing(), num_workers=workers))
    next(source)
    with pytest.raises(OSError, match="the disk is gone"):
        next(source)
    source.close()


def test_a_length_that_is_wrong() -> None:
    """A stream that says it is longer or shorter than it is comes out exact all the same."""
    for said in (9, 30):

        class Lying(IteratorState):
            def __len__(self, said: int = said) -> int:
                return said

        def make(dataset: Any = Lying) -> Any:
            return loader(dataset())

        assert with_stops([make], [3, 6, 7, 10], 15) == straight(make, 15)


def test_datapipes() -> None:
    """torch's datapipes, which shard and shuffle in ways of their own, are read again."""
    from torch.utils.data.datapipes.iter import IterableWrapper

    def make() -> Any:
        pipe = IterableWrapper(range(19)).shuffle().sharding_filter().map(float)
        return DataLoader(pipe, batch_size=3, num_workers=2)

    expected = straight(make, 12)
    assert with_stops([make], [2, 8], 12) == expected
    assert len(set(expected)) == 12


class Slow:
    """Four batches a pass that can only be read from the start, which may be stopped meanwhile."""

    def __init__(self) -> None:
        self.stop_at: int | None = None
        self.read = 0

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[Any]:
        for number in range(4):
            self.read += 1
            if number == self.stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            yield (torch.full((2, 2), float(number)) + torch.rand(2, 2),)


def test_stopped_while_batches_are_loaded_again(tmp_path: Path) -> None:
    """A stop on the way back to the position is obeyed at once, and costs nothing but the way."""
    slow = Slow()
    straight, stopped = Small(tmp_path / "a", loader=Slow()), Small(tmp_path / "b", loader=slow)
    assert straight.train().status == "completed"
    assert stopped.train(stop_at=7).iteration == 7
    slow.stop_at, slow.read = 0, 0
    again = stopped.train()
    assert (again.status, again.iteration, slow.read) == ("interrupted", 7, 1)
    slow.stop_at = None
    assert stopped.train().status == "completed"
    assert_same_run(straight.run_dir, stopped.run_dir)
