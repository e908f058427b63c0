"""Warnings that save days: said when they should be, silent when not."""

from __future__ import annotations

import copy
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Zygote, checkpoint
from techniques import (
    SCHEDULERS,
    TECHNIQUES,
    Technique,
    attempt,
    averaged,
    compiled,
    loss_of,
    network,
    scheduled,
    sgd,
    trained_by,
    update,
)
from torch import nn
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import AveragedModel

from igniter import RunSpec, train
from igniter.engine import Events
from igniter.inputs import changes, fingerprint

Build = Callable[[], Technique]
Said = Callable[[], str]


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here depends on a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """The warnings since it was called last."""

    def read() -> str:
        lines = capsys.readouterr().err.splitlines()
        return "\n".join(line for line in lines if line.startswith("warning: "))

    return read


# -- state that is not saved -------------------------------------------------------------------


def using(other: Any, use: Callable[[Any, nn.Module], object], **more: Any) -> Technique:
    """A training step that also does ``use(other, model)``."""
    built = trained_by(sgd)
    model = built.to_save["model"]

    def step(engine: Any, batch: torch.Tensor) -> torch.Tensor:
        loss = built.step(engine, batch)
        use(other, model)
        return loss

    return Technique({**built.to_save, **more}, step)


def decayed(average: nn.Module, model: nn.Module) -> None:
    """A moving average by hand, past autograd's notice."""
    for old, new in zip(average.parameters(), model.parameters(), strict=True):
        old.data.mul_(0.9).add_(new.data, alpha=0.1)


def frozen(model: nn.Module) -> nn.Module:
    """As a teacher is."""
    return model.eval().requires_grad_(False)


def handled(make: Callable[[Any, Any], tuple[Any, Any]], **saved: Any) -> Technique:
    """``make(optimizer, trainer)`` gives an event and the handler to attach to it."""
    built = trained_by(sgd)

    def attach(trainer: Any) -> None:
        event, handler = make(built.to_save["optimizer"], trainer)
        trainer.add_event_handler(event, handler)

    return Technique({**built.to_save, **saved}, built.step, attach)


def early_stopping(optimizer: Any, trainer: Any) -> tuple[Any, Any]:
    """ignite's, which counts."""
    from ignite.handlers import EarlyStopping

    return Events.EPOCH_COMPLETED, EarlyStopping(5, lambda engine: 0.0, trainer)


def step_lr(optimizer: Any, trainer: Any) -> tuple[Any, Any]:
    """A scheduler that only the handler knows."""
    scheduler = schedulers.StepLR(optimizer, 1)
    return Events.EPOCH_COMPLETED, lambda: scheduler.step()


class Keeper:
    """Keeps an average among other things, as a user's trainer does."""

    def __init__(self) -> None:
        self.average = frozen(network())
        self.name = "keeper"


LOST: dict[str, tuple[Build, str]] = {
    "a scheduler": (
        lambda: using(schedulers.StepLR(sgd(network()), 1), lambda s, m: s.get_last_lr()),
        "the training step uses other (StepLR), whose state is not in to_save",
    ),
    "a generator": (
        lambda: using(torch.Generator(), lambda g, m: torch.rand(1, generator=g)),
        "uses other (Generator), whose state is not in to_save",
    ),
    "a frozen moving average": (
        lambda: using(frozen(network()), decayed),
        "uses other (Sequential), which changes in training and is not in to_save",
    ),
    "torch's moving average": (
        lambda: using(AveragedModel(network()), lambda a, m: a.update_parameters(m)),
        "uses other (AveragedModel), which changes in training and is not in to_save",
    ),
    "batch norm in training": (
        lambda: using(network().requires_grad_(False), lambda t, m: t(torch.ones(3, 2))),
        "uses other (Sequential), which changes in training and is not in to_save",
    ),
    "an average in an object": (
        lambda: using(Keeper(), lambda k, m: decayed(k.average, m)),
        "uses other.average (Sequential), which changes in training",
    ),
    "a scheduler in a handler": (
        lambda: handled(step_lr),
        "a handler of EPOCH_COMPLETED uses scheduler (StepLR), whose state is not in to_save",
    ),
    "early stopping": (
        lambda: handled(early_stopping),
        "a handler of EPOCH_COMPLETED uses EarlyStopping, whose state is not in to_save",
    ),
    "what changes at an epoch's end": (
        lambda: handled(lambda optimizer, trainer: (Events.EPOCH_COMPLETED, Shift(network()))),
        "a handler of EPOCH_COMPLETED uses Shift.model (Sequential), which changes in training",
    ),
    "a buffer that is left out": (
        lambda: trained_by(sgd, network(Drifting(persistent=False))),
        "to_save['model'] changes its buffer 4.shift in training, which its state_dict leaves out",
    ),
}


class Shift:
    """Moves a model a little whenever it is called."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self) -> None:
        """Once more."""
        decayed(self.model, network())


class Drifting(nn.Module):
    """Adds a buffer that grows."""

    def __init__(self, *, persistent: bool, drift: float = 0.1) -> None:
        super().__init__()
        self.drift = drift
        self.register_buffer("shift", torch.zeros(1), persistent=persistent)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """The same shape."""
        self.shift = self.shift + self.drift
        return batch + self.shift


@pytest.mark.parametrize("name", LOST)
def test_state_that_would_be_lost_is_named(name: str, tmp_path: Path, said: Said) -> None:
    """What training changes and no checkpoint holds is named once, at each start."""
    build, text = LOST[name]
    attempt(build, tmp_path, "5:SIGTERM")
    assert said().count(text) == 1
    attempt(build, tmp_path)
    assert said().count(text) == 1


def saved_average() -> Technique:
    """The moving average by hand, saved."""
    average = frozen(network())
    return using(average, decayed, average=average)


SAFE: dict[str, Build] = {
    "a frozen teacher": lambda: using(frozen(network()), lambda t, m: t(torch.ones(3, 2))),
    "a teacher that is not frozen": lambda: using(
        network().eval(), lambda t, m: t(torch.ones(3, 2)).detach()
    ),
    "a moving average that is saved": saved_average,
    "torch's moving average, saved": averaged,
    "a loss with no parameters": lambda: using(nn.MSELoss(), lambda f, m: f),
    "a module of torch": lambda: using(torch, lambda f, m: f.ones(1)),
    "a persistent buffer": lambda: trained_by(sgd, network(Drifting(persistent=True))),
    "a buffer left out that stays": lambda: trained_by(
        sgd, network(Drifting(persistent=False, drift=0.0))
    ),
    "the trainer in a handler": lambda: handled(
        lambda optimizer, trainer: (Events.EPOCH_COMPLETED, lambda: trainer.state.epoch)
    ),
    "data parallel": lambda: parallel(),
    "part of the parameters": lambda: trained_by(lambda model: sgd(model[3])),
    "groups": lambda: trained_by(
        lambda model: torch.optim.SGD(
            [{"params": model[0].parameters()}, {"params": model[3].parameters(), "lr": 0.1}],
            lr=0.01,
        )
    ),
    "low-rank adapters": lambda: adapted(),
    "a loss with parameters, saved": lambda: with_criterion(save=True),
    "compiled": lambda: compiled("whole"),
    "compiled in a part": lambda: compiled("part"),
    "two of a kind": TECHNIQUES["gan"],
    "accumulation": TECHNIQUES["accumulation cleared after"],
    "unfreezing": TECHNIQUES["unfreezing_with_a_group_of_its_own"],
    "weight norm": TECHNIQUES["weight_norm"],
    "tied weights": TECHNIQUES["tied_weights"],
    "moved before": lambda: trained_by(sgd, network().to("cpu").float()),
    "an object that saves its model": lambda: kept(),
}


def parallel() -> Technique:
    """A wrapped model in the step and in to_save, its optimizer made before wrapping."""
    model = network()
    optimizer = sgd(model)
    wrapped = nn.DataParallel(model)
    return Technique(
        {"model": wrapped, "optimizer": optimizer},
        lambda engine, batch: update(wrapped, optimizer, batch),
    )


def adapted() -> Technique:
    """A frozen model with small matrices beside it, which alone are trained."""
    model = network(nn.Linear(1, 1, bias=False))
    model[:4].requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    return Technique(
        {"model": model, "optimizer": optimizer},
        lambda engine, batch: update(model, optimizer, batch),
    )


class Margin(nn.Module):
    """A loss that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, loss: torch.Tensor) -> torch.Tensor:
        """Scale it."""
        return (loss * self.scale.exp() - self.scale).sum()


def with_criterion(*, save: bool) -> Technique:
    """A loss with a parameter that the optimizer updates too."""
    model, criterion = network(), Margin()
    optimizer = torch.optim.SGD([*model.parameters(), *criterion.parameters()], lr=0.01)

    def step(engine: Any, batch: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = criterion(loss_of(model, batch))
        loss.backward()
        optimizer.step()
        return loss

    saved = {"model": model, "optimizer": optimizer}
    return Technique(saved | ({"criterion": criterion} if save else {}), step)


class Kept:
    """Saves the model that it holds."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.state_dict, self.load_state_dict = model.state_dict, model.load_state_dict


def kept() -> Technique:
    """A model that is saved by another object."""
    built = trained_by(sgd)
    saved = {"kept": Kept(built.to_save["model"]), "optimizer": built.to_save["optimizer"]}
    return Technique(saved, built.step)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("name", SAFE)
def test_what_is_safe_is_not_warned_of(name: str, tmp_path: Path, said: Said) -> None:
    """The usual idioms are silent, at the start and at a resume."""
    attempt(SAFE[name], tmp_path, "5:SIGTERM")
    attempt(SAFE[name], tmp_path)
    assert said() == ""


@pytest.mark.parametrize("what", ["metric", "scheduler", "model"])
def test_state_in_evaluations(what: str, tmp_path: Path, said: Said) -> None:
    """A metric or a frozen model that only an evaluation uses is silent, a scheduler is not."""
    from ignite.metrics import Accuracy

    built = trained_by(sgd)
    other: Any = {
        "metric": Accuracy(),
        "scheduler": schedulers.ReduceLROnPlateau(built.to_save["optimizer"]),
        "model": network(),
    }[what]

    def eval_step(engine: Any, batch: Any) -> dict[str, float]:
        return {"loss": float(len(str(other)))}

    train(
        to_save=built.to_save,
        train_spec=RunSpec(
            step=lambda engine, batch: {"loss": built.step(engine, batch)},
            loader=[torch.ones(3, 2)] * 2,
            metrics={"loss": "loss"},
        ),
        eval_spec=RunSpec(
            step=eval_step,
            loader=[torch.ones(1)],
            metrics={"loss": "loss"},
            callback=lambda engine, trainer: Accuracy(lambda o: (torch.ones(1),) * 2).attach(
                engine, "accuracy"
            ),
        ),
        output_dir=tmp_path,
        max_epochs=1,
        mlflow=False,
        picture=False,
        progress="none",
    )
    text = "the step of evaluation 'eval' uses other (ReduceLROnPlateau), whose state is not in"
    assert (text in said()) == (what == "scheduler")


# -- optimizers --------------------------------------------------------------------------------


def replaced() -> Technique:
    """A model that was replaced by a copy after its optimizer was made."""
    model = network()
    optimizer = sgd(model)
    model = copy.deepcopy(model)
    return Technique(
        {"model": model, "optimizer": optimizer},
        lambda engine, batch: update(model, optimizer, batch),
    )


def bare() -> Technique:
    """A tensor in no module."""
    return trained_by(lambda m: torch.optim.SGD([*m.parameters(), torch.ones(3, 4)], lr=0.1))


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            replaced,
            "updates 6 parameters that nothing in to_save holds (the first has shape (4, 2)",
        ),
        (bare, "updates 1 of its 7 parameters that nothing in to_save holds (the first has shape"),
        (partial(with_criterion, save=False), "updates 1 of its 7 parameters that nothing in"),
    ],
)
def test_an_optimizer_of_what_is_not_saved(
    build: Build, text: str, tmp_path: Path, said: Said
) -> None:
    """An optimizer whose parameters no saved module holds is named, with how many they are."""
    attempt(build, tmp_path, "5:SIGTERM")
    assert said().count(f"to_save['optimizer'] {text}") == 1


# -- learning rates ----------------------------------------------------------------------------


def at_rate(rate: float, make: Callable[[Any], Any] | None = None) -> Technique:
    """A network trained at a rate, its head at twice that, perhaps by a schedule."""
    model = network()
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters()}, {"params": model[3].parameters(), "lr": 2 * rate}],
        lr=rate,
    )
    scheduler = None if make is None else make(optimizer)

    def step(engine: Any, batch: torch.Tensor) -> torch.Tensor:
        loss = update(model, optimizer, batch)
        if scheduler is not None:
            scheduler.step()
        return loss

    saved = {"model": model, "optimizer": optimizer}
    return Technique(saved | ({} if scheduler is None else {"scheduler": scheduler}), step)


def rates_in(run_dir: Path) -> list[float]:
    """The learning rates of the newest checkpoint's optimizer."""
    groups = checkpoint(run_dir)[1]["state"]["optimizer"]["param_groups"]
    return [float(group["lr"]) for group in groups]


KEEPS = "to_save['optimizer'] keeps the learning rate of its checkpoint, 0.25, not the 0.5 that"


def test_a_new_learning_rate_that_does_not_win(tmp_path: Path, said: Said) -> None:
    """Whatever the argument is called, or if there is none: which rate wins is said, and how not.

    Traps: optimizer state silently overrides a new --learning-rate (ultralytics#8969).
    """
    attempt(partial(at_rate, 0.25), tmp_path, "5:SIGTERM")
    attempt(partial(at_rate, 0.25), tmp_path, "6:SIGTERM")
    assert said() == ""
    attempt(partial(at_rate, 0.5), tmp_path)
    text = said()
    assert text.count(KEEPS) == 1
    assert "--override learning_rate" in text
    assert rates_in(tmp_path) == [0.25, 0.5]


def test_a_new_learning_rate_beside_another_runs_checkpoint(tmp_path: Path, said: Said) -> None:
    """A run that begins from another run's checkpoint says so too."""
    attempt(partial(at_rate, 0.25), tmp_path / "a", "5:SIGTERM")
    path = tmp_path / "a/checkpoints/iteration-00000005"
    attempt(partial(at_rate, 0.5), tmp_path / "b", "7:SIGTERM", resume=path)
    assert KEEPS in said()
    attempt(partial(at_rate, 0.5), tmp_path / "c", resume=path, override=["learning_rate"])
    assert said() == ""
    assert rates_in(tmp_path / "c") == [0.5, 1.0]


@pytest.mark.parametrize(
    "name",
    [
        None, "LambdaLR", "StepLR", "LinearLR", "ExponentialLR", "CosineAnnealingLR", "OneCycleLR",
        "SequentialLR", "ChainedScheduler",
    ],
)  # fmt: skip
def test_a_new_learning_rate_that_wins(name: str | None, tmp_path: Path, said: Said) -> None:
    """Overridden, each group has its new rate where the schedule stands; and only once."""
    make = None if name is None else SCHEDULERS[name]
    new, old = tmp_path / "new", tmp_path / "old"
    attempt(partial(at_rate, 0.25, make), new, "5:SIGTERM")
    shutil.copytree(new, old)
    # OneCycleLR builds the rates of its own argument.
    factor = 1.0 if name == "OneCycleLR" else 2.0
    for stop in ("6:SIGTERM", ""):
        attempt(partial(at_rate, 0.5, make), new, stop, override=["learning_rate"])
        attempt(partial(at_rate, 0.25, make), old, stop)
        assert rates_in(new) == pytest.approx([factor * rate for rate in rates_in(old)])
    assert said() == ""


# -- schedulers that run out -------------------------------------------------------------------

_S = schedulers
SHORT: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "OneCycleLR": (
        lambda o: _S.OneCycleLR(o, 0.1, total_steps=8),
        "iteration",
        "(OneCycleLR) has total_steps=8, and the 12 iterations of this run take 12 steps of it: "
        "after step 8 it raises an error. Build it with total_steps=12",
    ),
    "CosineAnnealingLR": (
        lambda o: _S.CosineAnnealingLR(o, 8),
        "iteration",
        "has T_max=8, and the 12 iterations of this run take 12 steps of it: after step 8 the "
        "learning rate rises again",
    ),
    "each epoch": (
        lambda o: _S.CosineAnnealingLR(o, 2),
        "epoch",
        "has T_max=2, and the 12 iterations of this run take 3 steps of it",
    ),
    "PolynomialLR": (
        lambda o: _S.PolynomialLR(o, 6),
        "iteration",
        "has total_iters=6, and the 12 iterations of this run take 12 steps of it",
    ),
    "LinearLR that falls": (
        lambda o: _S.LinearLR(o, 1.0, 0.1, total_iters=6),
        "iteration",
        "has total_iters=6",
    ),
    "SequentialLR": (
        lambda o: _S.SequentialLR(
            o, [_S.LinearLR(o, total_iters=4), _S.CosineAnnealingLR(o, 4)], [4]
        ),
        "iteration",
        "(CosineAnnealingLR) has T_max=4, and the 12 iterations of this run take 8 steps of it",
    ),
    "ChainedScheduler": (
        lambda o: _S.ChainedScheduler(
            [_S.ConstantLR(o, total_iters=3), _S.CosineAnnealingLR(o, 7)]
        ),
        "iteration",
        "has T_max=7, and the 12 iterations of this run take 12 steps of it",
    ),
}


@pytest.mark.parametrize("name", SHORT)
def test_a_scheduler_that_runs_out(name: str, tmp_path: Path, said: Said) -> None:
    """It is said once, long before: both numbers, and what will happen."""
    make, every, text = SHORT[name]
    attempt(partial(scheduled, make, every), tmp_path, "7:SIGTERM")
    assert said().count(text) == 1
    attempt(partial(scheduled, make, every), tmp_path, "8:SIGTERM")
    assert said().count(text) == 1  # and at each resume


def every_third(make: Callable[[Any], Any]) -> Technique:
    """A scheduler that is stepped in the first of three iterations."""
    built = scheduled(make, "never")
    scheduler = built.to_save["scheduler"]

    def step(engine: Any, batch: torch.Tensor) -> torch.Tensor:
        loss = built.step(engine, batch)
        if engine.state.iteration % 3 == 1:
            scheduler.step()
        return loss

    return Technique(built.to_save, step)


@pytest.mark.parametrize(
    "build",
    [
        *(partial(scheduled, make) for make in SCHEDULERS.values()),
        partial(scheduled, lambda o: _S.CosineAnnealingLR(o, 3), "epoch"),
        partial(scheduled, lambda o: _S.OneCycleLR(o, 0.1, total_steps=30)),
        partial(every_third, lambda o: _S.CosineAnnealingLR(o, 4)),
        partial(scheduled, lambda o: _S.LinearLR(o, 0.1, 1.0, total_iters=3)),
    ],
)
def test_a_scheduler_that_lasts(build: Build, tmp_path: Path, said: Said) -> None:
    """One that is long enough, has no end, or is a warm-up, is silent."""
    attempt(build, tmp_path, "6:SIGTERM")
    attempt(build, tmp_path)
    assert said() == ""


def test_a_longer_run_keeps_the_old_schedule(tmp_path: Path, said: Said) -> None:
    """A run that was made longer is told that the checkpoint's T_max stands, and both numbers."""

    def cosine(steps: int) -> Build:
        return partial(scheduled, lambda o: _S.CosineAnnealingLR(o, steps))

    attempt(cosine(12), tmp_path)
    assert said() == ""
    attempt(cosine(24), tmp_path, max_epochs=6)
    assert (
        "to_save['scheduler'] (CosineAnnealingLR) has T_max=12 from its checkpoint, not the 24 "
        "that it is built with now, and the 24 iterations of this run take 24 steps of it" in said()
    )


def test_the_schedule_can_be_set_after_loading(tmp_path: Path, said: Said) -> None:
    """What the warning advises silences it: the callback comes after the checkpoint."""
    attempt(partial(scheduled, lambda o: _S.CosineAnnealingLR(o, 12)), tmp_path)

    def longer() -> Technique:
        built = scheduled(lambda o: _S.CosineAnnealingLR(o, 24))
        scheduler = built.to_save["scheduler"]
        return Technique(built.to_save, built.step, lambda trainer: setattr(scheduler, "T_max", 24))

    attempt(longer, tmp_path, max_epochs=6)
    assert said() == ""


# -- code and data -----------------------------------------------------------------------------

SCRIPT = """
import torch
from igniter import RunSpec, train
from igniter.args import train_kwargs
from igniter.main import igniter_main
import parts.layers

def main(args):
    model = parts.layers.build()
    def step(engine, batch):
        return {"loss": model(batch).sum()}
    train(
        to_save={"model": model},
        train_spec=RunSpec(step=step, loader=[torch.ones(1, 1)] * 2, metrics={"loss": "loss"}),
        **train_kwargs(args), parameters=vars(args),
    )

if __name__ == "__main__":
    igniter_main(main=main, inputs={"data": "data", "more-data": None})
"""
FLAGS = ("--no-mlflow", "--no-picture", "--output-dir", "run", "--progress", "none")


@pytest.fixture
def start(zygote: Zygote, tmp_path: Path) -> Any:
    """Start a script of two files with an input, a little longer each time."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "train.py").write_text(SCRIPT)
    layers = "import torch\n\ndef build():\n    return torch.nn.Linear(1, 1)\n"
    (tmp_path / "parts/layers.py").write_text(layers)
    (tmp_path / "parts/unused.py").write_text("")
    (tmp_path / "data/a.txt").write_text("one")
    epochs = iter(range(1, 9))

    def run(*flags: object) -> Any:
        script = str(tmp_path / "train.py")
        return zygote.run(script, *FLAGS, "--max-epochs", next(epochs), *flags, cwd=tmp_path)

    done = run()
    assert done.code == 0, done
    return run


def append(path: Path, text: str) -> None:
    """Write to the end of a file, which changes nothing but its length."""
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: append(d / "train.py", "# other\n"), "since the last attempt: script changed"),
        (
            lambda d: append(d / "parts/layers.py", "# other\n"),
            "since the last attempt: parts/layers.py changed",
        ),
        (
            lambda d: append(d / "data/a.txt", "two"),
            "since the last attempt: input data changed: 1 files of 3 bytes → 1 of 6",
        ),
        (
            lambda d: (d / "data/b.txt").write_text("x"),
            "since the last attempt: input data changed: 1 files of 3 bytes → 2 of 4",
        ),
        (
            lambda d: os.utime(d / "data/a.txt", (time.time() + 9, time.time() + 9)),
            "since the last attempt: input data was written to at ",
        ),
        (lambda d: append(d / "parts/unused.py", "# other\n"), None),
        (lambda d: (d / "data/.hidden").write_text("x"), None),
        (lambda d: None, None),
    ],
)
def test_changed_code_and_data(
    start: Any, tmp_path: Path, change: Callable[[Path], object], text: str | None
) -> None:
    """What changed since the last attempt is named once, and refused under --strict."""
    change(tmp_path)
    strict = start("--strict")
    done = start()
    again = start("--strict")
    assert (done.code, again.code) == (0, 0), (done, again)
    if text is None:
        assert strict.code == 0, strict
        assert "since the last attempt" not in done.err
    else:
        assert strict.code == 3, strict
        assert text in strict.err
        assert text in done.err


def test_a_fingerprint_is_bounded(tmp_path: Path) -> None:
    """Too many files, too long a look, nothing there: no fingerprint, and nothing to compare."""
    for number in range(5):
        (tmp_path / f"{number}.txt").touch()
    found = fingerprint(tmp_path)
    assert found is not None
    assert (found["files"], found["bytes"]) == (5, 0)
    assert fingerprint(tmp_path, entries=4) is None
    times = iter([0.0, 1.0, 9.0])
    assert fingerprint(tmp_path, seconds=2.0, clock=lambda: next(times)) is None
    assert fingerprint(tmp_path / "gone") is None
    assert changes({"data": None}, {"data": found}, same_host=True) == []


def test_a_fingerprint_leaves_out_what_is_no_data(tmp_path: Path) -> None:
    """Runs, caches and links to directories, so that an input of "." does not cry wolf."""
    (tmp_path / "x").touch()
    before = fingerprint(tmp_path)
    for folder, name in (("run", "run.lock"), ("__pycache__", "a.pyc"), (".git", "HEAD")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    assert fingerprint(tmp_path) == before


def test_times_of_another_host_mean_nothing(tmp_path: Path) -> None:
    """A copy of the same files on another machine is no change."""
    (tmp_path / "x").touch()
    old = fingerprint(tmp_path)
    os.utime(tmp_path / "x", (time.time() + 9, time.time() + 9))
    new = fingerprint(tmp_path)
    assert changes({"data": old}, {"data": new}, same_host=False) == []
    assert len(changes({"data": old}, {"data": new}, same_host=True)) == 1
