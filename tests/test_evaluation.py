"""An evaluation leaves training as it found it, and is run again when it was interrupted."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from support import (
    Small,
    assert_same_run,
    checkpoint,
    differing,
    plain_eval_step,
    plain_step,
    points,
    points_loader,
)
from torch import nn

from igniter import RunSpec, evaluate, train
from igniter.engine import Events
from igniter.errors import UsageError


def noisy_eval_step(engine: Any, batch: Any, model: Any) -> Any:
    """A step that draws."""
    return {"loss": (model(batch[0]) + torch.rand(())).mean()}


def test_evaluating_more_often_changes_nothing(tmp_path: Path) -> None:
    """The weights are the same however often is evaluated, and so are common evaluations."""
    runs = {}
    for every in ("1 iterations", "1 epoch", "2 epochs"):
        run = Small(tmp_path / every, eval_step=noisy_eval_step)
        run.train(eval_every=every)
        runs[every] = run
    states = [checkpoint(run.run_dir)[1]["state"] for run in runs.values()]
    assert differing(states[0], states[1]) == differing(states[0], states[2]) == []
    often, seldom = (
        {(i, name, v) for i, name, v in points(tmp_path / every) if name == "eval/loss"}
        for every in ("1 iterations", "2 epochs")
    )
    assert len(often) == 12
    assert len(seldom) == 2
    assert seldom < often


def test_modes_and_gradients(tmp_path: Path) -> None:
    """No gradients, eval mode within; afterwards each submodule is in the mode it was in.

    Traps: evaluation builds gradients (PI); it leaves the model in eval mode (PA).
    """
    modes: list[Any] = []

    def attach(trainer: Any, evaluator: Any, model: Any) -> None:
        frozen = nn.Linear(1, 1)
        model.add_module("frozen", frozen)
        frozen.eval()

    def step(engine: Any, batch: Any, model: Any, optimizer: Any) -> Any:
        modes.append(("train", model.training, model.frozen.training, torch.is_grad_enabled()))
        return plain_step(engine, batch, model, optimizer)

    def eval_step(engine: Any, batch: Any, model: Any) -> Any:
        modes.append(("eval", model.training, model.frozen.training, torch.is_grad_enabled()))
        output = model(batch[0])
        assert not output.requires_grad
        return {"loss": output.mean()}

    Small(tmp_path, step=step, eval_step=eval_step, attach=attach).train(max_epochs=2)
    assert set(modes) == {("train", True, False, True), ("eval", False, False, False)}
    assert modes[-5][0] == "train"


@pytest.mark.parametrize("save_every", ["1 epoch", "never"])
@pytest.mark.parametrize("rude", [True, False])
def test_interrupted_evaluation_is_run_again(tmp_path: Path, save_every: str, rude: bool) -> None:
    """Whatever ends it, the evaluation is run from its start and gives what it would have.

    Traps: an interrupted evaluation is never run again (PI); after a resume it runs one batch
    (Lightning#19549).
    """
    stop = [False]

    def eval_step(engine: Any, batch: Any, model: Any) -> Any:
        if stop[0] and engine.state.iteration == 2:
            stop[0] = False
            if rude:
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGTERM)
        return noisy_eval_step(engine, batch, model)

    straight, stopped = (Small(tmp_path / n, eval_step=eval_step) for n in ("straight", "stopped"))
    straight.train(save_every=save_every)
    stop[0] = True
    if rude:
        with pytest.raises(KeyboardInterrupt):
            stopped.train(save_every=save_every)
    else:
        assert stopped.train(save_every=save_every).status == "interrupted"
        assert checkpoint(stopped.run_dir)[0] == "iteration-00000004"
        assert "eval/loss" not in {name for _, name, _ in points(stopped.run_dir)}
    stopped.train(save_every=save_every)
    assert_same_run(straight.run_dir, stopped.run_dir)


def two_evaluations(run_dir: Path, stop_in: str = "", **settings: Any) -> Any:
    """A run with two evaluations; a handler of the first changes the weights."""
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def eval_step(name: str) -> Any:
        def step(engine: Any, batch: Any) -> Any:
            if name == stop_in and engine.state.iteration == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return {"loss": model(batch[0]).mean() + torch.rand(())}

        return step

    def change(evaluator: Any, trainer: Any) -> None:
        @evaluator.on(Events.COMPLETED)
        def _(engine: Any) -> None:
            with torch.no_grad():
                model.weight.add_(engine.state.metrics["loss"])

    def spec(name: str, **how: Any) -> RunSpec:
        return RunSpec(
            step=eval_step(name), loader=points_loader(), metrics={"loss": "loss"}, **how
        )

    return train(
        to_save={"model": model, "optimizer": optimizer},
        train_spec=RunSpec(
            step=lambda engine, batch: plain_step(engine, batch, model, optimizer),
            loader=points_loader(),
            metrics={"loss": "loss"},
        ),
        eval_spec={"first": spec("first", callback=change), "second": spec("second")},
        **{
            "output_dir": run_dir,
            "max_epochs": 3,
            "save_every": "never",
            "mlflow": False,
            "progress": "none",
            **settings,
        },
    )


def test_handler_between_two_evaluations(tmp_path: Path) -> None:
    """A stop in the second one saves what was before the first: its handler runs again whole."""
    two_evaluations(tmp_path / "straight")
    for stop_in in ("second", "first", "second"):
        stopped = two_evaluations(tmp_path / "stopped", stop_in)
        assert stopped.status == "interrupted"
    assert two_evaluations(tmp_path / "stopped").status == "completed"
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


def test_evaluation_that_changes_what_is_saved(tmp_path: Path) -> None:
    """A buffer that an evaluation step adds to counts no batch twice after a stop."""
    stop = [False]

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

    counters: list[Counting] = []

    def eval_step(engine: Any, batch: Any, model: Any) -> Any:
        counters[-1].seen += 1
        if stop[0] and engine.state.iteration == 2:
            stop[0] = False
            os.kill(os.getpid(), signal.SIGTERM)
        return plain_eval_step(engine, batch, model)

    def attempt(name: str) -> None:
        counters.append(Counting())
        run = Small(tmp_path / name, eval_step=eval_step, more_to_save={"counter": counters[-1]})
        run.train(save_every="never")

    attempt("straight")
    stop[0] = True
    attempt("stopped")
    attempt("stopped")
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


def test_evaluate_alone(tmp_path: Path) -> None:
    """evaluate() of a run's newest checkpoint gives what the run's last evaluation gave.

    Trap: `eval` does not find what `train` saved (PI).
    """
    run = Small(tmp_path, eval_step=noisy_eval_step)
    result = run.train()
    model = nn.Linear(2, 1)
    spec = RunSpec(
        step=lambda engine, batch: noisy_eval_step(engine, batch, model),
        loader=points_loader(),
        metrics={"loss": "loss"},
    )
    found = evaluate(to_save={"model": model}, eval_spec=spec, checkpoint=tmp_path)
    assert found == {"eval/loss": result.metrics["eval/loss"]}


def test_names_and_empty_loaders(tmp_path: Path) -> None:
    """An evaluation cannot be called train, and its loader must give batches."""
    spec = RunSpec(step=lambda *_: {}, loader=[])
    model = nn.Linear(1, 1)
    with pytest.raises(UsageError, match="cannot be called 'train'"):
        evaluate(to_save={"model": model}, eval_spec={"train": spec})
    with pytest.raises(UsageError, match="evaluation 'eval' is empty"):
        evaluate(to_save={"model": model}, eval_spec=spec)


def test_no_evaluation_before_training(tmp_path: Path) -> None:
    """Nothing is evaluated before the first epoch, nor twice at the end.

    Trap: a validation pass before epoch 0 that cannot be switched off (AR).
    """
    seen: list[int] = []

    def attach(trainer: Any, evaluator: Any, model: Any) -> None:
        evaluator.add_event_handler(
            Events.STARTED, lambda e: seen.append(trainer.state.iteration)
        )  # fmt: skip

    run = Small(tmp_path, eval_step=plain_eval_step, attach=attach)
    run.train()
    run.train()
    assert seen == [4, 8, 12]
