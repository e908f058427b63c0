"""Whether more or less of a metric is better, as told by the metric or by its name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import ignite.metrics
import pytest
import torch
from support import Small

from igniter import RunSpec, train
from igniter.directions import better, direction
from igniter.errors import UsageError
from igniter.rundir import Paths, RunRecord


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("eval/loss", "min"),
        ("eval/valLoss", "min"),
        ("loss", "min"),
        ("test/dice_loss", "min"),
        ("eval/top1_error", "min"),
        ("eval/perplexity", "min"),
        ("eval/nll", "min"),
        ("eval/negative_log_likelihood", "min"),
        ("eval/log-likelihood", "max"),
        ("eval/neg_mean_squared_error", "max"),
        ("eval/MAE", "min"),
        ("eval/mse", "min"),
        ("eval/cross_entropy", "min"),
        ("eval/false_positive_rate", "min"),
        ("eval/accuracy", "max"),
        ("eval/acc@1", "max"),
        ("eval/top5", "max"),
        ("eval/f1", "max"),
        ("eval/macro/F1Score", "max"),
        ("eval/val_f1_macro", "max"),
        ("eval/r2", "max"),
        ("eval/AUC", "max"),
        ("eval/ROC_AUC", "max"),
        ("eval/precision", "max"),
        ("eval/recall@10", "max"),
        ("eval/mIoU", "max"),
        ("eval/mAP50", "max"),
        ("eval/BLEU", "max"),
        ("eval/BinaryAccuracy", "max"),
        ("error_analysis/accuracy", "max"),
    ],
)
def test_by_name(name: str, expected: str) -> None:
    """The last known word of a metric's own name tells, whatever its evaluation is called."""
    assert better(name) == expected


@pytest.mark.parametrize(
    "name", ["eval/score", "loss/score", "eval/r", "eval/top", "eval/lossless"]
)
def test_unknown(name: str) -> None:
    """What no word tells is not guessed: the message names the flag that says it.

    Trap: AR ``better="auto"`` fails on the documented example.
    """
    with pytest.raises(UsageError, match=f"{name} is better; give --best-mode max or"):
        better(name)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (ignite.metrics.Accuracy(), "max"),
        (ignite.metrics.TopKCategoricalAccuracy(), "max"),
        (ignite.metrics.Precision(), "max"),
        (ignite.metrics.Recall(), "max"),
        (ignite.metrics.ROC_AUC(), "max"),
        (ignite.metrics.SSIM(1.0), "max"),
        (ignite.metrics.PSNR(1.0), "max"),
        (ignite.metrics.Loss(min), "min"),
        (ignite.metrics.MeanAbsoluteError(), "min"),
        (ignite.metrics.RootMeanSquaredError(), "min"),
        ("nll", "min"),
    ],
)
def test_by_metric(metric: Any, expected: str) -> None:
    """A metric of ignite's, or the key of the step's output, tells where the name does not."""
    assert better("eval/it", metric) == expected


def test_metric_before_name() -> None:
    """A metric called by a misleading name is what it is; its composition goes by the name."""
    accuracy = ignite.metrics.Accuracy()
    assert better("eval/error", accuracy) == "max"
    assert better("eval/error", 1 - accuracy) == "min"


def test_torchmetrics_say_so() -> None:
    """``higher_is_better`` of a metric, and of the member of a collection, wins over the name."""
    torchmetrics = pytest.importorskip("torchmetrics")
    binary = torchmetrics.classification
    assert better("eval/loss", binary.BinaryAccuracy()) == "max"
    assert better("eval/it", torchmetrics.MeanSquaredError()) == "min"
    members = {"wrong": torchmetrics.MeanSquaredError(), "it": binary.BinaryF1Score()}
    collection = torchmetrics.MetricCollection(members, prefix="my_")
    assert better("eval/all/my_it", collection) == "max"
    assert better("eval/all/my_wrong", collection) == "min"
    with pytest.raises(UsageError, match="--best-mode"):
        better("eval/all", collection)
    assert better("eval/loss", torchmetrics.MeanMetric()) == "min"


def test_metric_of_several_values() -> None:
    """A value below a metric's name is that metric's; a mode that was given needs no metric."""
    metrics = {"eval/a": "loss", "eval/a/b": ignite.metrics.Accuracy()}
    assert direction("auto", "eval/a/x", metrics) == "min"
    assert direction("auto", "eval/a/b/0", metrics) == "max"
    assert direction("max", "eval/a", metrics) == "max"
    assert direction("auto", None, {}) == "max"


@pytest.mark.parametrize(("mode", "best"), [("auto", 0.5), ("min", 0.5), ("max", 2.0)])
def test_best_of_a_run(mode: str, best: float, tmp_path: Path) -> None:
    """By default the best loss is the lowest, and ``run.yaml`` says which way it was ranked."""
    run = Small(tmp_path, eval_step=_losses())
    run.train(best_metric="eval/loss", best_mode=mode)
    record = RunRecord.load(Paths(tmp_path).run_yaml)
    assert record is not None
    assert record.best is not None
    assert record.best["value"] == best
    assert record.best["mode"] == ("max" if mode == "max" else "min")


def test_refused_before_training(tmp_path: Path) -> None:
    """A best metric that nothing tells about is refused before the first step."""

    def step(engine: Any, batch: Any) -> Any:
        raise AssertionError("trained")

    spec = RunSpec(step=step, loader=[1])
    with pytest.raises(UsageError, match="eval/score is better; give --best-mode"):
        train(
            to_save={"model": torch.nn.Linear(1, 1)},
            train_spec=spec,
            eval_spec=dataclasses.replace(spec, metrics={"score": "score"}),
            output_dir=tmp_path,
            mlflow=False,
            progress="none",
            best_metric="eval/score",
        )


def _losses() -> Any:
    """An evaluation step that gives 1.0, 0.5 and 2.0 in the three epochs."""
    values = {4: 1.0, 8: 0.5, 12: 2.0}
    return lambda engine, batch, model: {"loss": values[engine.stage]}
