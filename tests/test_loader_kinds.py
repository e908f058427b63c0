"""Every kind of loader in this process: any stops, in any pass, change no bit of any batch."""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from loading import (
    SIZE,
    DatasetState,
    IteratorState,
    Points,
    Stream,
    noise,
    opened,
    straight,
    taken,
    with_stops,
)
from support import Small, assert_exact, plain_eval_step, points_loader
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from igniter import RunSpec, evaluate
from igniter.errors import UsageError
from igniter.loader import Batches
from igniter.tracking.display import Display


class Lazy:
    """A sampler that is a generator function, and draws each index when it is asked for it."""

    def __len__(self) -> int:
        return SIZE

    def __iter__(self) -> Iterator[int]:
        for _ in range(SIZE):
            yield random.choice([random.randrange(SIZE), int(torch.randint(SIZE, ()))])


class Buckets:
    """A batch sampler of another number of batches in each pass, which has no length."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Cut otherwise."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.permutation(SIZE)
        size = 4 + self.epoch % 3
        for start in range(0, SIZE, size):
            yield order[start : start + size].tolist()


class Halves:
    """A batch sampler with a length."""

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(SIZE).tolist()
        yield order[:7]
        yield order[7:]


class Around:
    """A sampler round a sampler round a sampler, with a generator of its own at the bottom."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        return iter(self.sampler)


class Walking:
    """A sampler with a state, walking on over the ends of passes."""

    def __init__(self) -> None:
        self.position, self.walked = 0, 0

    def __len__(self) -> int:
        return SIZE

    def __iter__(self) -> Iterator[int]:
        while self.position < SIZE:
            self.position += 1
            self.walked += 1
            yield self.walked * 7 % SIZE
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        """How far it has walked."""
        return {"position": self.position, "walked": self.walked}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Walk on from there."""
        self.position, self.walked = state["position"], state["walked"]


class AtItsEnd(Around):
    """A sampler that, loaded at a pass's end, first gives the nothing that was left of it.

    Trap: StatefulDataLoader loses an epoch when saved at its end (meta-pytorch/data#1437).
    """

    def __init__(self, sampler: Any) -> None:
        super().__init__(sampler)
        self.given, self.skip = 0, 0

    def __iter__(self) -> Iterator[int]:
        self.given, self.skip = self.skip, 0
        for index in itertools.islice(self.sampler, self.given, None):
            self.given += 1
            yield index

    def state_dict(self) -> dict[str, int]:
        """How many it gave."""
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Leave them out."""
        self.skip = state["given"]


class OwnWay(DataLoader):
    """A loader with a way of its own to go through itself."""

    def __iter__(self) -> Iterator[Any]:
        for batch in super().__iter__():
            yield batch + random.random()


class OwnStart(DataLoader):
    """A loader with an ``__init__`` of its own."""

    def __init__(self, size: int) -> None:
        super().__init__(Points(), batch_size=size, shuffle=True)


class Remade:
    """No DataLoader at all."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        for number in range(4):
            yield torch.tensor([float(number), *noise()])


class Remembering:
    """An iterable with a state that is no DataLoader."""

    def __init__(self, *, at_end_empty: bool = False) -> None:
        self.position, self.passes, self.at_end_empty = 0, 0, at_end_empty
        self.loaded = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        if self.position == 4 and not (self.at_end_empty and self.loaded):
            self.position = 0
        self.loaded = 0
        while self.position < 4:
            self.position += 1
            self.passes += self.position == 4
            yield torch.tensor([float(self.position), float(self.passes), *noise()])

    def state_dict(self) -> dict[str, int]:
        """Where it is."""
        return {"position": self.position, "passes": self.passes}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there."""
        self.position, self.passes, self.loaded = state["position"], state["passes"], 1


class Shelf(Sequence):
    """A sequence that makes its batches when they are asked for."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: Any) -> Any:
        return torch.tensor([float(number), *noise()])


def collate(samples: list[torch.Tensor]) -> torch.Tensor:
    """A collate function that draws too."""
    return torch.stack(samples) + torch.tensor(noise()).sum()


class Whole(Points):
    """A dataset asked for a batch at a time."""

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        return [self[index] + random.random() for index in indices]


def over(sampler: Any, **how: Any) -> DataLoader:
    """Points in batches of five from ``sampler``."""
    return DataLoader(Points(), **{"batch_size": 5, "sampler": sampler, **how})


def weighted() -> WeightedRandomSampler:
    """With a generator of its own."""
    weights = [1.0 + index for index in range(SIZE)]
    return WeightedRandomSampler(weights, SIZE, generator=torch.Generator().manual_seed(3))


def distributed() -> DistributedSampler:
    """One of two ranks."""
    return DistributedSampler(Points(), num_replicas=2, rank=1)


KINDS: dict[str, Callable[[], Any]] = {
    "shuffled": lambda: DataLoader(Points(), batch_size=5, shuffle=True),
    "sequential": lambda: over(SequentialSampler(Points())),
    "replacement": lambda: over(RandomSampler(Points(), replacement=True)),
    "more samples": lambda: over(RandomSampler(Points(), num_samples=27)),
    "weighted": lambda: over(weighted()),
    "subset": lambda: over(SubsetRandomSampler(range(0, SIZE, 2))),
    "distributed": lambda: over(distributed(), batch_size=3),
    "list as sampler": lambda: over([3, 1, 4, 1, 5, 9, 2, 6]),
    "lazy": lambda: over(Lazy()),
    "nested": lambda: over(Around(Around(weighted()))),
    "walking": lambda: over(Walking()),
    "at its end": lambda: over(AtItsEnd(range(SIZE))),
    "batch sampler": lambda: DataLoader(Points(), batch_sampler=Halves()),
    "batch sampler without length": lambda: DataLoader(Points(), batch_sampler=Buckets()),
    "torch's batch sampler": lambda: DataLoader(
        Points(), batch_sampler=BatchSampler(Lazy(), 4, drop_last=True)
    ),
    "no batching": lambda: DataLoader(Points(), batch_size=None, shuffle=True),
    "no batching, drawn": lambda: over(Lazy(), batch_size=None),
    "drop_last": lambda: DataLoader(Points(), batch_size=5, shuffle=True, drop_last=True),
    "generator": lambda: DataLoader(
        Points(), batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(9)
    ),
    "collate": lambda: DataLoader(Points(), batch_size=5, shuffle=True, collate_fn=collate),
    "getitems": lambda: DataLoader(Whole(), batch_size=5, shuffle=True),
    "pin_memory": lambda: DataLoader(Points(), batch_size=5, shuffle=True, pin_memory=True),
    "own __init__": lambda: OwnStart(6),
    "own __iter__": lambda: OwnWay(Points(), batch_size=5, sampler=weighted()),
    "stream": lambda: DataLoader(Stream(), batch_size=5),
    "stream, drop_last": lambda: DataLoader(Stream(), batch_size=5, drop_last=True),
    "stream, no batching": lambda: DataLoader(Stream(), batch_size=None),
    "stream, collate": lambda: DataLoader(Stream(), batch_size=5, collate_fn=collate),
    "stream, pin_memory": lambda: DataLoader(Stream(), batch_size=5, pin_memory=True),
    "state in the dataset": lambda: DataLoader(DatasetState(), batch_size=5),
    "state in the dataset, whole batches": lambda: DataLoader(DatasetState(20), batch_size=5),
    "state in the iterator": lambda: DataLoader(IteratorState(), batch_size=5),
    "state in the iterator, drop_last": lambda: DataLoader(
        IteratorState(), batch_size=5, drop_last=True
    ),
    "state, no batching": lambda: DataLoader(IteratorState(), batch_size=None),
    "list": lambda: [torch.tensor([float(number)]) for number in range(4)],
    "sequence": Shelf,
    "any iterable": Remade,
    "any iterable with a state": Remembering,
    "any iterable that ends at its end": lambda: Remembering(at_end_empty=True),
}

few = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
    print_blob=True,
)


@pytest.mark.parametrize("kind", KINDS)
@few
@given(stops=st.lists(st.integers(0, 24), max_size=4).map(sorted))
def test_stops_anywhere(kind: str, stops: list[int]) -> None:
    """Stopped after any batches, also twice at one, the loader gives what it gives without.

    Traps: out of phase after a resume (IG), drift after a second and third stop in one epoch
    (KempnerForge#57), the epoch lost when saved at its end (meta-pytorch/data#1437).
    """
    make = KINDS[kind]
    assert with_stops([make], stops, 25) == straight(make, 25)


@pytest.mark.parametrize("kind", KINDS)
def test_every_stop_at_the_end_of_a_pass(kind: str) -> None:
    """A stop after each batch in turn, so that none at the end of a pass is left out."""
    make = KINDS[kind]
    assert with_stops([make], range(1, 12), 12) == straight(make, 12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_position_is_noticed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the comparison fails for every kind where the position is left out."""
    monkeypatch.setattr(Batches, "load_state_dict", lambda self, state: None)
    make = KINDS[kind]
    assert with_stops([make], [3], 9) != straight(make, 9)


@pytest.mark.parametrize(
    "kind", ["walking", "at its end", "any iterable with a state", "state in the iterator"]
)
def test_a_lost_state_is_noticed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: a loader's own state is what brings it back, where it has one."""
    entered = Batches.load_state_dict
    monkeypatch.setattr(
        Batches,
        "load_state_dict",
        lambda self, state: entered(self, {**state, "own": None, "pass": 1, "number": 0}),
    )
    make = KINDS[kind]
    assert with_stops([make], [6], 9) != straight(make, 9)


@pytest.mark.parametrize("kind", ["state in the dataset", "state in the iterator"])
def test_a_state_is_used(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream with a state of its own is not read again from the start."""
    source = opened(KINDS[kind]())
    taken(source, 6)
    state = source.state_dict()
    assert state["own"]["entries"] is not None
    said = io.StringIO()
    again = opened(KINDS[kind](), display=Display("plain", stdout=said))
    again.load_state_dict(state)
    assert taken(again, 4) == taken(source, 4)
    assert said.getvalue() == ""


@pytest.mark.parametrize("kind", ["walking", "state in the dataset"])
def test_left_as_it_was_found(kind: str) -> None:
    """A sampler or dataset with a state is at its start again after training, for another one."""
    loader = KINDS[kind]()
    assert with_stops([lambda: loader], [2, 6, 7], 9) == straight(KINDS[kind], 9)
    assert straight(lambda: loader, 9) == straight(KINDS[kind], 9)


def test_list_is_entered_by_index() -> None:
    """Of a list nothing before the position is looked at."""
    asked: list[int] = []

    class Watched(Shelf):
        def __getitem__(self, number: Any) -> Any:
            asked.append(number)
            return super().__getitem__(number)

    source = opened(Watched())
    source.seek(2, 3)
    next(source)
    assert asked == [3]


def test_sequence_with_an_iterator_of_its_own() -> None:
    """A sequence that is more than its indices in order is iterated, as it asks to be."""

    class Backwards(Shelf):
        def __iter__(self) -> Iterator[Any]:
            return iter([self[number] for number in reversed(range(4))])

    found = [int(next(source)[0]) for source in [opened(Backwards())] for _ in range(4)]
    assert found == [3, 2, 1, 0]


def test_torchdata_nodes() -> None:
    """torchdata's loader of nodes, which keeps its own state, goes on from it."""
    nodes = pytest.importorskip("torchdata.nodes")

    def make() -> Any:
        node = nodes.IterableWrapper([torch.full((2,), float(number)) for number in range(5)])
        return nodes.Loader(nodes.Mapper(node, lambda row: row + random.random()))

    # Not at the end of a pass: torchdata 0.11 gives a stale state after a restore there.
    assert with_stops([make], [1, 3, 8], 12) == straight(make, 12)


def numbers(count: int = 6) -> Iterator[torch.Tensor]:
    """A generator of batches."""
    for number in range(count):
        yield torch.tensor([float(number), *noise()])


def test_generator() -> None:
    """A generator is run again up to the position, and it is said what that asks for."""
    expected = straight(numbers, 6)
    said = io.StringIO()
    assert with_stops([numbers], [2, 5], 6, display=Display("plain", stdout=said)) == expected
    assert said.getvalue().count("which can be run through once") == 3
    assert said.getvalue().count("loading 2 batches again") == 1
    assert said.getvalue().count("loading 5 batches again") == 1


def test_generator_used_up() -> None:
    """A generator that has no more to give says so, and what to do.

    Trap: 0 steps for ever (HE).
    """
    source = opened(numbers(2))
    taken(source, 2)
    with pytest.raises(UsageError, match=r"begun before: hand in one that can be iterated again"):
        next(source)


def test_generator_begun_before() -> None:
    """A generator that the script took batches from is refused: a resume would not find them."""
    begun = numbers()
    next(begun)
    with pytest.raises(UsageError, match="begun before"):
        next(opened(begun))


def test_endless_generator(tmp_path: Path) -> None:
    """A stream without end is trained on with --epoch-length, and exact under stops."""

    def endless() -> Iterator[Any]:
        while True:
            yield [torch.rand(3, 2)]

    class Fresh:
        def __iter__(self) -> Iterator[Any]:
            return endless()

    assert_exact(tmp_path, [2, 5, 9], loader=Fresh(), settings={"epoch_length": 4})


def test_training_of_unknown_length(tmp_path: Path) -> None:
    """Training asks for --epoch-length where the loader cannot tell its length."""
    with pytest.raises(UsageError, match="--epoch-length"):
        Small(tmp_path, loader=Remade()).train()


@pytest.mark.parametrize("epoch_length", [3, 7])
@pytest.mark.parametrize("make", [points_loader, lambda: DataLoader(Pairs(), batch_size=3)])
def test_epochs_that_are_not_passes(tmp_path: Path, epoch_length: int, make: Any) -> None:
    """With epochs shorter or longer than a pass, stops at the ends of either change nothing."""
    folder = tmp_path / str(epoch_length)
    stops = [3, 4, 6, 7]
    assert_exact(folder, stops, loader=make(), settings={"epoch_length": epoch_length})


class Pairs(DatasetState):
    """A stream in the form that the small run takes."""

    def __init__(self) -> None:
        super().__init__(10)

    def __iter__(self) -> Iterator[Any]:
        for row in super().__iter__():
            yield [row[-2:]]


def test_in_order_is_kept() -> None:
    """in_order=False, which cannot be exact, is set aside, and said to be."""
    said = io.StringIO()
    loader = DataLoader(Points(), batch_size=5, shuffle=True, num_workers=2, in_order=False)
    source = opened(loader, display=Display("plain", stdout=said))
    found = taken(source, 8)
    source.close()
    assert found == straight(lambda: DataLoader(Points(), batch_size=5, shuffle=True), 8)
    assert "in_order=False is set aside" in said.getvalue()


def test_data_that_shrank() -> None:
    """A pass that ends before the position is told of, and the next one begun."""
    warned = io.StringIO()
    source = opened(Remade(), display=Display("none", stderr=warned))
    source.load_state_dict({"pass": 0, "number": 9})
    next(source)
    assert (source.pass_, source.number) == (1, 1)
    assert "the pass has 4 batches, and 9" in warned.getvalue()


def test_another_kind_of_loader() -> None:
    """The state of a loader that is another now is left aside with a warning."""
    source = opened(over(Walking()))
    taken(source, 2)
    warned = io.StringIO()
    other = opened(KINDS["shuffled"](), display=Display("none", stderr=warned))
    other.load_state_dict(source.state_dict())
    assert taken(other, 1) == straight(KINDS["shuffled"], 3)[2:]
    plain = opened(KINDS["list"](), display=Display("none", stderr=warned))
    plain.load_state_dict(source.state_dict())
    assert "the state of a sampler" in warned.getvalue()


class Counted:
    """An evaluation's loader that cannot tell its length."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        for number in range(self.count):
            yield [torch.full((2, 2), float(number))]


def evaluated(loader: Any, events: list[Any], times: int = 1) -> list[dict[str, float]]:
    """The values of evaluations on ``loader``."""
    from igniter.engine import Events

    def follow(engine: Any, trainer: Any) -> None:
        for event in (Events.EPOCH_COMPLETED, Events.COMPLETED):
            engine.add_event_handler(
                event,
                lambda e, name=event.name: events.append(
                    (name, e.state.iteration, dict(e.state.metrics))
                ),
            )

    spec = RunSpec(
        step=lambda engine, batch: {"loss": batch[0].mean()},
        loader=loader,
        metrics={"loss": "loss"},
        callback=follow,
    )
    return [
        evaluate(to_save={"model": torch.nn.Linear(1, 1)}, eval_spec=spec, device="cpu")
        for _ in range(times)
    ]


@pytest.mark.parametrize(
    "loader",
    [Counted(5), DataLoader(Stream(), batch_size=4, collate_fn=lambda rows: [torch.ones(4, 2)])],
)
def test_evaluation_of_unknown_length(loader: Any) -> None:
    """An evaluation whose loader cannot tell its length ends with the pass, each time alike."""
    events: list[Any] = []
    values = evaluated(loader, events, times=2)
    mean = 2.0 if isinstance(loader, Counted) else 1.0
    assert values == [{"eval/loss": mean}] * 2
    expected = [(name, 5, {"loss": mean}) for name in ("EPOCH_COMPLETED", "COMPLETED")]
    assert events == expected * 2


def test_evaluations_of_unknown_length_in_training(tmp_path: Path) -> None:
    """They are run at each epoch, again after a stop, and change no bit of training."""
    from unittest import mock

    import support

    with mock.patch.object(support, "points_loader", return_value=Counted(3)):
        assert_exact(tmp_path, [4, 6], loader=points_loader(), eval_step=plain_eval_step)


def test_evaluation_without_a_batch() -> None:
    """An evaluation of unknown length that gives nothing is refused."""
    with pytest.raises(UsageError, match="the evaluation 'eval' gave no batch"):
        evaluated(Counted(0), [])


def test_evaluation_on_a_generator() -> None:
    """A generator, used up after one evaluation, is refused at the start."""
    with pytest.raises(UsageError, match="used up after one evaluation"):
        evaluated(numbers(), [])


def test_replaying_is_shown() -> None:
    """Batches loaded again are shown: a bar in a terminal, now and then a line elsewhere."""
    ticks = itertools.count(step=20)
    lines, bar = io.StringIO(), io.StringIO()
    for display in (
        Display("plain", stdout=lines, clock=lambda: float(next(ticks))),
        Display("bar", stdout=io.StringIO(), stderr=bar),
    ):
        source = Batches(Remade(), seed=0, purpose="train", display=display)
        source.seek(0, 4)
        next(source)
    assert lines.getvalue().splitlines()[1:] == [
        "loaded 2 of 4 batches again",
        "loaded 4 of 4 batches again",
    ]
    assert "loaded 0/4 batches again" in bar.getvalue()


class EndsInTheMiddle(Dataset[int]):
    """Raises StopIteration for one of its items, as ``next`` of something used up does."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        if index == 5:
            raise StopIteration
        return index


def test_an_item_that_raises_stop_iteration() -> None:
    """It is an error, not the end of the pass: the batches after it would be lost in silence."""
    loader = DataLoader(EndsInTheMiddle(), batch_size=2)
    batches = Batches(loader, seed=0, purpose="train")
    assert [next(batches).tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(RuntimeError, match="StopIteration"):
        next(batches)
