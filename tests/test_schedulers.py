"""Schedules by update, sizes known only at the start, warm-ups, and when a scheduler steps."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from support import assert_same_run, checkpoint, differing, points_loader
from techniques import SCHEDULERS, Technique, attempt, network, scheduled, sgd, update
from torch import nn
from torch.optim import lr_scheduler as torch_schedulers

from igniter import Model
from igniter.engine import Events
from igniter.errors import UsageError
from igniter.handlers import SideCheckpoints
from igniter.models.stepping import Stepping
from igniter.schedulers import (
    NUM_EPOCHS,
    TOTAL_UPDATES,
    UPDATES_PER_EPOCH,
    Sizes,
    decays_of,
    total_updates_of,
    warmup_cosine,
    warmup_linear,
    wsd,
)
from igniter.warmup import UPDATES_AFTER_WARMUP, WarmedPlateau, with_warmup

Make = Callable[[torch.optim.Optimizer], Any]
RATE = 0.3


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here depends on a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def optimizer_at(rate: float = RATE) -> torch.optim.Optimizer:
    """An optimizer of one parameter."""
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate, momentum=0.9)


def rates(make: Make, updates: int, rate: float = RATE) -> list[float]:
    """The learning rate of each of so many updates."""
    optimizer = optimizer_at(rate)
    scheduler = make(optimizer)
    found = []
    for _ in range(updates):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if isinstance(scheduler, WarmedPlateau):
            scheduler.step_warmup()
        else:
            scheduler.step()
    return found


# -- sizes -------------------------------------------------------------------------------------


def test_sizes_are_filled_in() -> None:
    """The three names stand for their numbers in arguments however deep; nothing else changes."""
    sizes = Sizes(num_epochs=3, updates_per_epoch=4, total_updates=12)
    given = {
        "T_max": TOTAL_UPDATES,
        "a": [NUM_EPOCHS, {"b": (UPDATES_PER_EPOCH, "epochs")}],
        "total_updates": None,
        "rate": 0.5,
    }
    assert sizes.fill(given) == {
        "T_max": 12,
        "a": [3, {"b": (4, "epochs")}],
        "total_updates": None,
        "rate": 0.5,
    }
    assert given["T_max"] == "total_updates"


# -- rates -------------------------------------------------------------------------------------


def test_cosine() -> None:
    """Exact at the first update, the warm-up's end, the middle, the cooldown's start, the last."""
    made = rates(lambda o: warmup_cosine(o, 26, warmup=4, cooldown=2, floor=0.1), 28)
    assert made[:4] == [RATE / 4, RATE / 2, RATE * 0.75, RATE]
    assert made[13] == RATE * (0.5 + 0.5 * 0.1)
    assert made[23:] == [RATE * 0.1] * 5
    assert all(before > after for before, after in pairwise(made[3:24]))
    assert made[8] == RATE * (0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)


def test_linear() -> None:
    """Down in a straight line, from the warm-up's end to the last update."""
    made = rates(lambda o: warmup_linear(o, 12, warmup=2, floor=0.5), 12)
    assert made[:2] == [RATE / 2, RATE]
    assert made[6] == RATE * 0.75
    assert made[11] == RATE * 0.5
    assert made[2:] == pytest.approx([RATE * (1 - 0.05 * k) for k in range(1, 11)])


def test_wsd() -> None:
    """Warm-up, the full rate, and the decay whose last update has the floor."""
    made = rates(lambda o: wsd(o, 20, warmup=4, decay=4, floor=0.25), 21)
    assert made[:4] == [RATE / 4, RATE / 2, RATE * 0.75, RATE]
    assert made[3:16] == [RATE] * 13
    assert made[16:] == pytest.approx([RATE * s for s in (0.8125, 0.625, 0.4375, 0.25, 0.25)])
    assert made[19] == RATE * 0.25


def test_wsd_in_cycles() -> None:
    """Each cycle ends in a decay, and the next begins at the full rate again."""
    schedule = partial(wsd, total_updates=21, warmup=2, decay=2, cycles=3)
    made = rates(lambda o: schedule(o), 21)
    cycle = [RATE] * 5 + [RATE / 2, 0.0]
    assert made == [RATE / 2, *cycle[1:], *cycle, *cycle]
    assert decays_of(schedule(optimizer_at())) == ((5, 7), (12, 14), (19, 21))


def test_cycles_that_do_not_divide_the_total() -> None:
    """The cycles differ by an update at most, and the last ends where the run does."""
    decays = decays_of(wsd(optimizer_at(), 20, decay=2, cycles=3))
    assert decays == ((4, 6), (11, 13), (18, 20))


@given(
    total=st.integers(1, 60),
    warmup=st.integers(0, 20),
    decay=st.integers(1, 20),
    cycles=st.integers(1, 5),
    floor=st.floats(0, 1),
)
@example(total=25, warmup=0, decay=5, cycles=5, floor=0.0)
def test_any_wsd(total: int, warmup: int, decay: int, cycles: int, floor: float) -> None:
    """Whatever its numbers, it is refused, or full before a decay and at the floor at its end."""
    schedule = partial(wsd, total_updates=total, warmup=warmup, decay=decay, cycles=cycles)
    try:
        made = rates(lambda o: schedule(o, floor=floor), total, rate=1.0)
    except UsageError:
        assert warmup + decay > total // cycles
        return
    decays = decays_of(schedule(optimizer_at()))
    for start, end in decays:
        # A cycle may be all decay.
        assert start in (0, *(other for _, other in decays)) or made[start - 1] == 1
        assert made[end - 1] == floor
    assert made[:warmup] == [update / warmup for update in range(1, warmup + 1)]
    assert max(made) <= 1
    assert min(made) >= min(floor, made[0])


@pytest.mark.parametrize("make", [warmup_cosine, warmup_linear, wsd])
def test_shares(make: Any) -> None:
    """A float below 1 is a share of all updates, an int is a number of them."""
    assert rates(lambda o: make(o, 40, warmup=0.1), 40) == rates(lambda o: make(o, 40, 4), 40)


@pytest.mark.parametrize("total", [2, 3, 100])
@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("make", [warmup_cosine, warmup_linear, partial(wsd, decay=1)])
def test_without_a_warmup(make: Any, total: int, floor: float) -> None:
    """The first update has the full rate and the last has the floor."""
    made = rates(lambda o: make(o, total, floor=floor), total)
    assert (made[0], made[-1]) == (RATE, RATE * floor)


@pytest.mark.parametrize("make", [warmup_cosine, warmup_linear])
def test_a_single_update(make: Any) -> None:
    """Where there is one update only it has the full rate: at a floor of 0 it would do nothing."""
    assert rates(lambda o: make(o, 1), 1) == [RATE]


def test_each_group_has_its_own_rate() -> None:
    """The schedule is a share of each parameter group's rate."""
    optimizer = torch.optim.SGD(
        [
            {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.5},
            {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.25},
        ]
    )
    warmup_cosine(optimizer, 10, warmup=2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.125]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (partial(warmup_cosine, total_updates=TOTAL_UPDATES), "which only igniter.Model puts a"),
        (partial(warmup_cosine, total_updates=0), "total_updates=0 must be at least 1"),
        (partial(warmup_cosine, total_updates=10, floor=1.5), "floor=1.5 between 0 and 1"),
        (partial(warmup_cosine, total_updates=10, warmup=1.0), "warmup=1.0 must be a number of"),
        (partial(warmup_linear, total_updates=10, cooldown=-1), "cooldown=-1 must be a number of"),
        (partial(warmup_cosine, total_updates=10, warmup=6, cooldown=0.5), "are 6 and 5 updates"),
        (partial(wsd, total_updates=10, warmup=8, decay=3), "first of 1 cycles, which has 10"),
        (partial(wsd, total_updates=10, decay=4, cycles=3), "first of 3 cycles, which has 3"),
        (partial(wsd, total_updates=10, decay=0), "warmup=0 and decay=0 are 0 and 0 updates"),
        (partial(wsd, total_updates=10, cycles=0), "cycles=0 must be at least 1"),
    ],
)
def test_numbers_that_do_not_fit(make: Any, said: str) -> None:
    """They are refused with their values and what they come to."""
    with pytest.raises(UsageError) as raised:
        make(optimizer_at())
    assert said in str(raised.value)


# -- in a run ----------------------------------------------------------------------------------

OURS: dict[str, Make] = {
    "cosine": lambda o: warmup_cosine(o, 12, warmup=3, cooldown=2, floor=0.05),
    "linear": lambda o: warmup_linear(o, 12, warmup=0.25),
    "wsd": lambda o: wsd(o, 12, warmup=2, decay=3, floor=0.1),
    "wsd in cycles": lambda o: wsd(o, 12, decay=2, cycles=2),
    "StepLR warmed": lambda o: with_warmup(o, torch_schedulers.StepLR, 3, step_size=2),
    "OneCycleLR": lambda o: torch_schedulers.OneCycleLR(o, 0.1, total_steps=12),
}
STOPS = ("2:SIGTERM", "7:SIGTERM", "11:crash")


def trained(folder: Path, build: Callable[[], Technique], *stops: str, **settings: Any) -> Path:
    """A run stopped at each of ``stops`` and then trained to its end."""
    for stop in (*stops, ""):
        attempt(build, folder, stop, **settings)
    return folder


@pytest.mark.parametrize("name", OURS)
def test_exact(name: str, tmp_path: Path) -> None:
    """Stopped in the warm-up, in mid-way and in the decay, it ends bit for bit the same.

    Traps: PA, the warm-up is subtracted twice, and WSD loses its counter.
    """
    build = partial(scheduled, OURS[name])
    straight = trained(tmp_path / "straight", build)
    assert_same_run(straight, trained(tmp_path / "stopped", build, *STOPS))


@pytest.mark.parametrize("name", OURS)
def test_a_forgotten_counter_is_noticed(name: str, tmp_path: Path) -> None:
    """Without the scheduler in to_save the comparison fails."""

    def build() -> Technique:
        built = scheduled(OURS[name])
        return Technique({k: built.to_save[k] for k in ("model", "optimizer")}, built.step)

    runs = [trained(tmp_path / "a", build), trained(tmp_path / "b", build, *STOPS)]
    assert differing(*(checkpoint(run)[1]["state"]["model"] for run in runs)) != []


def lr_by_iteration(run: Path) -> dict[int, float]:
    """What the journal has of the learning rate: that which the next update will have."""
    lines = (run / "journal.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return {r["iteration"]: r["metrics"]["lr"] for r in records if "lr" in r["metrics"]}


def test_a_run_made_longer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The schedule becomes that of the longer run, from its second update on, to its floor."""

    def cosine(total: int) -> Callable[[], Technique]:
        return lambda: scheduled(partial(warmup_cosine, total_updates=total, warmup=2))

    run = trained(tmp_path, cosine(12), log_every=1)
    assert lr_by_iteration(run)[11] == 0
    trained(run, cosine(24), log_every=1, max_epochs=6)
    straight = rates(lambda o: warmup_cosine(o, 24, warmup=2), 25, rate=0.05)
    found = lr_by_iteration(run)
    assert [found[k] for k in range(13, 25)] == straight[13:]
    assert found[23] == 0
    assert capsys.readouterr().err == ""


def test_one_that_runs_out_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A total written by hand that is too small for the run is said at the start."""
    attempt(partial(scheduled, lambda o: warmup_linear(o, 8)), tmp_path / "short")
    assert (
        "has total_updates=8, and the 12 iterations of this run take 12 steps of it: after step 8 "
        "the learning rate stays at its floor. Build it with total_updates=12"
    ) in capsys.readouterr().err
    attempt(partial(scheduled, lambda o: warmup_linear(o, 12)), tmp_path / "long")
    assert capsys.readouterr().err == ""


# -- warm-ups ----------------------------------------------------------------------------------

NOT_WARMED = {"ReduceLROnPlateau", "MultiplicativeLR", "SequentialLR", "ChainedScheduler"}


@pytest.mark.parametrize("name", sorted(set(SCHEDULERS) - NOT_WARMED))
def test_warmed(name: str) -> None:
    """After the warm-up each of torch's schedulers gives the rates that it gives without one."""
    make = SCHEDULERS[name]
    plain, warmed = rates(make, 12), rates(lambda o: with_warmup(o, make, 4), 16)
    assert warmed[:4] == pytest.approx([warmed[3] * k / 4 for k in (1, 2, 3, 4)])
    assert warmed[4:] == pytest.approx(plain, rel=1e-14)  # torch multiplies step by step


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (SCHEDULERS["MultiplicativeLR"], "MultiplicativeLR cannot follow a warm-up"),
        (SCHEDULERS["SequentialLR"], "SequentialLR cannot follow a warm-up"),
        (SCHEDULERS["ChainedScheduler"], "ChainedScheduler cannot follow a warm-up"),
        (SCHEDULERS["ReduceLROnPlateau"], "ReduceLROnPlateau cannot follow a warm-up"),
        (lambda o: 5, "int cannot follow a warm-up"),
        ("torch.optim.lr_scheduler.StpLR", "the nearest is 'StepLR'"),
    ],
)
def test_not_warmed(factory: Any, said: str) -> None:
    """What would be another scheduler after a warm-up is refused."""
    with pytest.raises(UsageError, match=said):
        with_warmup(optimizer_at(), factory, 3)


def test_no_updates_of_warmup() -> None:
    """A warm-up of nothing is the scheduler alone, and one of a single update has the full rate."""
    found = with_warmup(optimizer_at(), "torch.optim.lr_scheduler.StepLR", 0, step_size=2)
    assert type(found) is torch_schedulers.StepLR
    one = rates(lambda o: with_warmup(o, torch_schedulers.StepLR, 1, step_size=2), 4)
    assert one == [RATE, RATE, RATE, RATE * 0.1]


def test_the_warmup_is_taken_off_once() -> None:
    """A scheduler of the run's length is made for what is left of it, and ends where the run does.

    Traps: PA, the warm-up is subtracted twice, and the cosine ends above its floor.
    """
    made = rates(
        lambda o: with_warmup(
            o, torch_schedulers.PolynomialLR, 4, total_updates=12, total_iters=UPDATES_AFTER_WARMUP
        ),
        13,
    )
    assert made[3:] == pytest.approx([RATE, *(RATE * (1 - k / 8) for k in range(9))])
    assert made[-1] == 0
    with pytest.raises(UsageError) as raised:
        with_warmup(
            optimizer_at(), torch_schedulers.CosineAnnealingLR, 4, total_updates=12, T_max=12
        )
    assert str(raised.value) == (
        "CosineAnnealingLR has T_max=12, and 8 updates are left after the warm-up; give "
        "T_max='updates_after_warmup'"
    )


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"warmup": 0.5}, "warmup=0.5 must be a number of updates"),
        ({"warmup": -1}, "warmup=-1 must be a number of updates"),
        ({"warmup": 5, "total_updates": 5}, "warmup=5 leaves nothing of the run's 5 updates"),
        ({"warmup": 5, "step_size": UPDATES_AFTER_WARMUP}, "needs total_updates=…, to take the"),
    ],
)
def test_warmups_that_do_not_fit(how: Mapping[str, Any], said: str) -> None:
    """A warm-up that is none is refused in words."""
    with pytest.raises(UsageError, match=said):
        with_warmup(optimizer_at(), torch_schedulers.StepLR, **how)


def plateau() -> Technique:
    """A warm-up by update and reductions by a loss that never falls, at each epoch's end."""
    model = network()
    optimizer = sgd(model)
    scheduler = with_warmup(
        optimizer, torch_schedulers.ReduceLROnPlateau, 6, patience=0, threshold=0.5
    )
    stepping = Stepping(scheduler, "eval/loss")

    def step(engine: Any, batch: torch.Tensor) -> torch.Tensor:
        loss = update(model, optimizer, batch)
        stepping.after_update()
        return loss

    def attach(trainer: Any) -> None:
        trainer.add_event_handler(
            Events.EPOCH_COMPLETED, lambda: stepping.after_evaluation({"eval/loss": 1.0})
        )

    return Technique({"model": model, "optimizer": optimizer, "scheduler": scheduler}, step, attach)


def test_a_plateau_with_a_warmup(tmp_path: Path) -> None:
    """ReduceLROnPlateau reduces during its warm-up and after, the same where it is stopped."""
    straight = trained(tmp_path / "straight", plateau, log_every=1)
    found = [lr_by_iteration(straight)[k] for k in (1, 5, 8, 9)]
    # The reduction of the second epoch is made after its last update.
    assert found == pytest.approx([0.05 * 2 / 6, 0.05, 0.05, 0.005])
    stopped = trained(tmp_path / "stopped", plateau, "3:SIGTERM", *STOPS[1:], log_every=1)
    assert_same_run(straight, stopped)


def test_a_forgotten_warmup_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the plateau's state leaves its warm-up out, the comparison fails."""
    straight = trained(tmp_path / "straight", plateau)
    base = torch_schedulers.ReduceLROnPlateau
    monkeypatch.setattr(WarmedPlateau, "load_state_dict", base.load_state_dict)

    def state_dict(self: WarmedPlateau) -> dict[str, Any]:
        return {k: v for k, v in base.state_dict(self).items() if k != "_schedulers"}

    monkeypatch.setattr(WarmedPlateau, "state_dict", state_dict)
    stopped = trained(tmp_path / "stopped", plateau, *STOPS)
    runs = [checkpoint(run)[1]["state"]["model"] for run in (straight, stopped)]
    assert differing(*runs) != []


# -- stepping ----------------------------------------------------------------------------------


class Counting:
    """A scheduler that counts its steps, and keeps the metrics it is given."""

    def __init__(self) -> None:
        self.steps = 0

    def step(self) -> None:
        """One step."""
        self.steps += 1


@pytest.mark.parametrize(("on", "steps"), [("update", 3), ("epoch", 2)])
def test_steps(on: str, steps: int) -> None:
    """It steps on what it is to step on, and on nothing else."""
    scheduler = Counting()
    stepping = Stepping(scheduler, on)
    for _ in range(3):
        stepping.after_update()
    for _ in range(2):
        stepping.after_epoch()
    stepping.after_evaluation({"eval/loss": 1.0})
    assert scheduler.steps == steps


def test_steps_on_a_metric() -> None:
    """It takes its metric from the evaluation that gives it."""
    optimizer = optimizer_at()
    scheduler = torch_schedulers.ReduceLROnPlateau(optimizer, patience=0)
    stepping = Stepping(scheduler, "eval/loss")
    stepping.after_update()
    stepping.after_epoch()
    stepping.after_evaluation({"other/loss": 0.0})
    assert scheduler.last_epoch == 0
    for value in (1.0, 2.0):
        stepping.after_evaluation({"eval/loss": value, "eval/accuracy": 0.5})
    assert optimizer.param_groups[0]["lr"] == pytest.approx(RATE / 10)


@pytest.mark.parametrize(
    ("make", "on", "said"),
    [
        (torch_schedulers.ReduceLROnPlateau, "update", "ReduceLROnPlateau steps on a metric, and"),
        (torch_schedulers.ReduceLROnPlateau, "epoch", "such as 'eval/loss'"),
        (lambda o: torch_schedulers.StepLR(o, 1), "eval/loss", "StepLR takes no metric, and"),
        (lambda o: torch_schedulers.StepLR(o, 1), "updates", "give 'update' or 'epoch'"),
        (lambda o: warmup_cosine(o, 12), "epoch", "the schedule counts updates, and step_on is"),
    ],
)
def test_steps_on_what_it_cannot(make: Make, on: str, said: str) -> None:
    """A scheduler that cannot step on what is asked is refused before training.

    Trap: PA, the cosine ends at 0.63 since it is stepped less often than it is made for.
    """
    with pytest.raises(UsageError, match=said):
        Stepping(make(optimizer_at()), on)


def test_a_metric_that_no_evaluation_gives() -> None:
    """It is refused at the start, with the nearest that one gives."""
    stepping = Stepping(torch_schedulers.ReduceLROnPlateau(optimizer_at()), "eval/los")
    stepping.check({"eval/los": "los"})
    stepping.check({"eval": "a collection, which gives several"})
    with pytest.raises(UsageError) as raised:
        stepping.check({"eval/loss": "loss"})
    assert str(raised.value) == (
        "step_on='eval/los' names no metric of an evaluation; there are ['eval/loss']; the nearest "
        "is 'eval/loss'"
    )
    with pytest.raises(UsageError, match="there are none"):
        stepping.check({})
    Stepping(Counting()).check({})


@pytest.mark.parametrize(
    ("mode", "metric", "fits"),
    [
        ("min", "eval/accuracy", False),
        ("max", "eval/accuracy", True),
        ("max", "eval/loss", False),
        ("min", "eval/loss", True),
        ("min", "eval/whatever", True),
    ],
)
def test_a_plateau_that_waits_for_the_wrong_way(mode: Any, metric: str, fits: bool) -> None:
    """A plateau by torch's default takes a rising accuracy for none; it is refused at the start."""
    scheduler = torch_schedulers.ReduceLROnPlateau(optimizer_at(), mode)
    check = partial(Stepping(scheduler, metric).check, {metric: "given"})
    if fits:
        check()
    else:
        with pytest.raises(UsageError, match=f"has mode='{mode}', and of {metric} "):
            check()


# -- in a model -------------------------------------------------------------------------------


class Line(Model):
    """A line through points, its rate by a schedule of the run's length."""

    module = partial(nn.Linear, 2, 1)
    optimizer = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    scheduler = warmup_cosine

    def compute_loss(self, prediction: Any, target: Any) -> torch.Tensor:
        """How far it is from what it is to learn."""
        return (prediction - target).square().mean()

    def split(self, batch: Any) -> Any:
        """The points, and the sum of their coordinates."""
        return batch[0], batch[0].sum(dim=1, keepdim=True)


COSINE = {"scheduler": {"total_updates": TOTAL_UPDATES, "warmup": 1, "floor": 0.125}}


def fitted(model: Model, folder: Path, evaluation: Any = None, **settings: Any) -> Any:
    """Train ``model`` for three epochs of four batches, and evaluate it after each."""
    given = {"max_epochs": 3, "mlflow": False, "progress": "none", "picture": False, "log_every": 1}
    return model.fit(points_loader(), evaluation, **{**given, "output_dir": folder, **settings})


@pytest.mark.parametrize(("accumulate", "updates"), [(1, 12), (2, 6), (3, 6), (4, 3), (9, 3)])
def test_the_last_update_of_a_model_has_the_floor(
    accumulate: int, updates: int, tmp_path: Path
) -> None:
    """The length of the run in updates is known, also where batches are accumulated.

    Trap: PA, the cosine ends at 0.63 since it counts what no update is made of.
    """
    used: list[float] = []

    class Noting(Line):
        def optimizer_step(self) -> None:
            """Note the rate."""
            used.append(self.optimizer.param_groups[0]["lr"])
            super().optimizer_step()

    model = Noting(COSINE)
    fitted(model, tmp_path, accumulate=accumulate)
    assert model.sizes == Sizes(3, updates // 3, updates)
    assert len(used) == updates
    assert (used[0], used[-1]) == (0.05, 0.05 * 0.125)


MODEL_SCHEDULERS: dict[str, Any] = {
    "cosine": COSINE["scheduler"],
    "warm-up before a scheduler": {
        "class": "igniter.warmup.with_warmup",
        "factory": "torch.optim.lr_scheduler.PolynomialLR",
        "warmup": 3,
        "total_updates": TOTAL_UPDATES,
        "total_iters": UPDATES_AFTER_WARMUP,
    },
    "each epoch": {
        "class": "torch.optim.lr_scheduler.CosineAnnealingLR",
        "T_max": NUM_EPOCHS,
        "step_on": "epoch",
    },
    "on a metric": (
        "torch.optim.lr_scheduler.ReduceLROnPlateau",
        {"patience": 0, "threshold": 0.9, "step_on": "eval/loss"},
    ),
    "on a metric, warmed": {
        "class": "igniter.warmup.with_warmup",
        "factory": "torch.optim.lr_scheduler.ReduceLROnPlateau",
        "warmup": 3,
        "patience": 0,
        "threshold": 0.9,
        "step_on": "eval/loss",
    },
}


class Stopped(Line):
    """One that is stopped in an iteration of training, or in the evaluation that follows it."""

    stop_at: Any = None

    def on_batch_end(self, batch: Any, output: Any) -> None:
        """Stop as by a signal."""
        if self.iteration == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_validation_batch_end(self, batch: Any, output: Any) -> None:
        """Stop as by a signal."""
        if f"eval {self.iteration}" == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("name", MODEL_SCHEDULERS)
def test_a_model_with_each_is_exact(name: str, tmp_path: Path) -> None:
    """Stopped in training, at an epoch's end and in an evaluation, it ends bit for bit the same."""
    parameters = {"scheduler": MODEL_SCHEDULERS[name]}
    fitted(Line(parameters), tmp_path / "straight", points_loader())
    for stop_at in (2, "eval 4", 8, "eval 8", None):
        Stopped.stop_at = stop_at
        fitted(Stopped(parameters), tmp_path / "stopped", points_loader())
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")
    found = set(lr_by_iteration(tmp_path / "straight").values())
    assert len(found) > 1


def test_side_checkpoints_of_a_model(tmp_path: Path) -> None:
    """They are kept where a model's schedule decays."""
    parameters = {
        "scheduler": (
            "igniter.schedulers.wsd",
            {"total_updates": TOTAL_UPDATES, "decay": 2, "cycles": 2, "floor": 0.1},
        )
    }
    fitted(Line(parameters), tmp_path, callbacks=[SideCheckpoints()], **SPARSE)
    assert kept(tmp_path) == [4, 6, 10, 12]


@pytest.mark.parametrize("saved", [True, False])
def test_a_model_is_exact(saved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in an accumulation and between, the schedule goes on; forgotten, it is noticed."""
    if not saved:
        parts = Line.parts
        monkeypatch.setattr(
            Line, "parts", lambda self: {n: p for n, p in parts(self).items() if n != "scheduler"}
        )

    fitted(Line(COSINE), tmp_path / "straight", accumulate=3)
    for stop_at in (2, 7, None):
        Stopped.stop_at = stop_at
        fitted(Stopped(COSINE), tmp_path / "stopped", accumulate=3)
    states = [checkpoint(tmp_path / name)[1]["state"] for name in ("straight", "stopped")]
    assert (differing(*(state["module"] for state in states)) == []) == saved


def test_two_models_have_schedulers_of_their_own(tmp_path: Path) -> None:
    """Each model's scheduler drives its own optimizer.

    Trap: AR, a reused scheduler drives the first model's optimizer.
    """
    models = [Line(COSINE), Line(COSINE)]
    for index, model in enumerate(models):
        fitted(model, tmp_path / str(index))
        assert model.scheduler.optimizer is model.optimizer
    assert models[0].scheduler is not models[1].scheduler
    assert models[0].optimizer is not models[1].optimizer


# -- side checkpoints --------------------------------------------------------------------------


def with_sides(make: Make, every: int = 1) -> Callable[[], Technique]:
    """A network whose updates are made in each ``every``-th iteration, with side checkpoints."""

    def build() -> Technique:
        built = scheduled(make, "never")
        scheduler = built.to_save["scheduler"]

        def step(engine: Any, batch: torch.Tensor) -> torch.Tensor:
            loss = built.step(engine, batch)
            if engine.state.iteration % every == 0:
                scheduler.step()
            return loss

        return Technique(built.to_save, step, SideCheckpoints().attach)

    return build


def kept(run: Path) -> list[int]:
    """The iterations whose checkpoints are there."""
    return sorted({int(path.name.split("-")[1]) for path in run.glob("checkpoints/iteration-*")})


SPARSE = {"keep_last": 1, "save_every": "1 iteration"}


@pytest.mark.parametrize("stops", [(), ("3:SIGTERM", "4:crash", "6:SIGTERM", "11:crash")])
def test_side_checkpoints(stops: tuple[str, ...], tmp_path: Path) -> None:
    """Those at each decay's start and end are kept for ever, also where the run stops at one."""
    build = with_sides(lambda o: wsd(o, 12, decay=2, cycles=2, floor=0.1))
    run = trained(tmp_path, build, *stops, **SPARSE)
    assert kept(run) == [4, 6, 10, 12]


def test_side_checkpoints_with_accumulation(tmp_path: Path) -> None:
    """They are taken when the schedule comes there, once, not in each iteration it stands there."""
    build = with_sides(lambda o: wsd(o, 4, decay=1, cycles=2, floor=0.1), every=3)
    run = trained(tmp_path, build, **SPARSE)
    assert kept(run) == [3, 6, 9, 12]


def test_without_side_checkpoints(tmp_path: Path) -> None:
    """Without the callback the same run keeps its newest checkpoint alone."""
    build = partial(scheduled, lambda o: wsd(o, 12, decay=2, cycles=2))
    assert kept(trained(tmp_path, build, **SPARSE)) == [12]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda o: warmup_cosine(o, 12), "'scheduler' in to_save, and it is a LambdaLR"),
        (lambda o: torch_schedulers.StepLR(o, 1), "and it is a StepLR"),
    ],
)
def test_side_checkpoints_of_what_has_no_decays(make: Make, said: str, tmp_path: Path) -> None:
    """Another schedule is refused at the start."""
    with pytest.raises(UsageError, match=said):
        attempt(with_sides(make), tmp_path)


def test_the_total_of_a_schedule() -> None:
    """What a schedule was made for can be asked, whichever it is; others have none."""
    makers: list[Make] = [partial(f, total_updates=7) for f in (warmup_cosine, warmup_linear, wsd)]
    assert [total_updates_of(make(optimizer_at())) for make in makers] == [7, 7, 7]
    plain = torch_schedulers.LambdaLR(optimizer_at(), lambda n: 1.0)
    assert total_updates_of(plain) is None
    assert decays_of(plain) == ()
