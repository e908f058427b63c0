"""Randomness by address: the same draw at a position, however the run came there."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import Small, assert_exact, checkpoint, differing, plain_eval_step

from igniter import rng
from igniter.engine import Events
from igniter.rng import Address, mix, set_generators


def draws() -> list[float]:
    """One number of each generator."""
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def test_addresses_differ() -> None:
    """Seed, purpose, rank, pass and number each make another seed."""
    seeds = [
        Address(seed, purpose, rank)(pass_, number)
        for seed in (0, 1)
        for purpose in ("train/load", "train/order")
        for rank in (0, 1)
        for pass_ in range(10)
        for number in range(10)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert Address(0, "x")(1, 2) == Address(0, "x")(1, 2)


def test_addresses_that_runs_were_begun_with() -> None:
    """A seed never changes from one igniter to the next: runs are resumed with it."""
    assert mix(0) == 0xE220A8397B1DCDAF  # the first output of SplitMix64 with state 0
    assert Address(0, "train/step")(0, 1) == STEP


def test_all_three_generators_are_set() -> None:
    """python, numpy and torch; near seeds draw unrelated numbers.

    Trap: numpy's legacy generator is never seeded (HE).
    """
    set_generators(5)
    first = draws()
    draws()
    set_generators(5)
    assert draws() == first
    found = []
    for seed in range(0, 3 << 32, 1 << 32):
        set_generators(seed)
        found.append(draws())
    assert len({a for a, _, _ in found}) == len({b for _, b, _ in found}) == 3


def test_importing_and_training_leave_no_fixed_seed(tmp_path: Path) -> None:
    """Another --seed trains on other noise; the same one on the same.

    Trap: seed 42 is hard-coded and an import reseeds (PA).
    """
    states = []
    for number, seed in enumerate((0, 0, 1)):
        run = Small(tmp_path / str(number))
        run.train(seed=seed)
        states.append(checkpoint(run.run_dir)[1]["state"]["model"])
    assert differing(states[0], states[1]) == []
    assert differing(states[0], states[2]) != []


def test_fresh_processes_build_equal_models() -> None:
    """seed_everything makes whatever is built next the same, on every start."""
    rng.seed_everything(3)
    first = torch.nn.Linear(5, 5).weight.detach().clone()
    draws()
    rng.seed_everything(3)
    assert torch.equal(first, torch.nn.Linear(5, 5).weight)


def noise_at(event: Events) -> Any:
    """A handler of the trainer's ``event`` that moves the weights at random."""

    def attach(trainer: Any, evaluator: Any, model: Any) -> None:
        def move(engine: Any) -> None:
            with torch.no_grad():
                model.weight.add_(torch.rand(1, 2) + random.random() + float(np.random.rand()))

        trainer.add_event_handler(event, move)

    return attach


@pytest.mark.parametrize("stop", [4, 6])
@pytest.mark.parametrize("evaluated", [True, False])
@pytest.mark.parametrize(
    "event",
    [
        Events.EPOCH_STARTED,
        Events.ITERATION_COMPLETED,
        Events.EPOCH_COMPLETED,
        Events.COMPLETED,
    ],
    ids=lambda event: event.name,
)
def test_handlers_that_draw(tmp_path: Path, event: Events, evaluated: bool, stop: int) -> None:
    """What a handler of the user's draws is the same after a stop, in mid-epoch or at its end."""
    eval_step = plain_eval_step if evaluated else None
    assert_exact(tmp_path, [stop], attach=noise_at(event), eval_step=eval_step)


def test_handlers_that_draw_before_the_step(tmp_path: Path) -> None:
    """What a handler of ITERATION_STARTED draws is the same after a stop."""
    assert_exact(tmp_path, [6], attach=noise_at(Events.ITERATION_STARTED))


def test_generators_in_to_save(tmp_path: Path) -> None:
    """A torch.Generator of the script's own is saved and put back."""
    generators: list[torch.Generator] = []

    def step(engine: Any, batch: Any, model: Any, optimizer: Any) -> Any:
        noise = torch.rand((), generator=generators[-1])
        with torch.no_grad():
            model.weight.add_(noise)
        return {"loss": noise}

    straight, stopped = (
        Small(tmp_path / name, step=step) for name in ("straight", "stopped")
    )  # fmt: skip
    for run, stop in ((straight, None), (stopped, 6), (stopped, None)):
        generators.append(torch.Generator().manual_seed(1))
        run.more_to_save = {"generator": generators[-1]}
        run.train(stop_at=stop)
    state, other = (checkpoint(run.run_dir)[1] for run in (straight, stopped))
    assert differing(state, other) == []


STEP = 0x53EE1EF7A447A1E0
