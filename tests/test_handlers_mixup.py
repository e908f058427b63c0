"""Mixup and CutMix: what the step gets, as torchvision makes it, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from handled import Part, attempt
from support import differing
from torch.nn.functional import one_hot

from igniter.errors import UsageError
from igniter.handlers import CutMix, Mixup

KINDS = [Mixup, CutMix]


def mixed(mixing: Any, batch: Any, seed: int = 0) -> Any:
    """What a step gets for ``batch``."""
    torch.manual_seed(seed)
    trainer: Any = SimpleNamespace(state=SimpleNamespace(batch=batch))
    mixing.on_batch_start(trainer, batch)
    return trainer.state.batch


def batch_of(count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Images N x 2 x 8 x 6 of one value each, and classes."""
    inputs = torch.arange(1.0, count + 1).reshape(-1, 1, 1, 1).expand(-1, 2, 8, 6).contiguous()
    return inputs, torch.arange(count) % 3


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("kind", KINDS)
def test_shares(kind: Any, alpha: float) -> None:
    """Targets are shares of two neighbours' classes, and inputs are mixed in the same shares."""
    drawn = set()
    for seed in range(20):
        inputs, targets = mixed(kind(alpha, num_classes=3), batch_of(), seed)
        share = float(targets[1, 1])  # its own class, that of the one before is 0
        drawn.add(share)
        assert float(targets[1, 0]) == pytest.approx(1 - share)
        assert targets.shape == (4, 3)
        # Of values 1, 2, 3, 4 the second is mixed with the first.
        assert float(inputs[1].mean()) == pytest.approx(2 * share + 1 * (1 - share), rel=1e-5)
        assert len(inputs[1].unique()) == (1 if kind is Mixup or share in (0.0, 1.0) else 2)
    assert len(drawn) > 5


@pytest.mark.parametrize("classes", ["indices", "shares"])
@pytest.mark.parametrize("kind", KINDS)
def test_as_torchvision(kind: Any, classes: str) -> None:
    """Where torchvision is installed, its own transforms give the same bits from the same seed."""
    v2 = pytest.importorskip("torchvision.transforms.v2")
    theirs = {Mixup: v2.MixUp, CutMix: v2.CutMix}[kind]
    for seed in range(50):
        torch.manual_seed(seed)
        batch = torch.rand(5, 3, 9, 7), torch.randint(3, (5,))
        if classes == "shares":
            batch = batch[0], one_hot(batch[1], 3).float()
        own = mixed(kind(0.7, num_classes=3), batch, seed)
        torch.manual_seed(seed)
        assert differing(own, tuple(theirs(alpha=0.7, num_classes=3)(*batch))) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_loaders_batch_is_left_alone(kind: Any) -> None:
    """What is mixed is a copy, and a list stays a list."""
    batch = list(batch_of())
    before = [part.clone() for part in batch]
    assert isinstance(mixed(kind(num_classes=3), batch), list)
    assert differing(batch, before) == []


def test_evaluations_are_not_mixed(tmp_path: Path) -> None:
    """Steps of the training alone get mixed batches."""
    kinds = []

    class Look:
        def on_batch_end(self, trainer: Any, batch: Any, output: Any) -> None:
            kinds.append(("train", batch[1].ndim))

        def on_validation_batch_end(self, trainer: Any, batch: Any, output: Any) -> None:
            kinds.append(("eval", batch[1].ndim))

    attempt(tmp_path, lambda: Part([Mixup(num_classes=3), Look()]))
    assert set(kinds) == {("train", 2), ("eval", 1)}


@pytest.mark.parametrize(
    ("kind", "batch", "message"),
    [
        (Mixup, torch.ones(2, 3), "no pair of tensors"),
        (Mixup, {"inputs": 1}, "no pair of tensors"),
        (Mixup, (torch.ones(2, 3), [0, 1]), "no pair of tensors"),
        (Mixup, (torch.ones(2, 3, dtype=torch.uint8), torch.tensor([0, 1])), "torch.uint8, not"),
        (Mixup, (torch.ones(2, 3), torch.tensor([0.5, 1.0])), r"targets have shape \(2,\)"),
        (CutMix, (torch.ones(2, 3), torch.tensor([0, 1])), r"shape \(2, 3\) are no images"),
    ],
)
def test_what_cannot_be_mixed(kind: Any, batch: Any, message: str) -> None:
    """Batches of another form are refused with what they are."""
    with pytest.raises(UsageError, match=message):
        mixed(kind(num_classes=3), batch)


def test_arguments_that_cannot_be() -> None:
    """Class indices need the number of classes, and alpha is above 0."""
    with pytest.raises(UsageError, match="give num_classes"):
        mixed(Mixup(), batch_of())
    with pytest.raises(UsageError, match="above 0"):
        CutMix(0.0)
