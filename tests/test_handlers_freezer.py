"""Freezer: what trains when, what the optimizer holds, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from handled import BUILT, Part, attempt, module_of
from support import differing
from torch import nn

from igniter.errors import CheckpointMismatch, UsageError
from igniter.handlers import Freezer


class Trained:
    """Keeps in which iterations the weights of layers 1 and 4 changed."""

    def __init__(self) -> None:
        self.of: dict[int, list[int]] = {1: [], 4: []}
        self._before: dict[int, torch.Tensor] = {}

    def on_batch_end(self, trainer: Any, batch: Any, output: Any) -> None:
        """Compare them with those of the iteration before."""
        for layer, iterations in self.of.items():
            now = trainer.objects["model"][layer].weight.detach().clone()
            if layer not in self._before or differing(now, self._before[layer]):
                iterations.append(trainer.state.iteration)
            self._before[layer] = now


def head_only(model: nn.Sequential) -> torch.optim.Optimizer:
    """An optimizer that lacks layer 1."""
    return torch.optim.SGD(model[2:].parameters(), 0.05, momentum=0.9)


@pytest.mark.parametrize(
    ("how", "trained"),
    [
        ({"until": 5}, [1, *range(6, 13)]),
        ({"until": "1 epoch"}, [1, *range(5, 13)]),
        ({"after": "1 epoch"}, [1, 2, 3, 4]),
        ({"after": 3, "until": "2 epochs"}, [1, 2, 3, *range(9, 13)]),
        ({}, [1]),
        ({"until": "end"}, [1]),
    ],
)
def test_when_layers_train(how: dict[str, Any], trained: list[int], tmp_path: Path) -> None:
    """A frozen layer stays as it is, from the moment on and until the moment that were given.

    Trap: swapped flags freeze nothing (PA). Iteration 1 is where the comparison begins.
    """
    seen = Trained()
    attempt(tmp_path, lambda: Part([Freezer("model.1", **how), seen]))
    assert seen.of == {1: trained, 4: list(range(1, 13))}


def test_gradients_that_wait_are_not_used(tmp_path: Path) -> None:
    """A layer that freezes in mid-accumulation is not stepped by what has gathered."""
    seen = Trained()
    attempt(tmp_path, lambda: Part([Freezer("model.1", after=5, until=10), seen], accumulate=4))
    assert seen.of == {1: [1, 4, 12], 4: [1, 4, 8, 12]}


@pytest.mark.parametrize("keep", [True, False])
def test_frozen_batch_norm(keep: bool, tmp_path: Path) -> None:
    """Its statistics stay on request, though the step calls ``train()``; else they move."""
    build = lambda: Part([Freezer("model.2", until=6, eval_batch_norm=keep)])  # noqa: E731
    attempt(tmp_path, build, 6)
    assert int(module_of(tmp_path)["2.num_batches_tracked"]) == (0 if keep else 6)
    attempt(tmp_path, build)
    assert int(module_of(tmp_path)["2.num_batches_tracked"]) == (6 if keep else 12)
    assert BUILT[0][2].training


def test_layers_are_added_to_the_optimizer(tmp_path: Path) -> None:
    """Those that it lacks form a group of their own when they begin to train."""
    seen = Trained()
    freezer = Freezer("model.1", until=4, learning_rate=0.001)
    attempt(tmp_path, lambda: Part([freezer, seen], trained=head_only))
    assert seen.of[1] == [1, *range(5, 13)]
    assert [group["lr"] for group in BUILT[1].param_groups] == [0.05, 0.001]
    assert [len(group["params"]) for group in BUILT[1].param_groups] == [4, 2]


def test_what_was_frozen_before_stays_so(tmp_path: Path) -> None:
    """A parameter that the script has frozen is not trained by a Freezer that ends."""

    def frozen_bias(model: nn.Sequential) -> torch.optim.Optimizer:
        model[1].bias.requires_grad_(False)
        return torch.optim.SGD(model.parameters(), 0.05)

    for stop in (3, None):
        attempt(tmp_path, lambda: Part([Freezer("model.1", until=5)], trained=frozen_bias), stop)
    assert not BUILT[0][1].bias.requires_grad
    assert BUILT[0][1].weight.requires_grad


@pytest.mark.parametrize("stop", [4, None])
def test_nothing_is_left_behind(stop: int | None, tmp_path: Path) -> None:
    """When an attempt ends, by a stop, an error or its end, no module has a hook of ours."""

    def break_down(iteration: int, output: Any) -> None:
        if iteration == 3:
            raise ArithmeticError("broken")

    build = lambda: Part([Freezer("model.2", eval_batch_norm=True)])  # noqa: E731
    attempt(tmp_path / "a", build, stop)
    assert not BUILT[0][2]._forward_pre_hooks
    with pytest.raises(ArithmeticError):
        attempt(tmp_path / "b", build, spoil=break_down)
    assert not BUILT[0][2]._forward_pre_hooks


def scheduled(model: nn.Sequential) -> torch.optim.Optimizer:
    """An optimizer that lacks layer 1, whose rates a scheduler sets."""
    optimizer = head_only(model)
    BUILT.append(torch.optim.lr_scheduler.StepLR(optimizer, 3))
    return optimizer


@pytest.mark.parametrize(
    ("freezers", "trained", "message"),
    [
        ([Freezer("model.first")], None, r"'model.first'\): no parameter .* nearest name is model"),
        ([Freezer("net")], None, r"Freezer\('net'\): no parameter of to_save"),
        ([Freezer("model.1", "model.9")], None, r"Freezer\('model.9'\): no parameter"),
        ([Freezer("model"), Freezer("model.1")], None, r"two Freezers have 'model(.1)?' and"),
        ([Freezer("model", after=3, until=3)], None, r"until=3 is not later than after=3"),
        ([Freezer("model", until="1 hour")], None, r"'1 hour' is a time"),
        ([Freezer("model", until=-1)], None, r"-1 is no moment of a run"),
        ([Freezer("model.1", learning_rate=0.1)], None, r"learning_rate would not be used"),
        (
            [Freezer("model.1", optimizer="other")],
            head_only,
            r"cannot be told which is to have them; there is optimizer",
        ),
    ],
)
def test_what_cannot_be(
    freezers: list[Freezer], trained: Callable[..., Any] | None, message: str, tmp_path: Path
) -> None:
    """What would freeze nothing, or could not be done later, is refused before training."""
    with pytest.raises(UsageError, match=message):
        attempt(tmp_path, lambda: Part(freezers, trained=trained))


def test_a_scheduler_knows_no_group_that_comes_later(tmp_path: Path) -> None:
    """Layers are not added to an optimizer whose scheduler could not set their rates."""

    def build() -> Part:
        return Part([Freezer("model.1", until=4)], trained=scheduled)

    with pytest.raises(UsageError, match=r"while the scheduler \w+ sets its rates"):
        attempt(tmp_path, build, also=lambda: {"scheduler": BUILT[2]})


def test_other_layers_at_the_checkpoint(tmp_path: Path) -> None:
    """Freezers that have exchanged their layers since the checkpoint are refused."""
    attempt(tmp_path, lambda: Part([Freezer("model.1"), Freezer("model.4", after=8)]), 3)
    with pytest.raises(CheckpointMismatch, match=r"it had frozen model.1.weight, model.1.bias"):
        attempt(tmp_path, lambda: Part([Freezer("model.4", after=8), Freezer("model.1")]))


def test_nothing_to_freeze() -> None:
    """A Freezer of no layer is refused."""
    with pytest.raises(UsageError, match="name layers"):
        Freezer()
