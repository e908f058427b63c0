"""Every way to train is exact under stops."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import Zygote, assert_same_run, checkpoint, differing
from techniques import (
    TECHNIQUES,
    Technique,
    accumulating,
    attempt,
    compiled,
    network,
    scaled,
    sgd,
    update,
)
from torch import nn

from igniter.checkpoint import state as saved_state
from igniter.checkpoint.compare import first_difference
from igniter.checkpoint.gradients import StepWatch
from igniter.checkpoint.state import SavedObjects
from igniter.errors import CheckpointMismatch, UsageError

Build = Callable[[], Technique]

# In the midst of an accumulation, then in an epoch's midst, then as by a kill: the run goes on
# from its checkpoint of iteration 10.
STOPS = ("2:SIGTERM", "7:SIGTERM", "11:crash")


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here depends on a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def straight_and_stopped(folder: Path, builds: list[Build], stops: tuple[str, ...]) -> list[Path]:
    """Train straight on, and with ``stops``; each attempt is built by the next of ``builds``."""
    runs = [folder / "straight", folder / "stopped"]
    result = attempt(builds[0], runs[0])
    assert result is not None
    assert result.status == "completed"
    for index, stop in enumerate((*stops, "")):
        result = attempt(builds[index % len(builds)], runs[1], stop)
    assert result is not None
    assert result.status == "completed"
    return runs


def check(folder: Path, *builds: Build, stops: tuple[str, ...] = STOPS) -> None:
    """The stopped run ends bit for bit as the straight one."""
    assert_same_run(*straight_and_stopped(folder, list(builds), stops))


def assert_noticed(folder: Path, build: Build) -> None:
    """The comparison fails."""
    runs = straight_and_stopped(folder, [build], STOPS)
    assert differing(*(checkpoint(run)[1]["state"]["model"] for run in runs)) != []


@pytest.mark.parametrize("name", TECHNIQUES)
def test_exact(name: str, tmp_path: Path) -> None:
    """Stopped three times, it ends bit for bit as the straight run.

    Traps: a scheduler that is a step behind (HE), clipping and gradients of micro-batches (PA),
    a moving average forgotten (PA), a warm-up that loses its counter (PA).
    """
    check(tmp_path, TECHNIQUES[name])


@pytest.mark.parametrize("clear", ["before", "after", "to zero"])
def test_accumulation_stopped_everywhere(clear: str, tmp_path: Path) -> None:
    """Stopped after each iteration in turn, accumulated gradients are as if it never was."""
    stops = tuple(f"{at}:SIGTERM" for at in range(1, 13))
    check(tmp_path, lambda: accumulating(clear), stops=stops)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "accumulation cleared after",
        "gradients_never_cleared",
        "grad_scaler",
        "unfreezing_with_a_group_of_its_own",
        "SequentialLR",
    ],
)
def test_exact_in_real_processes(zygote: Zygote, name: str, tmp_path: Path) -> None:
    """Killed and terminated in turn, in processes of its own, it ends as the straight run."""
    for folder, stops in (("straight", [""]), ("stopped", ["3:SIGTERM", "8:SIGKILL", ""])):
        cwd = tmp_path / folder
        cwd.mkdir()
        for stop in stops:
            env = {"TEST_TECHNIQUE": name, "TEST_STOP": stop}
            done = zygote.run("technique.py", cwd=cwd, env=env)
            assert done.code == (-9 if "KILL" in stop else 0), done
    assert_same_run(tmp_path / "straight/run", tmp_path / "stopped/run")


# -- what makes the comparison fail ------------------------------------------------------------


def test_scaler_left_out_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the scaler in to_save the run ends otherwise, and a warning had said so."""
    assert_noticed(tmp_path, partial(scaled, save_scaler=False))
    assert "uses scaler (GradScaler), whose state is not in to_save" in capsys.readouterr().err


def test_the_scale_changes(tmp_path: Path) -> None:
    """The scaler has grown and shrunk, so that a scale left as it began would be noticed."""
    attempt(scaled, tmp_path)
    state = checkpoint(tmp_path)[1]["state"]["scaler"]
    assert state["scale"] == 2.0**10 * 2**4 / 2**2


@pytest.mark.parametrize(
    "name",
    [
        "accumulation cleared after",
        "gradients_never_cleared",
        "step_before_backward",
        "clipping_with_gradients_of_no_optimizer",
        "two_optimizers_one_every_third_iteration",
    ],
)
def test_gradients_not_restored_are_noticed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the gradients that are owed the run ends otherwise."""
    monkeypatch.setattr(SavedObjects, "restore_gradients", lambda self, gradients: None)
    assert_noticed(tmp_path, TECHNIQUES[name])


def test_entries_not_restored_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch's own load_state_dict leaves the optimizer, the run ends otherwise."""
    monkeypatch.setattr(saved_state, "restore_entries", lambda optimizer, state: None)
    assert_noticed(tmp_path, TECHNIQUES["float32_copies_of_bfloat16_weights"])


@pytest.mark.parametrize(
    ("name", "saved"),
    [("SGD fused", False), ("accumulation cleared after", True), ("gradients_never_cleared", True)],
)
def test_used_up_gradients_are_not_saved(name: str, saved: bool, tmp_path: Path) -> None:
    """A checkpoint holds gradients only where they may be used again."""
    attempt(TECHNIQUES[name], tmp_path, "7:SIGTERM")
    gradients = checkpoint(tmp_path)[1]["rank"]["gradients"]
    assert bool(gradients["optimizers"]) is saved
    assert gradients["modules"] == {"model": {}}


def test_gradients_are_followed_by_a_small_tensor() -> None:
    """What is held of the gradients between iterations is the smallest one."""
    model = nn.Linear(50, 1)
    optimizer = torch.optim.SGD(model.parameters())
    watch = StepWatch(optimizer)
    model(torch.ones(1, 50)).sum().backward()
    watch.begin_iteration()
    watch.stepped()
    assert watch._used is not None
    assert watch._used[0] is model.bias.grad
    assert watch.owed()  # it was there when the iteration began
    optimizer.zero_grad()
    model(torch.ones(1, 50)).sum().backward()
    watch.stepped()
    assert not watch.owed()


def test_states_are_compared_whole() -> None:
    """A set in another order is the same; an array that differs where repr shows nothing is not."""
    a, b = np.zeros(5000), np.zeros(5000)
    b[2500] = 1
    assert repr(a) == repr(b)
    for compared in (lambda x, y: first_difference(x, y, ""), differing):
        assert compared({"a": a}, {"a": b})
        assert not compared({"a": a}, {"a": a.copy()})
        assert not compared({"s": {0, 8}}, {"s": {8, 0}})
        assert compared({"s": {0, 8}}, {"s": {0, 9}})


# -- compiled ----------------------------------------------------------------------------------

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
HOWS = ["no", "whole", "part", "in place"]


@pytest.mark.parametrize("first", ["no", "part"])
def test_compiled_or_not(first: str, tmp_path: Path) -> None:
    """Begun compiled in any way, or not at all, a run goes on in every other way."""
    turns = HOWS[HOWS.index(first) :] + HOWS[: HOWS.index(first)]
    check(tmp_path, *(partial(compiled, how) for how in turns))


def test_compiled_for_training(tmp_path: Path) -> None:
    """Forward and backward compiled together are exact."""
    check(tmp_path, partial(compiled, "whole", backend="aot_eager"))


def wrapped_in(folder: Path) -> list[str]:
    """The files below ``folder`` that have torch.compile's wrapper in a name."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in files)
    assert any(path.suffix == ".pt" for path in files)
    return [path.name for path in files if b"_orig_mod" in path.read_bytes()]


@pytest.mark.parametrize("how", ["whole", "part", "in place"])
def test_no_wrapper_in_any_file(how: str, tmp_path: Path) -> None:
    """Neither checkpoints nor the exported model name the wrapper.

    Trap: a compiled module saves ``_orig_mod.`` keys (AR).
    """
    attempt(partial(compiled, how), tmp_path)
    assert wrapped_in(tmp_path) == []
    newest = next(tmp_path.glob("checkpoints/*-final")) / "state.pt"
    plain = network()
    plain.load_state_dict(torch.load(newest, weights_only=True)["model"])


def test_a_wrapper_is_seen(tmp_path: Path) -> None:
    """Negative control: torch's own files do name it."""
    wrapped = torch.compile(nn.Linear(1, 1), backend="eager")
    torch.save(wrapped.state_dict(), tmp_path / "state.pt")
    (tmp_path / "model.safetensors").touch()
    assert wrapped_in(tmp_path) == ["state.pt"]


# -- what no longer fits -----------------------------------------------------------------------


class Grown(nn.Module):
    """A layer, and whatever is added to it later."""

    def __init__(self, **more: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(2, more.pop("width", 1))
        for name, part in more.items():
            setattr(self, name, part)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Shape N x 2 to N x 1."""
        return self.layer(batch).mean(dim=1, keepdim=True)


def grown(optimizer: Callable[[nn.Module], Any] = sgd, **more: Any) -> Technique:
    """What ``Grown`` was given, trained."""
    model = Grown(**more)
    found = optimizer(model)
    return Technique(
        {"model": model, "optimizer": found},
        lambda engine, batch: update(model, found, batch),
    )


def two_groups(model: Any) -> torch.optim.Optimizer:
    """Weights and biases apart."""
    return torch.optim.SGD(
        [{"params": [model.layer.weight]}, {"params": [model.layer.bias]}], lr=0.05
    )


def reordered(model: Any) -> torch.optim.Optimizer:
    """The same parameters the other way round."""
    return torch.optim.SGD([model.layer.bias, model.layer.weight], lr=0.05)


@pytest.mark.parametrize(
    ("build", "texts"),
    [
        (
            lambda: grown(head=nn.Linear(1, 1)),
            ["to_save['model'] (Grown)", "new in the code: head.weight, head.bias"],
        ),
        (
            lambda: grown(scale=nn.Parameter(torch.ones(1))),
            ["to_save['model'] (Grown)", "new in the code: scale"],
        ),
        (
            lambda: grown(width=3),
            ["of another shape: layer.weight (1, 2) → (3, 2), layer.bias (1,) → (3,)"],
        ),
        (
            lambda: grown(two_groups),
            [
                "its parameter group 0 has 1 parameters and had 2",
                "new in the code: nothing; gone: model.layer.bias",
            ],
        ),
        (
            lambda: grown(reordered),
            ["another order: model.layer.bias stands where model.layer.weight did"],
        ),
    ],
)
def test_what_no_longer_fits_is_named(build: Build, texts: list[str], tmp_path: Path) -> None:
    """A checkpoint of other parameters is refused: what is new, what is gone, and what to do."""
    attempt(grown, tmp_path, "3:SIGTERM")
    with pytest.raises(CheckpointMismatch) as caught:
        attempt(build, tmp_path)
    for text in (*texts, "Build it as it was", "--resume never", "/state.pt')"):
        assert text in str(caught.value)
    result = attempt(grown, tmp_path)
    assert result is not None
    assert result.status == "completed"


def test_a_group_that_only_the_code_has(tmp_path: Path) -> None:
    """A group added to the code, not in a handler, is named."""
    attempt(lambda: grown(lambda model: sgd(model.layer)), tmp_path, "3:SIGTERM")

    def more(model: Any) -> Any:
        optimizer = sgd(model.layer)
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
        return optimizer

    with pytest.raises(CheckpointMismatch, match=r"it has 2 parameter groups and had 1"):
        attempt(lambda: grown(more), tmp_path)


def test_lazy_layers_are_refused_before_training(tmp_path: Path) -> None:
    """A lazy layer without a shape is named at the start, with what to do."""

    def lazy() -> Technique:
        model = nn.Sequential(nn.LazyLinear(1))
        return Technique({"model": model}, lambda engine, batch: model(batch).mean())

    with pytest.raises(UsageError, match=r"to_save\['model'\].0.weight is a lazy parameter"):
        attempt(lazy, tmp_path)


def test_values_of_many_kinds_load_by_torch_alone(tmp_path: Path) -> None:
    """torch.load(weights_only=True) reads a state with numpy scalars, tuples and dates."""
    attempt(TECHNIQUES["extra_state"], tmp_path)
    path = next(tmp_path.glob("checkpoints/*-final")) / "state.pt"
    assert "4._extra_state" in torch.load(path, weights_only=True)["model"]
    found = checkpoint(tmp_path)[1]["state"]["model"]["4._extra_state"]
    assert type(found["scale"]).__name__ == "float64"
    buffer = io.BytesIO()
    torch.save(found, buffer)
    with pytest.raises(Exception, match=r"weights_only|Unsupported|WeightsUnpickler"):
        torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a gradient scaler on a GPU needs a GPU")
def test_grad_scaler_on_a_gpu(tmp_path: Path) -> None:
    """The scaler's state on a GPU is exact too."""
    how = {"device": "cuda", "deterministic": True}
    build = partial(scaled, device="cuda")
    runs = [tmp_path / "straight", tmp_path / "stopped"]
    attempt(build, runs[0], **how)
    for stop in (*STOPS, ""):
        attempt(build, runs[1], stop, **how)
    assert_same_run(*runs)
