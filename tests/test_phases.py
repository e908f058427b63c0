"""Phases: another loader from a given epoch on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from support import assert_same_run, points
from test_model import Points, fit
from torch.utils.data import DataLoader, TensorDataset

from igniter import RunSpec, train
from igniter.errors import CheckpointMismatch, UsageError
from igniter.phases import PhasedBatches


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here depends on a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def data(first: float, count: int = 12, **how: Any) -> DataLoader[Any]:
    """Points whose first coordinate tells which loader they are of."""
    where = first + torch.arange(2 * count).reshape(count, 2) / 100
    return DataLoader(
        TensorDataset(where, torch.arange(count) % 2),
        **{"batch_size": 4, "shuffle": True, **how},
    )


class Seen(Points):
    """Logs which loader its batches come of."""

    def metrics(self, name: str) -> dict[str, str]:
        return {"loss": "loss", "first": "first"}

    def train_step(self, batch: Any) -> Any:
        return {**super().train_step(batch), "first": batch[0].floor().mean()}


@pytest.mark.parametrize("workers", [0, 2])
def test_exact(workers: int, tmp_path: Path) -> None:
    """Each from its epoch on, wherever it is stopped: before, at and after the change."""

    def phases() -> dict[int, DataLoader[Any]]:
        return {4: data(30), 1: data(10, num_workers=workers), 3: data(20, num_workers=workers)}

    how: dict[str, Any] = {"max_epochs": 5, "log_every": 1}
    fit(tmp_path / "straight", Seen(), loaders=(phases(),), **how)
    for stop in (2, 6, 7, 8, 9, 12):
        fit(tmp_path / "stopped", Seen(), stop, loaders=(phases(),), **how)
    fit(tmp_path / "stopped", Seen(), loaders=(phases(),), **how)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")
    firsts = {at: float(v) for at, name, v in points(tmp_path / "stopped") if name == "train/first"}
    assert firsts == {at: 10.0 if at <= 6 else 20.0 if at <= 9 else 30.0 for at in range(1, 16)}


def test_a_position_that_is_forgotten_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the phase in the checkpoint the comparison fails."""
    loaders = ({1: data(10), 3: data(20)},)
    fit(tmp_path / "straight", Seen(), loaders=loaders)
    fit(tmp_path / "stopped", Seen(), 7, loaders=loaders)
    monkeypatch.setattr(PhasedBatches, "load_state_dict", lambda self, state: None)
    fit(tmp_path / "stopped", Seen(), loaders=loaders)
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "straight", tmp_path / "stopped")


def test_lengths_that_differ_ask_for_one(tmp_path: Path) -> None:
    """Where loaders have different numbers of batches, an epoch's is to be said."""
    loaders = ({1: data(10), 2: data(20, 20)},)
    with pytest.raises(UsageError, match="--epoch-length"):
        fit(tmp_path, Points(), loaders=loaders)
    assert fit(tmp_path, Points(), loaders=loaders, epoch_length=4).iteration == 12


def test_what_is_no_phase_is_refused(tmp_path: Path) -> None:
    """A first epoch without a loader, an epoch 0, and what is no loader."""
    for given, text in (
        ({2: data(1)}, "one must begin with epoch 1"),
        ({0: data(1)}, "begins with epoch 0"),
        ({1: data(1), 2: 7}, "from epoch 2 on has a int"),
    ):
        with pytest.raises(UsageError, match=text):
            fit(tmp_path, Points(), loaders=(given,))


def test_an_evaluation_has_no_phases(tmp_path: Path) -> None:
    """Loaders by epoch, or loaders by name that is a number, are refused for an evaluation."""
    phased = RunSpec(step=lambda engine, batch: {"loss": 0.0}, loader={1: [1], 2: [2]})
    for given, said in ((phased, "loaders by epoch"), ({1: phased}, "cannot be called 1")):
        with pytest.raises(UsageError, match=said):
            train(
                to_save={"model": torch.nn.Linear(1, 1)},
                train_spec=RunSpec(step=lambda engine, batch: {"loss": 0.0}, loader=[1]),
                eval_spec=given,
                output_dir=tmp_path,
                mlflow=False,
                progress="none",
            )


def test_phases_come_and_go_only_in_a_new_run(tmp_path: Path) -> None:
    """A checkpoint made in other phases is refused, naming them."""
    fit(tmp_path / "a", Points(), 7, loaders=({1: data(10), 3: data(20)},))
    with pytest.raises(CheckpointMismatch, match="made in a phase from epoch 3 on"):
        fit(tmp_path / "a", Points(), loaders=(data(10),))
    fit(tmp_path / "b", Points(), 7, loaders=(data(10),))
    with pytest.raises(CheckpointMismatch, match="made in no phase"):
        fit(tmp_path / "b", Points(), loaders=({1: data(10), 3: data(20)},))
