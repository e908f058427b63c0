"""EMA and SWA: what is averaged and when, what evaluations see, and what is left behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import handled
import pytest
import torch
from handled import BUILT, Part, attempt, images, module_of, network
from safetensors.torch import load_file
from support import assert_same_run, checkpoint, differing
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

from igniter import RunSpec, evaluate
from igniter.engine import Events
from igniter.errors import CheckpointMismatch, UsageError
from igniter.handlers import EMA, SWA


class Weights:
    """Keeps the weights after each iteration."""

    def __init__(self) -> None:
        self.after: list[list[torch.Tensor]] = []

    def on_batch_end(self, trainer: Any, batch: Any, output: Any) -> None:
        """Copy them."""
        self.after.append([p.detach().clone() for p in trainer.objects["model"].parameters()])


def averaged(run_dir: Path, name: str = "EMA") -> dict[str, Any]:
    """The state of an average in a run's newest checkpoint."""
    found: dict[str, Any] = checkpoint(run_dir)[1]["state"][f"callbacks/{name}"]
    return found


def parameters_of(state: dict[str, Any]) -> list[torch.Tensor]:
    """The averaged parameters, in order."""
    names = [f"module.{name}" for name, _ in network().named_parameters()]
    return [state["average"][name] for name in names]


def test_the_average_is_that_of_every_update(tmp_path: Path) -> None:
    """After each update the average moves towards the weights by 1 - decay, from the first on.

    Trap: once per epoch instead of per update (PA).
    """
    weights = Weights()
    attempt(tmp_path, lambda: Part([EMA(decay=0.75), weights]))
    expected = weights.after[0]
    for now in weights.after[1:]:
        expected = [torch.lerp(old, new, 0.25) for old, new in zip(expected, now, strict=True)]
    assert len(weights.after) == 12
    assert differing(parameters_of(averaged(tmp_path)), expected) == []


def test_warm_up(tmp_path: Path) -> None:
    """With a warm-up the n-th decay is at most (1 + n) / (10 + n)."""
    weights = Weights()
    attempt(tmp_path, lambda: Part([EMA(decay=0.4, warmup=True), weights]))
    expected = weights.after[0]
    for number, now in enumerate(weights.after[1:], start=1):
        decay = min(0.4, (1 + number) / (10 + number))
        expected = [torch.lerp(a, b, 1 - decay) for a, b in zip(expected, now, strict=True)]
    assert differing(parameters_of(averaged(tmp_path)), expected) == []


@pytest.mark.parametrize(
    ("how", "accumulate", "count"),
    [
        ({}, 1, 12),
        ({}, 2, 6),
        ({}, 5, 2),
        ({"every": 3}, 2, 2),
        ({"every": "epoch"}, 1, 3),
        ({"start": 3}, 1, 9),
        ({"start": "1 epoch"}, 2, 4),
        ({"every": "epoch", "start": "1 epoch"}, 1, 2),
        ({"start": "end"}, 1, 0),
    ],
)
def test_how_often(how: dict[str, Any], accumulate: int, count: int, tmp_path: Path) -> None:
    """Updates are counted, not micro-batches; from ``start`` on; or ends of epochs."""
    attempt(tmp_path, lambda: Part([EMA(**how)], accumulate=accumulate))
    assert int(averaged(tmp_path)["average"]["n_averaged"]) == count


def test_buffers_are_copied(tmp_path: Path) -> None:
    """The statistics of batch norm are those of the module, the count of its batches included.

    Trap: num_batches_tracked never moves (HE).
    """
    attempt(tmp_path, lambda: Part([EMA(decay=0.5)]))
    own, average = module_of(tmp_path), averaged(tmp_path)["average"]
    for name in ("num_batches_tracked", "running_mean", "running_var"):
        assert differing(own[f"2.{name}"], average[f"module.2.{name}"]) == []
    assert int(own["2.num_batches_tracked"]) == 12


class Seen:
    """Keeps the weights and their places in memory at the end of an evaluation and of a step."""

    def __init__(self) -> None:
        self.evaluated: list[torch.Tensor] = []
        self.places: set[int] = set()

    def on_validation_end(self, trainer: Any, cycle: int, name: str, metrics: Any) -> None:
        """Keep those of an evaluation."""
        weight = trainer.objects["model"][1].weight
        self.evaluated.append(weight.detach().clone())
        self.places.add(weight.data_ptr())

    def on_batch_end(self, trainer: Any, batch: Any, output: Any) -> None:
        """Keep the place."""
        self.places.add(trainer.objects["model"][1].weight.data_ptr())


def test_an_evaluation_has_the_average(tmp_path: Path) -> None:
    """Evaluations run with the averaged weights, in the same memory, and training with its own."""
    seen, average = Seen(), EMA(decay=0.75)
    attempt(tmp_path, lambda: Part([seen], weights=average))
    assert differing(seen.evaluated[-1], average.module[1].weight.detach()) == []
    assert differing(seen.evaluated[-1], BUILT[0][1].weight.detach()) != []
    assert len(seen.places) == 1
    attempt(tmp_path / "plain", Part)
    assert differing(module_of(tmp_path), module_of(tmp_path / "plain")) == []


def test_before_the_first_average_evaluations_have_the_modules_own(tmp_path: Path) -> None:
    """An average that has not begun is not evaluated: it would be the weights of the beginning."""
    seen, plain = Seen(), Seen()
    attempt(tmp_path, lambda: Part([seen], weights=EMA(start=8)))
    attempt(tmp_path / "plain", lambda: Part([plain]))
    assert differing(seen.evaluated[:4], plain.evaluated[:4]) == []
    assert differing(seen.evaluated[5], plain.evaluated[5]) != []


class Break:
    """Breaks an attempt off in the midst of the evaluation at iteration 6."""

    def __init__(self, how: str) -> None:
        self.own: list[torch.Tensor] = []
        self._how = how

    def on_batch_end(self, trainer: Any, batch: Any, output: Any) -> None:
        """Keep the weights that training has."""
        self.own = [p.detach().clone() for p in trainer.objects["model"].parameters()]

    def on_validation_batch_end(self, trainer: Any, batch: Any, output: Any) -> None:
        """Raise an error, or ask for a stop, while other weights are in."""
        if trainer.state.iteration == 6:
            assert differing(self.own, list(trainer.objects["model"].parameters())) != []
            if self._how == "error":
                raise ArithmeticError("broken")
            os.kill(os.getpid(), signal.SIGTERM)


def test_stopped_in_an_evaluation(tmp_path: Path) -> None:
    """A stop while the average is in saves and leaves the module's own weights, and is exact."""
    broken = Break("SIGTERM")
    result = attempt(tmp_path / "stopped", lambda: Part([broken], weights=EMA(decay=0.5)))
    assert result is not None
    assert (result.status, result.iteration) == ("interrupted", 6)
    held = module_of(tmp_path / "stopped")
    assert differing([held[name] for name, _ in network().named_parameters()], broken.own) == []
    assert differing([p.detach() for p in BUILT[0].parameters()], broken.own) == []
    for run in ("straight", "stopped"):
        attempt(tmp_path / run, lambda: Part(weights=EMA(decay=0.5)))
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


def test_an_error_in_an_evaluation(tmp_path: Path) -> None:
    """An error while the average is in leaves the module with its own weights."""
    broken = Break("error")
    with pytest.raises(ArithmeticError):
        attempt(tmp_path, lambda: Part([broken], weights=EMA(decay=0.5)))
    assert differing([p.detach() for p in BUILT[0].parameters()], broken.own) == []


def test_the_average_is_exported(tmp_path: Path) -> None:
    """The exported result has each averaged module beside the module, under plain names."""
    attempt(tmp_path, lambda: Part([EMA(decay=0.5), EMA(decay=0.1), SWA("model", start=20)]))
    exported = load_file(tmp_path / "model/model_ema.safetensors")
    state = averaged(tmp_path)["average"]
    assert set(exported) == set(network().state_dict())
    assert differing(exported, {name: state[f"module.{name}"] for name in exported}) == []
    second = load_file(tmp_path / "model/model_ema-2.safetensors")
    state = averaged(tmp_path, "EMA-2")["average"]
    assert differing(second, {name: state[f"module.{name}"] for name in second}) == []
    assert differing(second, exported) != []
    # Nothing was averaged there.
    assert not (tmp_path / "model/model_swa.safetensors").exists()


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_compiled_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The average of a module with a compiled part is saved under plain names."""

    def compiled() -> nn.Sequential:
        model = network()
        model[4] = torch.compile(model[4], backend="eager")  # type: ignore[assignment]
        return model

    attempt(tmp_path, lambda: Part(weights=EMA()), 5)
    monkeypatch.setattr(handled, "network", compiled)
    attempt(tmp_path, lambda: Part(weights=EMA()))
    assert not [name for name in averaged(tmp_path)["average"] if "_orig_mod" in name]
    assert int(averaged(tmp_path)["average"]["n_averaged"]) == 12


def test_swa_is_the_mean_with_statistics_of_its_own(tmp_path: Path) -> None:
    """Equal shares of the ends of epochs; batch norm's statistics come from the loader."""
    weights, swa = Weights(), SWA(start="1 epoch", loader=images(shuffle=False))
    attempt(tmp_path, lambda: Part([swa, weights]))
    expected = AveragedModel(BUILT[0])
    for after in (weights.after[7], weights.after[11]):
        live = network()
        for parameter, value in zip(live.parameters(), after, strict=True):
            parameter.data.copy_(value)
        expected.update_parameters(live)
    update_bn(images(shuffle=False), expected)
    assert differing(averaged(tmp_path, "SWA")["average"], expected.state_dict()) == []


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """After a run, a stop or an error the optimizer has no hooks, however often it was trained.

    Trap: handlers accumulate per run (HE).
    """
    one = EMA()

    def break_down(iteration: int, output: Any) -> None:
        if iteration == 7:
            raise ArithmeticError("broken")

    attempt(tmp_path / "a", lambda: Part([one]), 5)
    assert not BUILT[1]._optimizer_step_post_hooks
    with pytest.raises(ArithmeticError):
        attempt(tmp_path / "a", lambda: Part([one]), spoil=break_down)
    assert not BUILT[1]._optimizer_step_post_hooks
    attempt(tmp_path / "a", lambda: Part([one]))
    assert not BUILT[1]._optimizer_step_post_hooks
    # The same object in a run of its own begins anew.
    attempt(tmp_path / "b", lambda: Part([one]))
    attempt(tmp_path / "c", lambda: Part([EMA()]))
    assert differing(averaged(tmp_path / "b"), averaged(tmp_path / "c")) == []


def test_steps_between_iterations_do_not_count(tmp_path: Path) -> None:
    """An update is one that the step made, so that it is the same after a resume."""

    def attach(engine: Any, trainer: Any) -> None:
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: BUILT[1].step())

    attempt(tmp_path, lambda: Part([EMA(), attach], accumulate=20))
    assert int(averaged(tmp_path)["average"]["n_averaged"]) == 0


def test_which_module(tmp_path: Path) -> None:
    """A name that is no module's, or none where there are several, is refused with the names."""
    with pytest.raises(UsageError, match=r"EMA: to_save has no module 'net'. There is model;"):
        attempt(tmp_path, lambda: Part([EMA("net")]))
    with pytest.raises(UsageError, match=r"EMA\(every=0\) must be"):
        EMA(every=0)
    with pytest.raises(UsageError, match=r"below 1"):
        EMA(decay=1.0)
    with pytest.raises(UsageError, match=r"'2 hours' is a time"):
        attempt(tmp_path, lambda: Part([EMA(start="2 hours")]))


def test_of_another_module_at_the_checkpoint(tmp_path: Path) -> None:
    """An average that a checkpoint has of another module is refused, with both names."""
    more: Any = lambda: {"other": nn.Linear(1, 1)}  # noqa: E731
    attempt(tmp_path, lambda: Part([EMA("other")]), 3, also=more)
    with pytest.raises(CheckpointMismatch, match=r"average of 'other', and this one is of 'model'"):
        attempt(tmp_path, lambda: Part([EMA("model")]), also=more)


def test_without_training() -> None:
    """An average that was never attached says so."""
    with pytest.raises(UsageError, match=r"EMA has no weights yet"):
        EMA().module  # noqa: B018
    assert EMA().exported_modules() == {}


def test_evaluated_from_a_checkpoint(tmp_path: Path) -> None:
    """``evaluate`` with the average of a checkpoint gives what training logged."""
    average = EMA(decay=0.75)
    result = attempt(tmp_path, lambda: Part(weights=average))
    assert result is not None
    model, again = network(), EMA(decay=0.75)

    def step(engine: Any, batch: Any) -> dict[str, Any]:
        return {"loss": nn.functional.cross_entropy(model(batch[0]), batch[1])}

    spec = RunSpec(step=step, loader=images(), metrics={"loss": "loss"}, weights=again)
    values = evaluate(to_save={"model": model}, eval_spec=spec, checkpoint=tmp_path)
    assert values["eval/loss"] == result.metrics["eval/loss"]
