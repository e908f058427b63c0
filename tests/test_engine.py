"""The loop: its events in order, its end, and what it refuses."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from support import (
    Small,
    assert_exact,
    checkpoint,
    plain_eval_step,
    plain_step,
    points_loader,
    save_at_once,
)
from torch.utils.data import DataLoader, TensorDataset

from igniter.engine import Events
from igniter.errors import NonFiniteError, UsageError


def test_order_at_a_boundary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step, ITERATION_COMPLETED, checkpoint, evaluation, EPOCH_COMPLETED; then the end."""
    save_at_once(monkeypatch)
    seen: list[str] = []

    def attach(trainer: Any, evaluator: Any, model: Any) -> None:
        for event in (
            Events.STARTED, Events.EPOCH_STARTED, Events.ITERATION_COMPLETED,
            Events.EPOCH_COMPLETED, Events.COMPLETED,
        ):  # fmt: skip
            trainer.add_event_handler(event, lambda e, name=event.name: seen.append(name))
        evaluator.add_event_handler(
            Events.STARTED,
            lambda e: seen.append(f"evaluation, saved {checkpoint(tmp_path)[0][-2:]}"),
        )
        trainer.add_event_handler(
            Events.COMPLETED, lambda e: seen.append(f"saved {checkpoint(tmp_path)[0][-8:]}")
        )

    def step(engine: Any, batch: Any, model: Any, optimizer: Any) -> Any:
        seen.append("step")
        return plain_step(engine, batch, model, optimizer)

    Small(tmp_path, step=step, attach=attach, eval_step=plain_eval_step).train(max_epochs=2)
    iteration = ["step", "ITERATION_COMPLETED"]
    assert seen == [
        "STARTED",
        *["EPOCH_STARTED", *iteration * 4, "evaluation, saved 04", "EPOCH_COMPLETED"],
        # at the end the final checkpoint stands for the scheduled one
        *["EPOCH_STARTED", *iteration * 4, "evaluation, saved 04", "EPOCH_COMPLETED"],
        *["COMPLETED", "saved 08-final"],
    ]


def test_values_that_handlers_read(tmp_path: Path) -> None:
    """An epoch's metrics in state.metrics are there for the next epoch, also after a stop in it."""

    def attach(trainer: Any, evaluator: Any, model: Any) -> None:
        @trainer.on(Events.ITERATION_COMPLETED)
        def _(engine: Any) -> None:
            with torch.no_grad():
                model.weight.add_(engine.state.metrics.get("loss", 0.0))

    assert_exact(tmp_path, [6], attach=attach)


def test_values_of_an_evaluation_that_handlers_read(tmp_path: Path) -> None:
    """The metrics of the last evaluation are there until the next one, also after a stop."""

    def attach(trainer: Any, evaluator: Any, model: Any) -> None:
        @trainer.on(Events.EPOCH_COMPLETED)
        def _(engine: Any) -> None:
            with torch.no_grad():
                model.weight.add_(evaluator.state.metrics.get("loss", 0.0))

    settings = {"eval_every": "2 epochs", "max_epochs": 4}
    assert_exact(
        tmp_path, [10], attach=attach, eval_step=plain_eval_step, settings=settings
    )  # fmt: skip


@pytest.mark.parametrize("late", [False, True], ids=["zeroed after", "zeroed before"])
def test_gradient_accumulation(tmp_path: Path, late: bool) -> None:
    """Gradients of half a window are saved: a stop between two updates changes no bit.

    Trap: PI and PA count a batch whose update was not applied.
    """

    def step(engine: Any, batch: Any, model: Any, optimizer: Any) -> Any:
        iteration = engine.state.iteration
        if late and iteration % 3 == 1:
            optimizer.zero_grad()
        loss = (model(batch[0]) - torch.rand(())).square().mean()
        loss.backward()
        if iteration % 3 == 0:
            optimizer.step()
            if not late:
                optimizer.zero_grad()
        return {"loss": loss}

    assert_exact(tmp_path, [1, 2, 3, 4, 8], step=step)


def test_terminated_by_a_handler(tmp_path: Path) -> None:
    """engine.terminate() completes the run where it is: saved, and finished at the next start."""

    def attach(trainer: Any, evaluator: Any, model: Any) -> None:
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=6), lambda e: e.terminate())

    run = Small(tmp_path, attach=attach)
    result = run.train()
    assert (result.status, result.iteration, result.epoch) == ("completed", 6, 2)
    assert checkpoint(tmp_path)[0] == "iteration-00000006-final"
    assert run.train() == result


def test_ended_by_a_handler_without_completion(tmp_path: Path) -> None:
    """engine.terminate(skip_completed=True) loses nothing that was trained."""

    def attach(trainer: Any, evaluator: Any, model: Any) -> None:
        def end(engine: Any) -> None:
            engine.terminate(skip_completed=True)

        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=6), end)

    result = Small(tmp_path, attach=attach).train()
    assert (result.status, result.iteration) == ("completed", 6)
    assert checkpoint(tmp_path)[0] == "iteration-00000006-final"


@pytest.mark.parametrize("how", ["interrupt", "terminate_epoch"])
def test_ways_out_that_would_lose_the_position(tmp_path: Path, how: str) -> None:
    """ignite's ways to pause and to cut an epoch short are refused, naming what to use instead."""

    def attach(trainer: Any, evaluator: Any, model: Any) -> None:
        def end(engine: Any) -> None:
            getattr(engine, how)()

        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=6), end)

    with pytest.raises(UsageError, match=how):
        Small(tmp_path, attach=attach).train()


@pytest.mark.parametrize("setting", ["max_epochs", "max_iterations"])
def test_longer_later(tmp_path: Path, setting: str) -> None:
    """A run made longer, twice, ends as one that was that long from the start.

    Trap: --max-epochs is ignored on resume, so a finished run cannot be extended (PI).
    """
    given: dict[str, Any] = {"max_epochs": None, "log_every": 5}
    straight, longer = Small(tmp_path / "straight"), Small(tmp_path / "longer")
    lengths = (1, 2, 3) if setting == "max_epochs" else (6, 7, 11)
    straight.train(**given | {setting: lengths[-1]})
    for length in lengths:
        longer.train(**given | {setting: length})
    (name, state), (other_name, other) = (checkpoint(r.run_dir) for r in (straight, longer))
    assert name == other_name
    assert torch.equal(state["state"]["model"]["weight"], other["state"]["model"]["weight"])
    assert state["rank"]["loader"] == other["rank"]["loader"]


def test_shorter_later(tmp_path: Path) -> None:
    """A finished run asked to be shorter is finished, and stays as it is."""
    run = Small(tmp_path)
    result = run.train()
    assert run.train(max_epochs=1) == result


def test_stop_in_mid_epoch_is_told_as_such(tmp_path: Path) -> None:
    """A stop in the second epoch is saved and reported as that, not as a whole epoch.

    Trap: AR and HE report a stop in mid-epoch as a whole epoch.
    """
    result = Small(tmp_path).train(stop_at=6)
    assert (result.status, result.iteration, result.epoch) == ("interrupted", 6, 2)
    assert result.signal == signal.SIGTERM
    assert checkpoint(tmp_path)[0] == "iteration-00000006"


def refused(tmp_path: Path, match: str, **how: Any) -> None:
    """Training is refused with a message."""
    settings = how.pop("settings", {})
    with pytest.raises(UsageError, match=match):
        Small(tmp_path, **how).train(**settings)


def test_steps_output(tmp_path: Path) -> None:
    """A step that returns no dict, or lacks a metric's key, is told so with what it returned."""
    refused(
        tmp_path / "a",
        "the step returned float, not a dict",
        step=lambda *_: 0.5,
    )
    refused(
        tmp_path / "b",
        "output lacks 'loss', which metric 'loss' reads; it holds 'lost'",
        step=lambda *_: {"lost": 0.5},
    )


def test_no_batches(tmp_path: Path) -> None:
    """A loader without batches is refused before training, or where it first gives none."""
    empty = DataLoader(TensorDataset(torch.zeros(2, 2)), batch_size=3, drop_last=True)
    refused(tmp_path / "a", "loader is empty: it has no batches", loader=empty)
    once = iter([[torch.zeros(3, 2)]])
    refused(tmp_path / "b", "cannot tell its length", loader=once)
    refused(tmp_path / "c", "used up", loader=once, settings={"epoch_length": 2})


@pytest.mark.parametrize("to_save", [{}, {"model": 3}])
def test_nothing_to_save(tmp_path: Path, to_save: Any) -> None:
    """An empty to_save, or an object without a state, is refused.

    Trap: to_save={} silently breaks the resume (PI).
    """
    from igniter import RunSpec, train

    spec = RunSpec(step=lambda *_: {}, loader=points_loader())
    with pytest.raises(UsageError, match="to_save"):
        train(to_save=to_save, train_spec=spec, output_dir=tmp_path, mlflow=False)


def nan_step(at: int) -> Any:
    """A step whose loss, and update, is NaN at an iteration."""

    def step(engine: Any, batch: Any, model: Any, optimizer: Any) -> Any:
        output = plain_step(engine, batch, model, optimizer)
        if engine.state.iteration == at:
            with torch.no_grad():
                model.weight[0, 0] = float("nan")
            output["loss"] = torch.tensor(float("nan"))
        return output

    return step


def test_nan_stops(tmp_path: Path) -> None:
    """A NaN loss stops the run, and the last good checkpoint is the newest.

    Trap: NaN passes silently (AR).
    """
    with pytest.raises(NonFiniteError, match="train/loss is nan at iteration 6"):
        Small(tmp_path, step=nan_step(6)).train(log_every=1)
    name, state = checkpoint(tmp_path)
    assert name == "iteration-00000004"
    assert torch.isfinite(state["state"]["model"]["weight"]).all()


def test_nan_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With on_nan="warn" training goes on to its end, and a NaN state is still never saved."""
    result = Small(tmp_path, step=nan_step(6)).train(log_every=1, on_nan="warn")
    assert result.status == "completed"
    assert "train/loss is nan at iteration 6" in capsys.readouterr().err
    assert checkpoint(tmp_path)[0] == "iteration-00000004"


def test_handlers_of_a_run_do_not_pile_up(tmp_path: Path) -> None:
    """Training twice in one process runs each handler of the second once.

    Trap: handlers accumulate per run (HE).
    """
    seen: list[int] = []

    def attach(trainer: Any, evaluator: Any, model: Any) -> None:
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: seen.append(1))

    Small(tmp_path / "a", attach=attach).train(max_epochs=1)
    Small(tmp_path / "b", attach=attach).train(max_epochs=1)
    assert len(seen) == 8


def test_errors_of_handlers_are_raised(tmp_path: Path) -> None:
    """An AttributeError inside a callback or a handler is not swallowed, as it is by PA."""

    def attach(trainer: Any, evaluator: Any, model: Any) -> None:
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda e: e.state.metrics.no_such_name)

    with pytest.raises(AttributeError, match="no_such_name"):
        Small(tmp_path, attach=attach).train()
