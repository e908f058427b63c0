"""Metrics of torchmetrics and of ignite in a run: stopped in mid-epoch they end bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ignite.metrics
import pytest
import torch
from support import Small, assert_exact, assert_same_run, differing, plain_step, points

from igniter.errors import UsageError
from igniter.library_metrics import TorchmetricsAccumulated, flat
from igniter.metrics import accumulated

torchmetrics = pytest.importorskip("torchmetrics")

CPU = torch.device("cpu")
STOPS = [2, 6, 7]  # in mid-epoch: an epoch has 4 iterations


def step(engine: Any, batch: Any, model: Any, optimizer: Any) -> dict[str, Any]:
    """One update; scores of three classes and a target, drawn at random."""
    loss = plain_step(engine, batch, model, optimizer)["loss"]
    n = len(batch[0])
    scores = torch.rand(n, 3).softmax(1).requires_grad_()
    return {"loss": loss, "prediction": scores, "target": torch.randint(3, (n,))}


def collection() -> Any:
    """Members that share one state, one of its own, and one that keeps every output."""
    kind = torchmetrics.classification
    members = {
        "accuracy": kind.MulticlassAccuracy(3),
        "precision": kind.MulticlassPrecision(3),
        "each": kind.MulticlassRecall(3, average=None),
        "matrix": kind.MulticlassConfusionMatrix(3),
        "auroc": kind.MulticlassAUROC(3),
    }
    return torchmetrics.MetricCollection(members, prefix="my_")


def single() -> Any:
    """One metric alone."""
    return torchmetrics.classification.MulticlassF1Score(3)


def smoothed() -> Any:
    """A metric made of two, and one that draws at random."""
    kind = torchmetrics.classification
    return torchmetrics.wrappers.BootStrapper(kind.MulticlassAccuracy(3), num_bootstraps=3)


def composed() -> Any:
    """The mean of two metrics."""
    kind = torchmetrics.classification
    return (kind.MulticlassAccuracy(3) + kind.MulticlassPrecision(3)) / 2


@pytest.mark.parametrize("make", [collection, single, smoothed, composed])
def test_torchmetrics_are_exact(make: Callable[[], Any], tmp_path: Path) -> None:
    """A metric or collection stopped in mid-epoch gives what it gives without a stop."""
    assert_exact(tmp_path, STOPS, step=step, spec=lambda: {"metrics": {"all": make()}})
    names = {name for _, name, _ in points(tmp_path / "straight")}
    if make is collection:
        assert {"train/all/my_accuracy", "train/all/my_each/2", "train/all/my_matrix/8"} <= names


@pytest.mark.parametrize("forgotten", ["metric", "updated"])
def test_forgotten_state_is_seen(
    forgotten: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: a metric that loses its state in the stop gives other values."""
    load = TorchmetricsAccumulated.load_state_dict

    def load_without(self: TorchmetricsAccumulated, state: Any) -> None:
        empty = {"metric": torch.nn.Module().state_dict(), "updated": False}
        load(self, {**state, forgotten: empty[forgotten]})

    spec = {"step": step, "spec": lambda: {"metrics": {"f1": single()}}}
    straight, stopped = Small(tmp_path / "a", **spec), Small(tmp_path / "b", **spec)
    straight.train()
    # Where the loss shows only if the epoch's last iteration is not yet to come.
    stopped.train(stop_at=3 if forgotten == "metric" else 4)
    monkeypatch.setattr(TorchmetricsAccumulated, "load_state_dict", load_without)
    stopped.train()
    with pytest.raises(AssertionError):
        assert_same_run(straight.run_dir, stopped.run_dir)


def test_members_that_share_a_state() -> None:
    """Which members share a state is settled by the first batch, not again after a resume.

    torchmetrics takes two members whose states are equal then for one ever after. Compared anew
    when they have come to differ, they would go on as two.
    """
    kind = torchmetrics.classification

    def make() -> Any:
        members = {"low": kind.BinaryAccuracy(0.2), "high": kind.BinaryAccuracy(0.8)}
        return accumulated("c", torchmetrics.MetricCollection(members), CPU)

    def feed(metric: Any, scores: list[float]) -> None:
        output = {"prediction": torch.tensor(scores), "target": torch.ones(2).long()}
        metric.update(None, output, 2)

    straight, resumed, forgetful = make(), make(), make()
    feed(straight, [0.1, 0.9])  # equal at first
    state = copy.deepcopy(straight.state_dict())
    feed(straight, [0.5, 0.5])
    for other in (resumed, forgetful):
        other.reset()
        other.load_state_dict(copy.deepcopy(state))
        if other is forgetful:
            other._metric._groups_checked = False
            other._metric._groups = {0: ["low"], 1: ["high"]}
        feed(other, [0.5, 0.5])
    assert resumed.compute() == straight.compute()
    assert forgetful.compute() != straight.compute()


def test_one_object_over_two_attempts(tmp_path: Path) -> None:
    """A notebook that calls ``train`` again with the same metric object goes on exactly."""
    metric = collection()
    straight = Small(tmp_path / "a", step=step, spec=lambda: {"metrics": {"m": collection()}})
    stopped = Small(tmp_path / "b", step=step, spec=lambda: {"metrics": {"m": metric}})
    straight.train()
    stopped.train(stop_at=6)
    stopped.train(stop_at=7)
    stopped.train()
    assert_same_run(straight.run_dir, stopped.run_dir)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_states_are_on_the_device() -> None:
    """State that was loaded on the CPU is where the metric is."""
    metric = accumulated("f1", single(), torch.device("cuda"))
    metric.load_state_dict(accumulated("f1", single(), CPU).state_dict())
    assert metric._metric.tp.is_cuda  # type: ignore[attr-defined]


def test_nothing_is_computed_of_nothing() -> None:
    """Without an update there is no value, and no warning of torchmetrics that there is none."""
    metric = accumulated("m", collection(), CPU)
    metric.reset()
    assert metric.compute() == {}
    again = accumulated("m", collection(), CPU)
    again.load_state_dict(copy.deepcopy(metric.state_dict()))
    assert again.compute() == {}


def test_keeps_no_graph() -> None:
    """Predictions that metrics keep do not keep what they were computed by."""
    metric = accumulated("m", collection(), CPU)
    scores = torch.rand(2, 3, requires_grad=True).softmax(1)
    metric.update(None, {"prediction": scores, "target": torch.tensor([0, 1])}, 2)
    held = metric._metric["auroc"].preds  # type: ignore[attr-defined]
    assert not any(tensor.requires_grad for tensor in held)


def ignite_metrics() -> dict[str, Any]:
    """Metrics of ignite's: sums, matrices, all outputs, composed, with a transform."""
    made = ignite.metrics
    precision, recall = made.Precision(), made.Recall()
    return {
        "accuracy": made.Accuracy(),
        "precision": made.Precision(average="macro"),
        "recall": made.Recall(average=False),
        "fbeta": made.Fbeta(2.0),
        "f1": (2 * precision * recall / (precision + recall + 1e-20)).mean(),
        "matrix": made.ConfusionMatrix(3),
        "iou": made.mIoU(made.ConfusionMatrix(3)),
        "top2": made.TopKCategoricalAccuracy(2),
        "loss": made.Loss(torch.nn.functional.nll_loss),
        "median": made.EpochMetric(lambda p, t: p.median(), check_compute_fn=False),
        "share": made.Accuracy(output_transform=lambda out: (out["prediction"], out["target"])),
        "running": made.RunningAverage(made.Accuracy(), alpha=0.5),
        "smooth": made.RunningAverage(output_transform=lambda out: out["loss"]),
        "group": made.MetricGroup({"accuracy": made.Accuracy(), "top": precision}),
        "mean": made.Average(output_transform=lambda out: out["loss"]),
    }


def test_metrics_of_ignite_are_exact(tmp_path: Path) -> None:
    """All kinds of ignite's metrics stopped in mid-epoch give what they give without a stop."""
    assert_exact(tmp_path, STOPS, step=step, spec=lambda: {"metrics": ignite_metrics()})
    values = {name: float(v) for i, name, v in points(tmp_path / "straight") if i == 12}
    assert values["train/accuracy"] == values["train/share"] == values["train/group/accuracy"]
    assert values["train/running"] != values["train/accuracy"]
    assert values["train/loss"] != values["train/mean"]


def test_composed_once() -> None:
    """A metric that stands twice in a composed one takes each output once, as it wants it."""
    made = ignite.metrics
    total = made.VariableAccumulation(lambda sum, x: sum + x, lambda out: out["loss"])
    composed = total[0] + total[0]
    metric = accumulated("twice", composed, CPU)
    metric.reset()
    metric.update(None, {"loss": torch.tensor(3.0)}, 1)
    assert metric.compute() == {"twice": 6.0}


def test_loss_with_arguments() -> None:
    """ignite's Loss is called with the step's ``criterion_kwargs``, where there are any."""
    outcome = {"prediction": torch.ones(2), "target": torch.zeros(2)}
    for more, expected in (({}, 1.0), ({"criterion_kwargs": {"weight": 3.0}}, 3.0)):
        loss = ignite.metrics.Loss(lambda p, t, weight=1.0: weight * (p - t).abs().mean())
        metric = accumulated("loss", loss, CPU)
        metric.reset()
        metric.update(None, {**outcome, **more}, 2)
        assert metric.compute() == {"loss": expected}


def test_value_that_is_no_number() -> None:
    """Nested values are flattened by index and key; what is no number is named."""
    value = {"a": [torch.ones(2), 2], "b": torch.tensor(True)}
    assert flat("m", value) == {"m/a/0/0": 1.0, "m/a/0/1": 1.0, "m/a/1": 2.0, "m/b": 1.0}
    with pytest.raises(UsageError, match="metric 'm/a' gives a str, which is no number"):
        flat("m", {"a": "much"})


def test_metric_without_its_keys(tmp_path: Path) -> None:
    """A step that returns no prediction for a torchmetrics metric is told what is missing."""
    run = Small(tmp_path, spec=lambda: {"metrics": {"f1": single()}})
    with pytest.raises(UsageError, match="lacks 'prediction', which metric 'f1' reads; it holds"):
        run.train()


def test_state_is_all_there() -> None:
    """Saved and loaded after any update, a collection holds the same state bit for bit."""
    straight = accumulated("m", collection(), CPU)
    straight.reset()
    for _ in range(3):
        output = {"prediction": torch.rand(4, 3), "target": torch.tensor([0, 1, 2, 0])}
        straight.update(None, output, 4)
        resumed = accumulated("m", collection(), CPU)
        resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
        assert differing(resumed.state_dict(), straight.state_dict()) == []
        assert resumed.compute() == straight.compute()
