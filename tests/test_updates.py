"""Updates: precision, accumulation and clipping, as if done by hand, and exact under stops."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from support import assert_same_run, checkpoint
from test_model import Points, assert_exact, fit, loader
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from igniter import RunSpec, train
from igniter.errors import UsageError
from igniter.updates import UpdateOptions, Updates

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here depends on a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Plain(Points):
    """Without what depends on how the data is cut into batches."""

    module = staticmethod(lambda: nn.Linear(2, 2).double())
    optimizer = torch.optim.SGD

    def split(self, batch: Any) -> Any:
        return batch[0].double(), batch[1]


def in_order(batch_size: int) -> DataLoader[Any]:
    """The same points, never shuffled."""
    return DataLoader(loader().dataset, batch_size)


def weights(run_dir: Path) -> torch.Tensor:
    """Where a run ended."""
    found = checkpoint(run_dir)[1]["state"]["module"]["weight"]
    assert isinstance(found, torch.Tensor)
    return found


@pytest.mark.parametrize("options", [
    {"accumulate": 2}, {"accumulate": 3, "clip_norm": 0.05}, {"precision": "bf16"},
    {"precision": "fp16", "accumulate": 2, "clip_value": 0.01},
])  # fmt: skip
def test_exact_in_the_midst_of_a_group(options: dict[str, Any], tmp_path: Path) -> None:
    """Stopped within groups, at their ends and at an epoch's end, bit for bit the same."""
    assert_exact(tmp_path, Points, (1, 3, 5, 7, 12), **options)
    plain = fit(tmp_path / "plain", Points())
    ended = fit(tmp_path / "straight", Points(), **options)
    assert ended.metrics["train/loss_epoch"] != plain.metrics["train/loss_epoch"]


def test_gradients_that_are_forgotten_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the weight that a group has so far the comparison fails."""
    monkeypatch.setattr(Updates, "load_state_dict", lambda self, state: None)
    with pytest.raises(AssertionError):
        assert_exact(tmp_path, Points, (1, 3), accumulate=3)


@pytest.mark.parametrize(("batch_size", "accumulate"), [(3, 2), (2, 3), (1, 6)])
def test_a_group_is_one_large_batch(batch_size: int, accumulate: int, tmp_path: Path) -> None:
    """Groups end where large batches would; the short one at the end counts for what it holds.

    Traps: a train loss divided by the accumulation steps, clipping on every micro-batch (PA).
    """
    points = torch.linspace(-1, 1, 40).reshape(20, 2).double()
    data = TensorDataset(points, (points[:, 0] > 0).long())
    parameters = {"optimizer": {"lr": 0.5}}
    how: dict[str, Any] = {"max_epochs": 3, "clip_norm": 0.1, "log_every": "1 epoch"}
    large = fit(tmp_path / "large", Plain(parameters), loaders=(DataLoader(data, 6),), **how)
    small = fit(
        tmp_path / "small",
        Plain(parameters),
        loaders=(DataLoader(data, batch_size),),
        accumulate=accumulate,
        **how,
    )
    assert torch.allclose(weights(large.run_dir), weights(small.run_dir), rtol=0, atol=1e-12)
    for name in ("train/loss_epoch", "train/loss"):
        assert small.metrics[name] == pytest.approx(large.metrics[name], rel=1e-12), name
    assert small.metrics["train/loss"] > 0.1


def test_losses_weighted_by_tokens() -> None:
    """A group's gradient is that of the mean over all its tokens, however they are spread."""
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0])
    for cuts in ([5], [1, 4], [2, 2, 1], [4, 1]):
        weight = nn.Parameter(torch.tensor(1.0))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        updates = Updates()
        updates.configure(UpdateOptions(accumulate=len(cuts)), torch.device("cpu"), None)
        for number, part in enumerate(values.split(cuts), start=1):
            updates.begin(number)
            updates.backward((weight * part).mean(), weight=torch.tensor(len(part)))
            assert updates.due == (number == len(cuts))
        updates.step(optimizer)
        assert weight.item() == pytest.approx(1.0 - 4.0)


def test_clipping_is_of_the_true_gradients() -> None:
    """Norm and value bound what the optimizer gets, after scaling and accumulation."""
    for precision in ("fp32", "fp16"):
        weight = nn.Parameter(torch.zeros(2))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        updates = Updates()
        options = UpdateOptions(precision, accumulate=2, clip_norm=1.0)
        updates.configure(options, torch.device("cpu"), None)
        for number in (1, 2):
            updates.begin(number)
            updates.backward((weight * torch.tensor([3.0, 4.0])).sum())
        updates.step(optimizer)
        assert torch.allclose(weight, torch.tensor([-0.6, -0.8]), atol=1e-5)
        assert float(updates.measured()["grad_norm"]) == pytest.approx(5.0)
    updates.configure(UpdateOptions(clip_value=0.5), torch.device("cpu"), None)
    updates.begin(1)
    optimizer.zero_grad()
    updates.backward((weight * torch.tensor([3.0, -4.0])).sum())
    updates.step(optimizer)
    assert weight.grad is not None
    assert weight.grad.tolist() == [0.5, -0.5]
    assert updates.measured() == {}


def test_an_overflow_steps_neither_weights_nor_schedule(tmp_path: Path) -> None:
    """With fp16 an update whose gradients overflow is left out, and the schedule waits for it."""

    class Overflowing(Points):
        def compute_loss(self, prediction: Any, target: Any) -> torch.Tensor:
            loss = super().compute_loss(prediction, target)
            return loss * float("inf") if self.iteration in (2, 3) else loss

    schedule = {"scheduler": ("torch.optim.lr_scheduler.LinearLR", {})}
    result = fit(
        tmp_path, Overflowing(schedule), precision="fp16", on_nan="warn", loaders=(loader(),)
    )
    state = checkpoint(tmp_path)[1]["state"]
    assert result.iteration == 15
    # Besides those two the first scale may itself be too large for fp16.
    left_out = round(math.log2(2.0**16 / state["updates"]["scaler"]["scale"]))
    assert left_out >= 2
    assert state["scheduler"]["last_epoch"] == 15 - left_out


def test_what_the_step_cannot_do_is_refused(tmp_path: Path) -> None:
    """A step that makes its own updates does not pass over a flag in silence."""
    model = nn.Linear(2, 1)
    spec = RunSpec(step=lambda engine, batch: {"loss": 0.0}, loader=loader())
    for flag, text in (({"clip_norm": 1}, "--clip-norm 1.0"), ({"compile": True}, "--compile:")):
        with pytest.raises(UsageError, match=text):
            train(
                to_save={"model": model}, train_spec=spec, output_dir=tmp_path, mlflow=False, **flag
            )


def test_the_ready_made_step_obeys(tmp_path: Path) -> None:
    """RunSpec.train_spec accumulates and clips as a Model does, as exactly."""

    def run(folder: str, **settings: Any) -> None:
        torch.manual_seed(0)
        model = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        spec = RunSpec.train_spec(
            model=model, criterion=nn.CrossEntropyLoss(), optimizer=optimizer, loader=loader()
        )
        given = {
            "mlflow": False,
            "progress": "none",
            "picture": False,
            "accumulate": 2,
            "log_every": 7,
        }
        train(
            to_save={"model": model, "optimizer": optimizer},
            train_spec=spec,
            output_dir=tmp_path / folder,
            **given,
            **settings,
        )

    run("straight", max_iterations=14)
    run("stopped", max_iterations=7)
    run("stopped", max_iterations=14)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiled_modules_are_exact(tmp_path: Path) -> None:
    """--compile trains the same run; its checkpoints load with and without it."""
    torch._dynamo.reset()
    with torch.compiler.set_stance("force_eager"):
        assert_exact(tmp_path, Points, (4, 7), compile=True)
    fit(tmp_path / "plain", Points())
    assert_same_run(tmp_path / "plain", tmp_path / "stopped")


def test_two_losses_of_a_batch_count_as_one() -> None:
    """Groups of batches give what one large batch gives, with one optimizer or one for each loss.

    The control: a second loss that counted as a further batch would halve both.
    """
    values = torch.tensor([1.0, 2.0, 3.0, 6.0])
    for apart in (False, True):
        ends = []
        for size in (4, 2, 1):
            first, second = (nn.Parameter(torch.tensor(1.0)) for _ in range(2))
            optimizers = [torch.optim.SGD([weight], lr=1.0) for weight in (first, second)]
            updates = Updates()
            updates.configure(UpdateOptions(accumulate=4 // size), torch.device("cpu"), None)
            for number, part in enumerate(values.repeat(2).split(size), start=1):
                updates.begin(number)
                updates.backward((first * part).mean(), weight=size)
                if updates.due and apart:
                    updates.step(optimizers[0])
                    optimizers[0].zero_grad()
                updates.backward((second * part).mean(), weight=size)
                if updates.due:
                    updates.step(*(optimizers[1:] if apart else optimizers))
                    for optimizer in optimizers:
                        optimizer.zero_grad()
            ends.append((first.item(), second.item()))
        assert ends == [(-5.0, -5.0)] * 3


def test_batches_that_count_for_nothing(tmp_path: Path) -> None:
    """A group without any weight leaves the weights as they are, and does not make them NaN."""

    class Weightless(Points):
        optimizer = torch.optim.SGD

        def loss_weight(self, batch: Any) -> Any:
            return torch.tensor(0.0) if self.iteration in (1, 3, 4) else 4

    assert_exact(tmp_path, Weightless, (1, 3), accumulate=2, max_epochs=1)


def test_a_group_begun_is_finished_as_it_was() -> None:
    """Where --accumulate is another one after a resume, what was gathered counts by its weight."""
    updates, weight = Updates(), nn.Parameter(torch.tensor(1.0))
    for iteration, accumulate in ((1, 3), (2, 1)):
        state = updates.state_dict()
        updates.configure(UpdateOptions(accumulate=accumulate), torch.device("cpu"), None)
        updates.load_state_dict(state)
        updates.begin(iteration)
        updates.backward(weight * 4.0, weight=2)
    updates.step(torch.optim.SGD([weight], lr=1.0))
    assert weight.item() == -3.0


def test_an_optimizer_without_gradients() -> None:
    """In fp16 it is passed over, as in fp32, where torch's scaler would fail."""
    idle = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=1.0)
    updates = Updates()
    updates.configure(UpdateOptions("fp16"), torch.device("cpu"), None)
    updates.begin(1)
    updates.step(idle)
    assert updates.stepped


def test_a_step_that_passes_over_its_updates_is_refused(tmp_path: Path) -> None:
    """A Model with a train_step by hand does not train otherwise than asked in silence."""

    class ByHand(Points):
        def train_step(self, batch: Any) -> Any:
            inputs, target = self.split(batch)
            loss = self.compute_loss(self.forward(inputs), target)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            return {"loss": loss.detach()}

    assert fit(tmp_path / "plain", ByHand()).status == "completed"
    asked: dict[str, Any]
    for asked, text in (
        ({"accumulate": 2}, "--accumulate 2: .* does not use backward, due, step of its updates"),
        ({"precision": "bf16"}, "does not use autocast of its updates"),
        ({"clip_norm": 1.0}, "does not use backward, step"),
    ):
        with pytest.raises(UsageError, match=text):
            fit(tmp_path / str(asked), ByHand(), **asked)


def test_a_step_that_does_not_ask_whether_an_update_is_due_is_refused(tmp_path: Path) -> None:
    """It would update after every batch, whatever --accumulate says."""

    class Hasty(Points):
        def train_step(self, batch: Any) -> Any:
            inputs, target = self.split(batch)
            loss = self.compute_loss(self.forward(inputs), target)
            self.backward(loss)
            self.optimizer_step()
            self.zero_grad()
            return {"loss": loss.detach()}

    assert fit(tmp_path / "plain", Hasty()).status == "completed"
    with pytest.raises(UsageError, match="does not use due of its updates"):
        fit(tmp_path, Hasty(), accumulate=2)


def test_the_ready_made_evaluation_has_the_precision(tmp_path: Path) -> None:
    """RunSpec.eval_spec computes in the run's precision, in training and when it alone is run."""

    def run(folder: str, **settings: Any) -> float:
        torch.manual_seed(0)
        model = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        part: dict[str, Any] = {"model": model, "criterion": nn.CrossEntropyLoss()}
        result = train(
            to_save={"model": model, "optimizer": optimizer},
            train_spec=RunSpec.train_spec(**part, optimizer=optimizer, loader=loader()),
            eval_spec=RunSpec.eval_spec(**part, loader=loader()),
            output_dir=tmp_path / folder,
            **{"mlflow": False, "progress": "none", "picture": False, "max_epochs": 1, **settings},
        )
        return result.metrics["eval/loss"]

    plain = run("plain")
    lower = run("lower", precision="bf16")
    assert plain != lower
    assert run("lower", precision="bf16", eval_only=True) == lower
    assert run("plain", precision="bf16", eval_only=True) != plain
