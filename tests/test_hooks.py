"""Callback objects: attached by their methods, saved by themselves, named in errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support import Small, assert_same_run, checkpoint, plain_eval_step

from igniter.engine import Events
from igniter.errors import UsageError


class Notes:
    """Writes down its hooks, and saves what it wrote."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.lines: list[str] = []

    def attach(self, trainer: Any) -> None:
        """Through ignite's own events, too."""
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: self.lines.append("by ignite"))

    def on_training_start(self, trainer: Any) -> None:
        """Before anything."""
        self.lines.append(f"start {sorted(trainer.objects)[-2:]}")

    def on_batch_end(self, trainer: Any, batch: Any, output: Any) -> None:
        """After a step."""
        self.lines.append(f"{trainer.state.iteration} {len(batch[0])} {sorted(output)}")

    def on_epoch_end(self, trainer: Any, epoch: int) -> None:
        """After an epoch."""
        self.lines.append(f"epoch {epoch} of {trainer.length.total // trainer.length.epoch}")

    def on_validation_end(
        self, trainer: Any, cycle: int, name: str, metrics: Mapping[str, float]
    ) -> None:
        """After an evaluation."""
        self.lines.append(f"{name} {cycle} {sorted(metrics)} {trainer.run_dir.name}")

    def state_dict(self) -> dict[str, Any]:
        """The lines."""
        return {"lines": self.lines}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on."""
        self.lines = state["lines"]


class Stateless(Notes):
    """The same, but nothing of it is saved."""

    state_dict = load_state_dict = None  # type: ignore[assignment]


def small(run_dir: Path, *callbacks: Any, **how: Any) -> Small:
    """A run with these."""
    return Small(
        run_dir, eval_step=plain_eval_step, spec=lambda: {"callback": list(callbacks)}, **how
    )


def test_each_hook_once_over_all_attempts(tmp_path: Path) -> None:
    """What hooks write down is as if there had been no stop; two of one class are two."""
    first, second = Notes("first"), Notes("second")
    small(tmp_path / "straight" / "run", first, second).train()
    for stop in (3, 4, 9):
        small(tmp_path / "stopped" / "run", Notes(), Notes()).train(stop_at=stop)
    small(tmp_path / "stopped" / "run", Notes(), Notes()).train()
    assert_same_run(tmp_path / "straight/run", tmp_path / "stopped/run")
    _, state = checkpoint(tmp_path / "stopped/run")
    assert state["state"]["callbacks/Notes"]["lines"] == first.lines
    assert state["state"]["callbacks/Notes-2"]["lines"] == second.lines
    assert first.lines[:6] == [
        "start ['model', 'optimizer']",
        "1 3 ['loss']",
        "2 3 ['loss']",
        "3 3 ['loss']",
        "4 1 ['loss']",
        "eval 1 ['eval/loss'] run",
    ]
    assert first.lines[6:8] == ["by ignite", "epoch 1 of 3"]


def test_without_its_state_it_begins_anew(tmp_path: Path) -> None:
    """The control: an object without state_dict knows of its own attempt only."""
    small(tmp_path, Stateless()).train(stop_at=7)
    last = Stateless()
    small(tmp_path, last).train()
    assert last.lines[0] == "8 1 ['loss']"


def test_an_error_says_whose_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An error in a callback ends training under its name, even an AttributeError.

    Trap: an AttributeError inside a callback is swallowed (PA).
    """

    class Failing:
        def on_epoch_end(self, trainer: Any, epoch: int) -> None:
            trainer.no_such_thing()

    with pytest.raises(AttributeError, match="no_such_thing") as raised:
        small(tmp_path, Failing()).train()
    assert raised.value.__notes__ == ["raised in Failing.on_epoch_end"]
    assert "(AttributeError, raised in Failing.on_epoch_end)" in capsys.readouterr().err


def test_callbacks_come_and_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One may be added to a stopped run, or taken away; that is said."""
    small(tmp_path, Notes()).train(stop_at=3)
    small(tmp_path).train(stop_at=5)
    assert "holds callbacks/Notes, which is not here any more" in capsys.readouterr().err
    again = Notes()
    small(tmp_path, again).train()
    assert "has nothing of callbacks/Notes, which begins anew here" in capsys.readouterr().err
    assert again.lines[0] == "6 3 ['loss']"


def test_the_order_is_shown_to_developers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--progress debug says who is called at each event, in the order given."""

    def attach(engine: Any, trainer: Any) -> None:
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: None)

    small(tmp_path, Notes(), attach, Notes()).train(progress="debug")
    lines = capsys.readouterr().out.splitlines()
    found = next(line for line in lines if line.startswith("train ITERATION_COMPLETED: "))
    names = found.removeprefix("train ITERATION_COMPLETED: ").split(", ")
    lamb = "test_the_order_is_shown_to_developers.<locals>.attach.<locals>.<lambda>"
    assert names == ["Notes.on_batch_end", lamb, "Notes-2.on_batch_end"]


def test_a_batch_can_be_replaced(tmp_path: Path) -> None:
    """A handler of GET_BATCH_COMPLETED draws with the step, and its batch is what the step gets."""

    class Noise:
        def on_batch_start(self, trainer: Any, batch: Any) -> None:
            import torch

            trainer.state.batch = [batch[0] + torch.rand(1)]

    small(tmp_path / "straight", Noise()).train()
    for stop in (3, 4, 9):
        small(tmp_path / "stopped", Noise()).train(stop_at=stop)
    small(tmp_path / "stopped", Noise()).train()
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")
    small(tmp_path / "plain").train()
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "plain", tmp_path / "straight")


@pytest.mark.parametrize("keep", [True, False])
def test_a_checkpoint_can_be_asked_for(keep: bool, tmp_path: Path) -> None:
    """At the safe point of the iteration at work; to be kept it outlasts those that come later."""

    class Asking:
        def on_batch_end(self, trainer: Any, batch: Any, output: Any) -> None:
            if trainer.state.iteration == 2:
                trainer.save_checkpoint(keep=keep)

    settings = {"save_every": "3 iterations", "keep_last": 1}
    small(tmp_path, Asking()).train(stop_at=2, **settings)
    assert checkpoint(tmp_path)[0] == "iteration-00000002"
    small(tmp_path, Asking()).train(stop_at=8, **settings)
    small(tmp_path, Asking()).train(**settings)
    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("iteration-*"))
    assert names == ["iteration-00000002"] * keep + ["iteration-00000012-final"]


def test_what_is_no_hook(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A method named as another trainer's hook is warned of, with ours; what is none is refused."""

    class FromElsewhere:
        def on_epoch_end(self, trainer: Any, epoch: int) -> None:
            """One of ours."""

        def on_train_start(self, trainer: Any) -> None:
            """Lightning's."""

    class Theirs:
        on_train_start = FromElsewhere.on_train_start

    def train(callback: Any) -> None:
        Small(tmp_path, spec=lambda: {"callback": [callback]}).train(progress="plain")

    train(FromElsewhere())
    told = "FromElsewhere.on_train_start is no hook: igniter does not call it; the nearest is 'on_"
    assert told in capsys.readouterr().err
    with pytest.raises(UsageError, match="the callback Theirs has none of the hooks"):
        train(Theirs())
    with pytest.raises(UsageError, match="the callback FromElsewhere is a class; give an object"):
        train(FromElsewhere)


def test_the_first_error_is_the_one_that_is_raised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What on_attempt_end raises after an error is told beside it; after none it is the error."""

    class Failing:
        def __init__(self, fails_before: bool) -> None:
            self.fails_before = fails_before

        def on_epoch_end(self, trainer: Any, epoch: int) -> None:
            if self.fails_before:
                raise ValueError("first")

        def on_attempt_end(self, trainer: Any) -> None:
            raise KeyError("second")

    with pytest.raises(ValueError, match="first"):
        small(tmp_path / "a", Failing(True)).train()
    assert "KeyError: 'second' (raised in Failing.on_attempt_end)" in capsys.readouterr().err
    with pytest.raises(KeyError, match="second"):
        small(tmp_path / "b", Failing(False)).train()
