"""Every ready-made callback is exact under stops, and what it remembers is what makes it so."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from handled import Part, attempt, images
from support import assert_same_run, checkpoint, differing, save_at_once

from igniter.handlers import (
    EMA,
    SWA,
    CSVLog,
    CutMix,
    EarlyStopping,
    Freezer,
    Mixup,
    NaNGuard,
    Profiler,
    SyncBatchNorm,
)

Build = Callable[[], Part]

PARTS: dict[str, Build] = {}


def part(build: Build) -> Build:
    """Enter it under its name."""
    PARTS[build.__name__] = build
    return build


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here depends on a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@part
def ema() -> Part:
    """Averaged at each update, and evaluated with."""
    average = EMA(decay=0.8)
    return Part([average], weights=average)


@part
def ema_of_every_second_update() -> Part:
    """Averaged at every second of the updates from iteration 3 on, with accumulated gradients."""
    average = EMA("model", decay=0.8, every=2, start=3, warmup=True)
    return Part([average], weights=average, accumulate=2)


@part
def two_averages() -> Part:
    """Two of one class, one of them at the ends of epochs."""
    average = EMA(decay=0.8, every="epoch")
    return Part([EMA(decay=0.5), average], weights=average)


@part
def swa() -> Part:
    """Equal shares of the last two epochs, with the statistics of batch norm computed anew."""
    average = SWA(start="1 epoch", loader=images())
    return Part([average], weights=average)


@part
def early_stopping() -> Part:
    """Ends the run before its time."""
    return Part([EarlyStopping("eval/loss", patience=2, min_delta=0.05)])


@part
def early_stopping_by_a_function() -> Part:
    """Ends the run when a function has said no three times."""
    return Part([EarlyStopping(patience=3, improved=lambda metrics: metrics["eval/loss"] < 1.0)])


@part
def frozen_at_first() -> Part:
    """The first layers train from the second epoch on; their batch norm has its statistics kept."""
    return Part([Freezer("model.1", "model.2", until="1 epoch", eval_batch_norm=True)])


@part
def frozen_in_between() -> Part:
    """Two freezers, each with a beginning and an end in mid-epoch."""
    return Part([Freezer("model.1", after=3, until=7), Freezer("model.4", after=5, until=6)])


@part
def added_to_the_optimizer() -> Part:
    """Layers that the optimizer is given when they are to train."""
    return Part(
        [Freezer("model.1", until=6, learning_rate=0.01)],
        trained=lambda model: torch.optim.SGD(model[2:].parameters(), 0.05, momentum=0.9),
    )


@part
def added_by_name() -> Part:
    """The same with an optimizer that keeps the names of its parameters."""
    return Part(
        [Freezer("model.1", until=6)],
        trained=lambda model: torch.optim.AdamW([*model.named_parameters()][2:], 0.01),
    )


PARTS["mixup"] = lambda: Part([Mixup(0.4, num_classes=3)])
PARTS["cutmix"] = lambda: Part([CutMix(1.0, num_classes=3)])
PARTS["lookers_on"] = lambda: Part(
    [NaNGuard(every=3), CSVLog(), Profiler(1, 2), SyncBatchNorm(), CSVLog()]
)


@part
def all_of_them() -> Part:
    """Everything at once."""
    average = EMA(decay=0.8)
    return Part(
        [
            Freezer("model.1", after=2, until="2 epochs", eval_batch_norm=True),
            Mixup(0.4, num_classes=3),
            CutMix(1.0, num_classes=3),
            NaNGuard(),
            average,
            SWA(start="1 epoch", loader=images()),
            EarlyStopping("eval/loss", patience=5),
            CSVLog(),
        ],
        weights=average,
    )


def straight_and_stopped(
    folder: Path, build: Build, stops: list[tuple[int, str]], **settings: Any
) -> list[Path]:
    """Train straight on, and with ``stops``."""
    runs = [folder / "straight", folder / "stopped"]
    assert attempt(runs[0], build, **settings)
    for stop, how in stops:
        attempt(runs[1], build, stop, how=how, **settings)
    result = attempt(runs[1], build, **settings)
    assert result is not None
    assert result.status == "completed"
    return runs


@pytest.mark.parametrize("name", PARTS)
def test_stopped_at_every_iteration(name: str, tmp_path: Path) -> None:
    """Stopped after each iteration in turn, a run ends bit for bit as if it never was.

    Traps: the early-stop count, the average and a counter forgotten (PA); handlers that gather
    over attempts (HE).
    """
    stops = [(at, "SIGTERM") for at in range(1, 13)]
    assert_same_run(*straight_and_stopped(tmp_path, PARTS[name], stops))


@pytest.mark.parametrize("name", PARTS)
def test_killed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before, at and after a checkpoint, and in the last iteration, it ends as well so."""
    save_at_once(monkeypatch)
    stops = [(3, "crash"), (6, "crash"), (9, "SIGINT"), (12, "crash")]
    assert_same_run(*straight_and_stopped(tmp_path, PARTS[name], stops))


@pytest.mark.parametrize("name", [name for name in PARTS if "early_stopping" not in name])
def test_made_longer(name: str, tmp_path: Path) -> None:
    """A run of one epoch that is made three epochs long ends as one that was so from the start."""
    runs = [tmp_path / "straight", tmp_path / "longer"]
    settings = {"save_every": "1 epoch", "eval_every": "1 epoch", "log_every": 4}
    attempt(runs[0], PARTS[name], **settings)
    attempt(runs[1], PARTS[name], max_epochs=1, **settings)
    attempt(runs[1], PARTS[name], **settings)
    assert_same_run(*runs)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ema", EMA),
        ("ema_of_every_second_update", EMA),
        ("swa", SWA),
        ("early_stopping", EarlyStopping),
        ("early_stopping_by_a_function", EarlyStopping),
        ("frozen_in_between", Freezer),
        ("added_to_the_optimizer", Freezer),
    ],
)
def test_what_is_forgotten_is_noticed(
    name: str, kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: without what a callback has saved the comparison fails."""
    monkeypatch.setattr(kind, "load_state_dict", lambda self, state: None)
    runs = straight_and_stopped(tmp_path, PARTS[name], [(6, "SIGTERM"), (9, "SIGTERM")])
    first, second = (checkpoint(run) for run in runs)
    assert first[0] != second[0] or differing(first[1], second[1]) != []


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_a_generator_of_its_own_is_noticed(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: mixing that draws from anything but torch's generator is not exact."""

    def build() -> Part:
        own = iter([0.1, 0.9, 0.9, 0.5] * 3)
        monkeypatch.setattr(kind, "_draw", lambda self: next(own))
        return Part([kind(1.0, num_classes=3)])

    runs = straight_and_stopped(tmp_path, build, [(6, "SIGTERM")])
    assert differing(*(checkpoint(run)[1] for run in runs)) != []


@pytest.mark.parametrize("name", ["ema", "swa", "frozen_at_first", "mixup", "cutmix"])
def test_each_changes_something(name: str, tmp_path: Path) -> None:
    """Negative control: a run with the callback ends otherwise than the plain one."""
    runs = [tmp_path / "with", tmp_path / "without"]
    for run, build in zip(runs, (PARTS[name], Part), strict=True):
        attempt(run, build)
    assert differing(*(checkpoint(run)[1] for run in runs)) != []


def test_lookers_on_change_nothing(tmp_path: Path) -> None:
    """A guard, a table and a profiler leave no trace in what a run comes to."""
    runs = [tmp_path / "with", tmp_path / "without"]
    for run, build in zip(runs, (PARTS["lookers_on"], Part), strict=True):
        attempt(run, build)
    assert_same_run(*runs)
