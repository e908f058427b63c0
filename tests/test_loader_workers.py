"""Map-style loaders with workers: the same for any number of them, however they are started."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loading import SIZE, IteratorState, Points, Stream, opened, straight, taken, with_stops
from support import Zygote, assert_same_run, checkpoint, differing
from test_loader_kinds import Halves, Lazy, Walking, collate, weighted
from torch.utils.data import DataLoader, get_worker_info

from igniter.signals import end_with_parent_alone
from igniter.workers import Seeded

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

MAPS: dict[str, Callable[..., Any]] = {
    "shuffled": lambda **how: DataLoader(
        Points(), batch_size=5, shuffle=True, collate_fn=collate, **how
    ),
    "lazy": lambda **how: DataLoader(Points(), batch_size=5, sampler=Lazy(), **how),
    "weighted": lambda **how: DataLoader(Points(), batch_size=5, sampler=weighted(), **how),
    "walking": lambda **how: DataLoader(Points(), batch_size=5, sampler=Walking(), **how),
    "batch sampler": lambda **how: DataLoader(Points(), batch_sampler=Halves(), **how),
    "no batching": lambda **how: DataLoader(Points(), batch_size=None, shuffle=True, **how),
}


@pytest.mark.parametrize("kind", MAPS)
def test_any_number_of_workers(kind: str) -> None:
    """0, 1 and 4 workers give the same, and may be changed for one another at every resume.

    Trap: no PyTorch peer restores the workers' randomness.
    """
    make = MAPS[kind]
    makes = [
        lambda: make(num_workers=4, prefetch_factor=3),
        lambda: make(),
        lambda: make(num_workers=1, persistent_workers=True),
    ]
    expected = straight(makes[1], 12)
    assert straight(makes[0], 12) == expected
    assert with_stops(makes, [2, 4, 9], 12) == expected


def test_unseeded_workers_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: without the seed in each key the numbers of workers differ."""

    def unseeded(self: Seeded, key: Any) -> Any:
        return [self.dataset[index] for index in key[1]]

    monkeypatch.setattr(Seeded, "__getitems__", unseeded)
    make = MAPS["shuffled"]
    assert straight(lambda: make(num_workers=1), 3) != straight(make, 3)


def test_sampler_with_a_state_drawn_to_its_end_at_once() -> None:
    """A pass that prefetching draws whole before its first batch is used ends in the right state.

    The state after the pass was let go of with that before its first batch.
    """

    def make() -> Any:
        return DataLoader(
            Points(), batch_size=10, sampler=Walking(), num_workers=2, prefetch_factor=4
        )

    assert with_stops([make], [2, 4, 5], 7) == straight(make, 7)


class FromInfo(Points):
    """Draws from a generator that each worker seeds for itself, by torch's advice."""

    own: Any = None

    def __getitem__(self, index: int) -> torch.Tensor:
        return super().__getitem__(index) + float(self.own)


def start(worker: int) -> None:
    """A worker_init_fn that takes its seed from torch's."""
    info = get_worker_info()
    assert info is not None
    assert type(info.dataset) is FromInfo
    info.dataset.own = np.random.default_rng(info.seed - worker).random()
    random.seed(os.urandom(8))
    torch.seed()


def test_worker_init_fn() -> None:
    """What a worker_init_fn makes of the worker's seed is the same in each pass after a stop.

    Trap: worker_init_fn reseeds from entropy (PA).
    """

    def make() -> Any:
        return DataLoader(FromInfo(), batch_size=5, num_workers=2, worker_init_fn=start)

    assert with_stops([make], [6], 10) == straight(make, 10)


@pytest.mark.parametrize("context", ["spawn", "forkserver"])
@pytest.mark.parametrize("data", [Points, IteratorState])
def test_started_otherwise(context: str, data: Any) -> None:
    """Workers that are spawned get all they need, and give the same."""

    def make(**how: Any) -> Any:
        return DataLoader(data(), batch_size=5, **how)

    source = opened(
        make(num_workers=1, persistent_workers=True, timeout=60, multiprocessing_context=context)
    )
    expected = straight(make, 6)
    source.seek(0, 1)
    assert taken(source, 5) == expected[1:]
    source.close()


class Nine(Points):
    """Nine points: three batches of three, so that a pass ends with a whole batch."""

    def __len__(self) -> int:
        return 9


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11, torch 2.13
@pytest.mark.parametrize("kind", ["shuffled", "sampler", "stream", "stateful stream"])
def test_stateful_dataloader(kind: str) -> None:
    """torchdata's StatefulDataLoader is taken apart as torch's is, for any number of workers.

    Trap: it loses an epoch when saved at its end (meta-pytorch/data#1437).
    """
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")
    if kind == "shuffled":
        arguments: dict[str, Any] = {"dataset": Nine(), "batch_size": 3, "shuffle": True}
    elif kind == "sampler":
        arguments = {"dataset": Points(), "batch_size": 5, "sampler": Lazy()}
    else:
        arguments = {"dataset": Stream() if kind == "stream" else IteratorState(), "batch_size": 5}
    expected = straight(lambda: DataLoader(**arguments), 9)
    makes = [
        lambda n=n: torchdata.StatefulDataLoader(**arguments, num_workers=n) for n in (0, 1, 0)
    ]
    assert with_stops(makes, [3, 4, 6], 9) == expected


def test_stateful_distributed_sampler() -> None:
    """torchdata's sampler for ranks, saved at a pass's end, goes on with the next pass."""
    sampler = pytest.importorskip("torchdata.stateful_dataloader.sampler")

    def make() -> Any:
        chosen = sampler.StatefulDistributedSampler(Points(), num_replicas=2, rank=0)
        return DataLoader(Points(), batch_size=3, sampler=chosen)

    assert with_stops([make], [2, 4, 5, 8], 13) == straight(make, 13)


def test_the_private_names_of_torch() -> None:
    """Ending workers needs these; should torch rename one, this says which, not a hang at exit."""
    loader = DataLoader(Points(), num_workers=1, persistent_workers=True)
    iterator = iter(loader)
    assert loader._iterator is iterator
    assert callable(iterator._shutdown_workers)
    assert [worker.is_alive() for worker in iterator._workers] == [True]
    iterator._shutdown_workers()
    info = torch.utils.data._utils.worker.WorkerInfo(0, 1, 5, None)
    for name in ("dataset", "seed"):
        object.__setattr__(info, name, 7)
    assert (info.dataset, info.seed) == (7, 7)


FLAGS = ("--max-epochs", "3", "--epoch-length", "7", "--output-dir", "run", "--log-every", "2")
QUIET = ("--no-mlflow", "--progress", "none", "--save-every", "3 iterations")
CODES = {"SIGKILL": -signal.SIGKILL, "SIGTERM": 128 + signal.SIGTERM}


def attempt(zygote: Zygote, cwd: Path, kind: str, stop: str = "", broken: str = "") -> None:
    """One start of the script."""
    cwd.mkdir(exist_ok=True)
    env = {"TEST_KIND": kind, "TEST_STOP": stop, "TEST_BROKEN": broken}
    done = zygote.run("loaders.py", *FLAGS, *QUIET, cwd=cwd, env=env)
    assert done.code == (CODES[stop.partition(":")[2]] if stop else 0), done


@pytest.mark.parametrize(
    ("kind", "stops"),
    [
        ("stateful stream", ["4:SIGTERM", "8:SIGKILL", "13:SIGTERM"]),
        ("stream", ["5:SIGKILL", "9:SIGTERM", "12:SIGKILL"]),
        ("no batching", ["6:SIGTERM", "14:SIGKILL", "17:SIGTERM"]),
        pytest.param("spawn", ["8:SIGKILL"], marks=pytest.mark.slow),
    ],
)
def test_real_processes(zygote: Zygote, tmp_path: Path, kind: str, stops: list[str]) -> None:
    """Real processes, stopped and killed with their workers at work, end as one straight run."""
    attempt(zygote, tmp_path / "straight", kind)
    for stop in [*stops, ""]:
        attempt(zygote, tmp_path / "stopped", kind, stop)
    assert_same_run(tmp_path / "straight/run", tmp_path / "stopped/run")


def test_a_lost_position_is_noticed(zygote: Zygote, tmp_path: Path) -> None:
    """Negative control: the same comparison fails where the position is not restored."""
    kind = "stateful stream"
    attempt(zygote, tmp_path / "straight", kind)
    for stop in ("4:SIGTERM", ""):
        attempt(zygote, tmp_path / "stopped", kind, stop, broken="yes")
    states = [checkpoint(tmp_path / name / "run")[1] for name in ("straight", "stopped")]
    assert any(path.startswith(".state.model") for path in differing(*states))


def test_noise_is_noise() -> None:
    """The batches that are compared differ from each other, so equal ones mean something."""
    assert len(set(straight(MAPS["no batching"], 2 * SIZE))) == 2 * SIZE


def orphaned(parent: int, where: Path, end_alone: bool) -> None:
    """A worker whose parent was killed before it could ask to be ended with it."""
    while os.getppid() == parent:
        time.sleep(0.001)
    if not end_alone:
        end_with_parent_alone()
    where.touch()


@pytest.mark.parametrize("end_alone", [False, True])
def test_a_worker_whose_parent_died_too_early_ends(tmp_path: Path, end_alone: bool) -> None:
    """Killed between the fork and the worker's first word: no news of that comes later.

    Found by the chaos run: such a worker waited for its next batch for ever. The control goes on.
    """
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        where = tmp_path / "went on"
        multiprocessing.get_context("fork").Process(
            target=orphaned, args=(os.getpid(), where, end_alone)
        ).start()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as ended:
        assert ended.read() == ""  # its end of the pipe is closed
    assert (tmp_path / "went on").exists() == end_alone
