"""The promise, in this process, for cases that hypothesis draws."""

from __future__ import annotations

import itertools
import os
import random
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support import Crash, assert_same_run
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from igniter import RunSpec, train
from igniter.engine import Events
from igniter.result import Result

torch.set_num_threads(1)
SIZE = 19


class Points(Dataset):
    """Indices, each with noise of all three generators."""

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> torch.Tensor:
        noise = [random.random(), float(np.random.rand()), float(torch.rand(()))]
        return torch.tensor([float(index), *noise])


class Lazy:
    """A sampler that draws each index when it is asked for it."""

    def __len__(self) -> int:
        return SIZE

    def __iter__(self) -> Iterator[int]:
        for _ in range(SIZE):
            yield random.choice([random.randrange(SIZE), int(torch.randint(SIZE, ()))])


class Chunks:
    """A batch sampler of batches of several sizes."""

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.permutation(SIZE)
        for start, end in itertools.pairwise([0, 3, 9, 10, SIZE]):
            yield order[start:end].tolist()


class Stateful:
    """A sampler that walks on from where its own state says, over the ends of passes."""

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


SAMPLERS: dict[str, Callable[[], Any]] = {
    "shuffle": lambda: RandomSampler(Points()),
    "sequential": lambda: SequentialSampler(Points()),
    "replacement": lambda: RandomSampler(Points(), replacement=True, num_samples=13),
    "weighted": lambda: WeightedRandomSampler([1.0 + i for i in range(SIZE)], SIZE),
    "own generator": lambda: SubsetRandomSampler(
        range(0, SIZE, 2), generator=torch.Generator().manual_seed(1)
    ),
    "lazy": Lazy,
}


@dataclass(frozen=True)
class Case:
    """A training run."""

    sampler: str = "shuffle"
    batch_size: int = 5
    drop_last: bool = False
    workers: int = 0
    epoch_length: int | None = None
    epochs: int = 3
    save_every: str = "1 epoch"
    eval_every: str = "1 epoch"
    accumulate: int = 1

    def loader(self) -> DataLoader[Any]:
        """Its loader, built anew."""
        data = Points()
        if self.sampler == "chunks":
            return DataLoader(data, batch_sampler=Chunks(), num_workers=self.workers)
        if self.sampler == "batches":
            inner = BatchSampler(Lazy(), self.batch_size, self.drop_last)
            return DataLoader(data, batch_sampler=inner, num_workers=self.workers)
        return DataLoader(
            data,
            batch_size=self.batch_size,
            sampler=Stateful() if self.sampler == "stateful" else SAMPLERS[self.sampler](),
            drop_last=self.drop_last,
            num_workers=self.workers,
        )


@dataclass
class Seen:
    """What the user's code saw, over all attempts."""

    batches: list[tuple[int, bytes]] = field(default_factory=list)
    events: list[tuple[str, int, int]] = field(default_factory=list)


class Stop:
    """Ends an attempt at an iteration: by a signal to this process, or as a kill would."""

    def __init__(self, at: int, rude: bool = False) -> None:
        self.at, self.rude = at, rude

    def __repr__(self) -> str:
        return f"Stop({self.at}, rude={self.rude})"

    def now(self) -> None:
        """Do it."""
        if self.rude:
            raise Crash
        os.kill(os.getpid(), signal.SIGTERM)


def attempt(case: Case, run_dir: Path, seen: Seen, stop: Stop | None = None) -> Result | None:
    """One call of train; None where it ended as if killed."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)

    def step(engine: Any, batch: torch.Tensor) -> dict[str, Any]:
        iteration = engine.state.iteration
        seen.batches.append((iteration, batch.numpy().tobytes()))
        model.train()
        if len(batch) == 1:
            batch = batch.repeat(2, 1)  # batch norm cannot do with one
        loss = model(batch / SIZE).square().mean()
        loss.backward()
        if iteration % case.accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        if stop is not None and iteration == stop.at:
            stop.now()
        return {"loss": loss}

    def eval_step(engine: Any, batch: torch.Tensor) -> dict[str, Any]:
        return {"loss": (model(batch / SIZE) + torch.rand(())).mean()}

    def follow(engine: Any, trainer: Any) -> None:
        for event in (
            Events.EPOCH_STARTED, Events.ITERATION_COMPLETED, Events.EPOCH_COMPLETED,
            Events.COMPLETED,
        ):  # fmt: skip
            engine.add_event_handler(
                event,
                lambda e, name=event.name: seen.events.append(
                    (name, e.state.iteration, e.state.epoch)
                ),
            )

    def follow_evaluation(evaluator: Any, trainer: Any) -> None:
        evaluator.add_event_handler(
            Events.COMPLETED,
            lambda e: seen.events.append(("EVALUATED", trainer.state.iteration, 0)),
        )

    data = Points()
    try:
        return train(
            to_save={"model": model, "optimizer": optimizer, "scheduler": scheduler},
            train_spec=RunSpec(
                step=step, loader=case.loader(), metrics={"loss": "loss"}, callback=follow
            ),
            eval_spec=RunSpec(
                step=eval_step,
                loader=DataLoader(data, batch_size=8, shuffle=True),
                metrics={"loss": "loss"},
                callback=follow_evaluation,
            ),
            output_dir=run_dir,
            max_epochs=case.epochs,
            epoch_length=case.epoch_length,
            save_every=case.save_every,
            eval_every=case.eval_every,
            log_every=3,
            mlflow=False,
            progress="none",
        )
    except Crash:
        return None


def check(case: Case, stops: list[Stop]) -> None:
    """A straight run and one with ``stops`` see the same, and end the same."""
    with tempfile.TemporaryDirectory() as folder:
        straight, whole = Path(folder, "straight"), Seen()
        result = attempt(case, straight, whole)
        assert result is not None
        stopped, seen = Path(folder, "stopped"), Seen()
        for stop in stops:
            outcome = attempt(case, stopped, seen, stop)
            if outcome is not None and outcome.status == "completed":
                break
        final = attempt(case, stopped, seen)
        assert final is not None
        assert final.status == "completed"
        content = dict(whole.batches)
        assert len(content) == result.iteration
        for iteration, batch in seen.batches:
            assert batch == content[iteration], f"iteration {iteration} saw another batch"
        assert (final.iteration, final.epoch) == (result.iteration, result.epoch)
        assert dict(final.metrics) == dict(result.metrics)
        if not any(stop.rude for stop in stops):
            assert seen.batches == whole.batches
            assert Counter(seen.events) == Counter(whole.events)
        assert set(seen.events) == set(whole.events)
        assert_same_run(straight, stopped)


def cases(samplers: list[str], workers: int = 0) -> st.SearchStrategy[Case]:
    """Runs of up to 30 iterations."""
    interval = st.sampled_from(["1 epoch", "1 iterations", "4 iterations", "2 epochs", "never"])
    return st.builds(
        Case,
        sampler=st.sampled_from(samplers),
        batch_size=st.integers(2, 9),
        drop_last=st.booleans(),
        workers=st.just(workers),
        epoch_length=st.one_of(st.none(), st.integers(1, 9)),
        epochs=st.integers(1, 3),
        save_every=interval,
        eval_every=interval,
        accumulate=st.integers(1, 3),
    )


def stops() -> st.SearchStrategy[list[Stop]]:
    """Up to four stops, in order, also on one iteration after the other."""
    iterations = st.lists(st.integers(1, 22), min_size=1, max_size=4, unique=True).map(sorted)
    return st.tuples(iterations, st.integers(0, 15)).map(
        lambda drawn: [Stop(at, bool(drawn[1] >> n & 1)) for n, at in enumerate(drawn[0])]
    )


def graceful(found: list[Stop]) -> list[Stop]:
    """The same, by signal alone."""
    return [Stop(stop.at) for stop in found]


EASY = [*SAMPLERS, "chunks", "batches"]
few = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
    print_blob=True,
)


@few
@given(case=cases(EASY), found=stops())
def test_stops_anywhere(case: Case, found: list[Stop]) -> None:
    """Whatever the sampler, lengths and intervals, any stops change no bit and no batch."""
    check(case, found)


@few
@given(case=cases(EASY), found=stops())
def test_handlers_run_once(case: Case, found: list[Stop]) -> None:
    """Stopped by signals, each handler runs exactly once for each of its positions.

    Traps: EPOCH_STARTED that fires again in mid-epoch, EPOCH_COMPLETED that never does (ignite).
    """
    check(case, graceful(found))


@settings(few, max_examples=5)
@given(case=cases(EASY, workers=2), found=stops())
def test_stops_anywhere_with_workers(case: Case, found: list[Stop]) -> None:
    """The same with two workers, whose prefetching runs ahead of the position."""
    check(case, found)


@settings(few, max_examples=20)
@given(case=cases(["stateful"]), found=stops())
def test_stops_anywhere_with_a_stateful_sampler(case: Case, found: list[Stop]) -> None:
    """A sampler that keeps its own state is taken up where it was, in mid-pass or at its end."""
    check(case, found)


@pytest.mark.parametrize("sampler", ["shuffle", "weighted"])
def test_reordered_batches_are_noticed(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the same check fails where the position is not restored."""
    from igniter.loader import Batches

    monkeypatch.setattr(Batches, "load_state_dict", lambda self, state: None)
    with pytest.raises(AssertionError, match="another batch"):
        check(Case(sampler=sampler), [Stop(6)])
