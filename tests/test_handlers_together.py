"""The ready-made callbacks as a package, with a Model, and SyncBatchNorm."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from handled import Part, attempt, images, network
from support import assert_same_run, differing

import igniter.handlers
from igniter import Model
from igniter.errors import UsageError
from igniter.handlers import EMA, SWA, EarlyStopping, Freezer, Mixup, NaNGuard, SyncBatchNorm
from igniter.run_engine import RunEngine


def test_every_name_is_there() -> None:
    """Each name of the package leads to what is called so, and others to an error."""
    for name in igniter.handlers.__all__:
        assert getattr(igniter.handlers, name).__name__ == name
    assert dir(igniter.handlers) == sorted(igniter.handlers.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Anything'"):
        igniter.handlers.Anything  # noqa: B018


def test_importing_costs_nothing(tmp_path: Path) -> None:
    """The package alone imports no torch."""
    code = "import igniter.handlers, sys; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "False"


def convert(monkeypatch: pytest.MonkeyPatch, processes: int, module: Any) -> Any:
    """The module after SyncBatchNorm was attached among so many processes; 0: not initialised."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: processes > 0)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: processes)
    trainer = RunEngine(lambda engine, batch: None, "train", None)
    trainer.objects = {"model": module, "optimizer": object()}
    SyncBatchNorm().attach(trainer)
    return module


@pytest.mark.parametrize(("processes", "kind"), [(0, "BatchNorm1d"), (1, "BatchNorm1d")])
def test_one_process_is_left_alone(
    processes: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without other processes batch norm stays what it is."""
    assert type(convert(monkeypatch, processes, network())[2]).__name__ == kind


def test_among_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among several it becomes torch's, with the parameters that the optimizer holds."""
    model = network()
    before, state = list(model.parameters()), model.state_dict()
    convert(monkeypatch, 2, model)
    assert isinstance(model[2], torch.nn.SyncBatchNorm)
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))
    assert differing(state, model.state_dict()) == []
    with pytest.raises(UsageError, match=r"to_save\['model'\] is itself a batch norm"):
        convert(monkeypatch, 2, torch.nn.BatchNorm1d(2))


class Digits(Model):
    """A model of the class form."""

    module = network
    loss = torch.nn.CrossEntropyLoss
    optimizer = torch.optim.SGD


class Stop:
    """Stops an attempt in the step of one iteration."""

    def __init__(self, at: int | None) -> None:
        self._at = at

    def on_batch_end(self, trainer: Any, batch: Any, output: Any) -> None:
        """Ask for the stop."""
        if trainer.state.iteration == self._at:
            os.kill(os.getpid(), signal.SIGTERM)


def fit(run_dir: Path, stop: int | None = None) -> None:
    """One attempt of a Model with all callbacks that have a state, and some without."""
    torch.manual_seed(0)
    model = Digits({"optimizer": {"lr": 0.05, "momentum": 0.9}})
    average = EMA(decay=0.8)
    model.fit(
        images(),
        {"eval": model.evaluation(images(), weights=average)},
        callbacks=[
            Freezer("module.1", until="1 epoch", eval_batch_norm=True),
            Mixup(0.4, num_classes=3),
            NaNGuard("loss"),
            EarlyStopping("eval/loss", patience=5),
            SWA(start=4, loader=images()),
            Stop(stop),
        ],
        output_dir=run_dir,
        max_epochs=3,
        mlflow=False,
        progress="none",
        eval_every="2 iterations",
        log_every=2,
        picture=False,
    )


def test_with_a_model(tmp_path: Path) -> None:
    """The same objects work in ``Model.fit``, exactly, and averages are exported."""
    fit(tmp_path / "straight")
    for stop in (3, 6, 9, None):
        fit(tmp_path / "stopped", stop)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")
    names = {path.name for path in (tmp_path / "stopped/model").iterdir()}
    assert {"module_ema.safetensors", "module_swa.safetensors"} <= names


@pytest.mark.parametrize(
    ("stop", "how"), [(5, "SIGTERM"), (12, "SIGTERM"), (5, "error"), (5, "crash"), (None, "")]
)
def test_the_end_of_an_attempt(stop: int | None, how: str, tmp_path: Path) -> None:
    """``on_attempt_end`` is called last and once, however the attempt ends, and at each resume."""
    seen: list[str] = []

    class Ends:
        def on_attempt_start(self, trainer: Any) -> None:
            seen.append("start")

        def on_batch_end(self, trainer: Any, batch: Any, output: Any) -> None:
            if how == "error" and trainer.state.iteration == stop:
                raise ArithmeticError("broken")

        def on_training_end(self, trainer: Any) -> None:
            seen.append("training")

        def on_attempt_end(self, trainer: Any) -> None:
            seen.append("end")

    with pytest.raises(ArithmeticError) if how == "error" else contextlib.nullcontext():
        attempt(tmp_path, lambda: Part([Ends()]), None if how == "error" else stop, how=how)
    assert seen == ["start", *["training"] * (stop is None), "end"]
    if stop is not None:
        how = ""
        attempt(tmp_path, lambda: Part([Ends()]))
        assert seen[2:] == ["start", "training", "end"]


def test_an_update_that_overflowed_does_not_count(tmp_path: Path) -> None:
    """Where fp16 skips an update the average skips it too."""
    counts = {True: 0, False: 0}

    class Count:
        def on_batch_end(self, trainer: Any, batch: Any, output: Any) -> None:
            counts[model.updates.stepped] += 1

    model, average = Digits({"optimizer": {"lr": 0.05}}), EMA()
    model.fit(
        images(),
        callbacks=[average, Count()],
        output_dir=tmp_path,
        max_epochs=3,
        mlflow=False,
        progress="none",
        picture=False,
        precision="fp16",
    )
    assert counts[False] > 0
    assert int(average.average.n_averaged) == counts[True]


def test_evaluated_alone(tmp_path: Path) -> None:
    """``--eval-only`` runs with the averaged weights too: it gives what training logged."""

    def build() -> Part:
        return Part(weights=EMA(decay=0.8))

    trained = attempt(tmp_path, build)
    again = attempt(tmp_path, build, eval_only=True)
    plain = attempt(tmp_path, Part, eval_only=True)
    assert trained is not None
    assert again is not None
    assert plain is not None
    assert again.metrics["eval/loss"] == trained.metrics["eval/loss"]
    assert plain.metrics["eval/loss"] != trained.metrics["eval/loss"]
