"""What a step uses and no checkpoint would hold is found."""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import Small
from torch import nn

from igniter.closures import unsaved, used

MODEL = nn.Linear(1, 1)


def uses_a_global(engine: Any, batch: Any) -> Any:
    """A step that finds its model in the module."""
    return MODEL(batch)


def test_found_wherever_it_hides() -> None:
    """In the closure, globals, defaults, partials, methods, and functions that the step calls."""
    ema, extra = nn.Linear(1, 1), nn.Linear(1, 1)

    def helper(value: Any) -> Any:
        return ema(value)

    def step(engine: Any, batch: Any, other: Any = extra) -> Any:
        return helper(batch)

    class Trainer:
        def __init__(self) -> None:
            self.model = nn.Linear(1, 1)

        def step(self, engine: Any, batch: Any) -> Any:
            return self.model(batch)

        def __call__(self, engine: Any, batch: Any) -> Any:
            return self.step(engine, batch)

    assert list(unsaved(uses_a_global, [])) == ["MODEL"]
    assert {id(value) for value in unsaved(step, []).values()} == {id(ema), id(extra)}
    trainer = Trainer()
    assert list(unsaved(trainer.step, []).values()) == [trainer.model]
    partial = functools.partial(lambda model, engine, batch: model(batch), ema)
    assert list(unsaved(partial, []).values()) == [ema]


def test_callable_object() -> None:
    """A step that is an object with state in its attributes."""

    class Step:
        def __init__(self) -> None:
            self.model = nn.Linear(1, 1)

        def __call__(self, engine: Any, batch: Any) -> Any:
            return self.model(batch)

    step = Step()
    assert list(unsaved(step, []).values()) == [step.model]
    assert unsaved(step, [step.model]) == {}


def test_what_is_saved_or_has_no_state() -> None:
    """Nothing is said of a saved object, a part of one, a compiled one, or one without state."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    part, loss, names = model[0], nn.MSELoss(), SimpleNamespace(x=1)
    wrapped = SimpleNamespace(_orig_mod=model)

    def step(engine: Any, batch: Any) -> Any:
        return loss(part(batch), wrapped(batch)), names, torch

    assert unsaved(step, [model]) == {}
    assert list(unsaved(step, [nn.Linear(1, 1)])) != []


def test_recursion_ends() -> None:
    """Functions that call each other are looked into once."""

    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    assert unsaved(even, []) == {}


def test_named_at_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training begins with a warning that names the object, and how to save it."""
    scheduler = torch.optim.lr_scheduler.StepLR(torch.optim.SGD(MODEL.parameters()), 1)

    def step(engine: Any, batch: Any) -> Any:
        return {"loss": scheduler.get_last_lr()[0]}

    Small(tmp_path, spec=lambda: {"step": step}).train(max_epochs=1)
    text = capsys.readouterr().err
    assert "uses scheduler (StepLR), whose state is not in to_save" in text


def test_everything_used_is_listed() -> None:
    """What a step uses is listed by name, state or none, with what objects of the user's keep."""
    count, keeper = 0, SimpleNamespace(model=nn.Linear(1, 1), rate=0.5)

    def step(engine: Any, batch: Any) -> Any:
        nonlocal count
        count += 1
        return keeper.model(batch) * keeper.rate

    found = dict(used(step))
    assert found["count"] == 0
    assert found["keeper.model"] is keeper.model
    assert found["keeper.rate"] == 0.5


def test_a_saved_object_answers_for_its_parts() -> None:
    """A model that a saved object holds is saved; one that it does not hold is not."""
    keeper = SimpleNamespace(model=nn.Linear(1, 1))
    other = nn.Linear(1, 1)

    def step(engine: Any, batch: Any) -> Any:
        return other(keeper.model(batch))

    assert list(unsaved(step, [keeper])) == ["other"]
    assert set(unsaved(step, [])) == {"other", "keeper.model"}
