"""find_learning_rate: what it finds, and that it leaves everything as it was."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from handled import images, network
from support import differing
from torch.nn.functional import cross_entropy

from igniter.errors import UsageError
from igniter.handlers import find_learning_rate


class Subject:
    """A model with an optimizer that has a state, gradients and a mode of its own."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = network()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        for _ in range(2):
            self.step(None, next(iter(images())))
        self.model[2].eval()
        self.calls = 0

    def step(self, engine: Any, batch: Any) -> dict[str, Any]:
        """The ordinary step."""
        self.calls = getattr(self, "calls", 0) + 1
        loss = cross_entropy(self.model(batch[0]), batch[1])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss}

    def state(self) -> dict[str, Any]:
        """All that could change."""
        return copy.deepcopy(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "gradients": [p.grad for p in self.model.parameters()],
                "modes": [part.training for part in self.model.modules()],
                "attributes": sorted(vars(self.optimizer)),
                "generators": (torch.get_rng_state(), random.getstate()),
            }
        )

    def find(self, **how: Any) -> Any:
        """Run the range test."""
        given: dict[str, Any] = {
            "step": self.step,
            "loader": images(),
            "to_save": {"model": self.model, "optimizer": self.optimizer},
            "device": "cpu",
        }
        return find_learning_rate(**{**given, **how})


def test_a_rate_is_suggested() -> None:
    """Rates rise by a constant factor, and one of them is suggested."""
    found = Subject().find(start=1e-4, end=10.0, iterations=40)
    assert found.rates[0] == pytest.approx(1e-4, rel=0.4)
    factors = [b / a for a, b in zip(found.rates, found.rates[1:], strict=False)]
    assert min(factors) == pytest.approx(max(factors))
    assert found.suggestion in found.rates
    assert len(found.losses) == len(found.rates) <= 40


def test_everything_is_as_it_was() -> None:
    """Weights, optimizer, gradients, modes and generators are bit for bit as before."""
    subject = Subject()
    before = subject.state()
    subject.find(iterations=20)
    assert subject.calls > 10
    assert differing(before, subject.state()) == []
    subject.step(None, next(iter(images())))
    assert differing(before, subject.state()) != []


def test_everything_is_as_it_was_after_an_error() -> None:
    """An error in the step, which comes through, changes nothing either."""
    subject = Subject()

    def step(engine: Any, batch: Any) -> Any:
        if subject.calls == 9:
            raise ArithmeticError("broken")
        return subject.step(engine, batch)

    before = subject.state()
    with pytest.raises(ArithmeticError, match="broken"):
        subject.find(step=step)
    assert subject.calls == 9
    assert differing(before, subject.state()) == []


def test_a_loss_of_nan_ends_it() -> None:
    """Where the loss is NaN the test ends as where it is too high."""
    subject = Subject()

    def step(engine: Any, batch: Any) -> Any:
        output = subject.step(engine, batch)
        return {"loss": torch.tensor(float("nan"))} if subject.calls > 12 else output

    found = subject.find(step=step, iterations=60)
    assert len(found.losses) == 13


def test_a_flat_loss_suggests_nothing() -> None:
    """Where the loss never falls there is no suggestion."""
    subject = Subject()
    found = subject.find(step=lambda engine, batch: {"loss": 1.0}, iterations=5)
    assert found.suggestion is None
    assert found.losses == [1.0] * 5


def test_several_groups() -> None:
    """All parameter groups have the same rates, and their own again afterwards."""
    subject = Subject()
    parameters = list(subject.model.parameters())
    subject.optimizer = torch.optim.SGD(
        [{"params": parameters[:2], "lr": 0.3}, {"params": parameters[2:]}], lr=0.1
    )
    found = subject.find(iterations=10)
    assert all(isinstance(rate, float) for rate in found.rates)
    assert [group["lr"] for group in subject.optimizer.param_groups] == [0.3, 0.1]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"optimizer": "other"}, r"no optimizer 'other'"),
        ({"optimizer": "model"}, r"no optimizer 'model'"),
        ({"start": 1.0, "end": 0.1}, r"no 100 steps from 1.0 to 0.1"),
        ({"iterations": 0}, r"no 0 steps"),
        ({"loader": []}, r"the loader is empty"),
    ],
)
def test_what_cannot_be(how: dict[str, Any], message: str) -> None:
    """Wrong arguments are refused."""
    with pytest.raises(UsageError, match=message):
        Subject().find(**how)
