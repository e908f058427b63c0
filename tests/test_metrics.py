"""Averages over samples, and the metrics of ignite and torchmetrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ignite.metrics
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Small, assert_exact, bits, plain_step, points, points_loader
from torch.utils.data import DataLoader, TensorDataset

from igniter.average import Average, samples_in
from igniter.errors import UsageError
from igniter.metrics import accumulated

CPU = torch.device("cpu")


def test_mean_over_samples(tmp_path: Path) -> None:
    """A short last batch counts for what it holds: 2.6 where the mean of batch means is 5.0.

    Trap: AR and PI give the mean of batch means.
    """
    values = torch.tensor([2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 8.0])
    loader = DataLoader(TensorDataset(values), batch_size=9)

    def step(engine: Any, batch: Any, model: Any, optimizer: Any) -> Any:
        return {"loss": batch[0].mean(), "each": batch[0], "number": float(batch[0].mean())}

    metrics = {"loss": "loss", "each": "each", "number": "number"}
    run = Small(tmp_path, step=step, loader=loader, spec=lambda: {"metrics": metrics})
    result = run.train(max_epochs=1)
    assert (2 + 8) / 2 == 5.0
    for name in metrics:
        assert result.metrics[f"train/{name}"] == pytest.approx(2.6, abs=1e-12)
        assert result.metrics[f"train/{name}_epoch"] == pytest.approx(2.6, abs=1e-12)


def test_run_under_a_hundred_iterations_logs(tmp_path: Path) -> None:
    """A short run logs its metrics, with every digit, also a learning rate of 3e-6.

    Traps: a run under 100 iterations logs nothing; 3e-6 is logged as 0.0 (PI).
    """

    def step(engine: Any, batch: Any, model: Any, optimizer: Any) -> Any:
        return {**plain_step(engine, batch, model, optimizer), "lr": 3.0000001e-6}

    metrics = {"metrics": {"loss": "loss", "lr": "lr"}}

    result = Small(tmp_path, step=step, spec=lambda: metrics).train(max_iterations=3)
    logged = {name: float(value) for _, name, value in points(tmp_path)}
    assert logged["train/lr"] == pytest.approx(3.0000001e-6, rel=1e-15)
    assert logged == {**result.metrics, "lr": 0.01, "epoch": 0.75}


def test_gradient_is_not_kept() -> None:
    """A loss that is averaged does not hold on to its graph."""
    average = Average()
    weight = torch.ones(1, requires_grad=True)
    average.update((weight * 2).sum(), 1)
    assert average.compute() == 2.0
    held = average.state_dict()["block"]
    assert held is not None
    assert not held.requires_grad


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 150), mark=st.integers(0, 150), half=st.booleans())
def test_average_resumed_anywhere(cut: int, mark: int, half: bool) -> None:
    """An average saved and loaded after any update goes on to the same bits.

    Trap: running averages are wrong after a resume (HE).
    """
    generator = torch.Generator().manual_seed(cut)
    dtype = torch.float16 if half else torch.float32
    values = [torch.rand((), generator=generator).to(dtype) for _ in range(150)]
    straight, stopped = Average(), Average()
    for number, value in enumerate(values):
        straight.update(value, number % 5 + 1)
        stopped.update(value, number % 5 + 1)
        if number == mark:
            straight.mark()
            stopped.mark()
        if number == cut:
            stopped.compute()
            state = stopped.state_dict()
            stopped = Average()
            stopped.load_state_dict(state)
    assert bits(straight.compute()) == bits(stopped.compute())
    assert bits(straight.window()) == bits(stopped.window())
    expected = sum(float(v) * (n % 5 + 1) for n, v in enumerate(values)) / (30 * 15)
    assert straight.compute() == pytest.approx(expected)


def test_nothing_counted() -> None:
    """An average of no samples is no number, rather than 0 or NaN."""
    average = Average()
    assert average.compute() is None
    assert average.window() is None
    average.update(torch.zeros(0), 0)
    assert average.compute() is None


@pytest.mark.parametrize(
    ("batch", "output", "given", "samples"),
    [
        (torch.zeros(3, 2), {}, None, 3),
        ({"text": ["a", "b"], "ids": torch.zeros(2, 5)}, {}, None, 2),
        ([["a"], (torch.zeros(4), torch.zeros(9))], {}, None, 4),
        (torch.tensor(1.0), {}, None, 1),
        ("text", {}, None, 1),
        ([["a"], np.zeros((4, 9)), torch.zeros(5)], {}, None, 4),
        ([np.int64(1), np.float32(2.0)], {}, None, 1),
        (torch.zeros(3, 2), {}, lambda batch: batch.numel(), 6),
        (torch.zeros(3, 2), {"batch_size": 7}, lambda batch: 1, 7),
    ],
)
def test_samples_in_a_batch(batch: Any, output: Any, given: Any, samples: int) -> None:
    """What the step says, else what the spec says, else the first tensor's first dimension."""
    assert samples_in(batch, output, given) == samples


def test_metrics_of_ignite_and_torchmetrics(tmp_path: Path) -> None:
    """They see each prediction and target, and go on after a stop in mid-epoch."""

    class Share:
        """Behaves as a torchmetrics Metric does."""

        def __init__(self) -> None:
            self.reset()

        def reset(self) -> None:
            self.right, self.count = torch.zeros(()), torch.zeros(())

        def update(self, prediction: Any, target: Any) -> None:
            self.right += (prediction.argmax(1) == target).sum()
            self.count += len(target)

        def compute(self) -> Any:
            return {"share": self.right / self.count}

        def to(self, device: Any) -> Any:
            return self

        def persistent(self, mode: bool) -> None: ...

        def state_dict(self) -> Any:
            return {"right": self.right, "count": self.count}

        def load_state_dict(self, state: Any) -> None:
            self.right, self.count = state["right"], state["count"]

    def step(engine: Any, batch: Any, model: Any, optimizer: Any) -> Any:
        plain_step(engine, batch, model, optimizer)
        prediction = torch.rand(len(batch[0]), 2)
        target = (batch[0][:, 0] > 0).long()
        return {"prediction": prediction, "target": target}

    def spec() -> Any:
        return {"metrics": {"accuracy": ignite.metrics.Accuracy(), "own": Share()}}

    assert_exact(tmp_path, [2, 6, 7], step=step, spec=spec)
    logged = {(i, name): float(value) for i, name, value in points(tmp_path / "straight")}
    assert logged[4, "train/accuracy"] == pytest.approx(logged[4, "train/own/share"])
    assert sorted(i for i, name in logged if name == "train/accuracy") == [4, 8, 12]


def test_not_a_metric() -> None:
    """Anything else is refused with what would do."""
    with pytest.raises(UsageError, match="is a int; give a key of the step's output"):
        accumulated("loss", 3, CPU)


def test_loader_is_shuffled() -> None:
    """Negative control of the helpers: two epochs are not in one order."""
    loader = points_loader()
    torch.manual_seed(0)
    first, second = ([batch[0].tolist() for batch in loader] for _ in range(2))
    assert first != second
