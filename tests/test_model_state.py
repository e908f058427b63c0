"""What a model keeps in attributes: saved whatever it is, or told of when it is not."""

from __future__ import annotations

import collections
import copy
import dataclasses
import enum
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest
import torch
from support import assert_same_run, checkpoint
from test_model import Points, assert_exact, fit, loader, network
from torch import nn

from igniter.errors import UsageError
from igniter.models import parts
from igniter.models.unsaved import Unsaved

torch.set_num_threads(1)
STOPS = (2, 5, 12)


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here depends on a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Weighted(Points):
    """Its loss is weighted by what it keeps."""

    def weight(self) -> Any:
        """What it counts, one more at each call."""

    def compute_loss(self, prediction: Any, target: Any) -> torch.Tensor:
        return super().compute_loss(prediction, target) * (1 + 0.1 * self.weight())


class Trained(Points):
    """Trains tensors of its own beside the module: one by itself, one in a list."""

    def setup(self) -> None:
        self.module, self.loss = network(), nn.CrossEntropyLoss()
        self.scale = torch.ones((), requires_grad=True)
        self.shifts = [nn.Parameter(torch.zeros(2))]
        parameters = [*self.module.parameters(), self.scale, *self.shifts]
        self.optimizer = torch.optim.Adam(parameters, lr=0.05)
        self.groups = {"all": parameters, "layers": [[self.module[0]]]}

    def compute_loss(self, prediction: Any, target: Any) -> torch.Tensor:
        penalty = sum(parameter.square().sum() for parameter in self.groups["all"])
        return super().compute_loss(prediction, target) + 0.01 * penalty

    def forward(self, inputs: Any) -> Any:
        return self.module(inputs) * self.scale + self.shifts[0]


class Slotted(Weighted):
    """Counts in a slot."""

    __slots__ = ("count",)

    def setup(self) -> None:
        super().setup()
        self.count = 0

    def weight(self) -> Any:
        self.count += 1
        return self.count


class InItsClass(Weighted):
    """Counts in a list that stands in the class."""

    def weight(self) -> Any:
        self.counts.append(1)  # type: ignore[attr-defined]
        return len(self.counts)  # type: ignore[attr-defined]


def in_its_class() -> InItsClass:
    """Of a class of its own, as each start of a program makes it."""
    return type("Counting", (InItsClass,), {"counts": []})()  # type: ignore[no-any-return]


class Containers(Weighted):
    """Counts in all sorts of containers."""

    def setup(self) -> None:
        super().setup()
        self.array = numpy.zeros(2)
        self.seen: set[int] = set()
        self.last: collections.deque[int] = collections.deque(maxlen=3)
        self.by_kind: dict[int, int] = collections.defaultdict(int)
        self.counter: collections.Counter[str] = collections.Counter()

    def weight(self) -> Any:
        self.array += 0.5
        self.seen.add(self.iteration)
        self.last.append(self.iteration)
        self.by_kind[self.iteration % 3] += 1
        self.counter["batches"] += 1
        return (
            float(self.array[0])
            + len(self.seen)
            + sum(self.last)
            + self.by_kind[0]
            + len(self.counter)
        )


class Deleting(Weighted):
    """Deletes an attribute when it is warm."""

    def setup(self) -> None:
        super().setup()
        self.warm = 3

    def on_batch_end(self, batch: Any, output: Any) -> None:
        if self.iteration == 4:
            del self.warm

    def weight(self) -> Any:
        return getattr(self, "warm", 0)


class WithGraph(Points):
    """Keeps the last loss with all that it was computed by."""

    last: torch.Tensor | None = None

    def compute_loss(self, prediction: Any, target: Any) -> torch.Tensor:
        loss = super().compute_loss(prediction, target)
        if self.last is not None:
            loss = loss * (1 + self.last.detach())
        self.last = loss
        return loss


@pytest.mark.parametrize("build", [Trained, Slotted, in_its_class, Containers, Deleting, WithGraph])
def test_attributes_are_exact(
    build: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained tensors, slots, containers, what is deleted: as if never stopped, and unwarned."""
    assert_exact(tmp_path, build, STOPS)
    assert "warning" not in capsys.readouterr().err


def test_a_trained_tensor_that_becomes_another_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: taken for plain data it is no longer what the optimizer holds."""
    monkeypatch.setattr(parts, "_is_trained", lambda value: False)
    with pytest.raises(AssertionError):
        assert_exact(tmp_path, Trained, STOPS)


class Metered(Weighted):
    """Weighted by what metrics of torchmetrics gather: one by itself, one in the module."""

    def setup(self) -> None:
        torchmetrics = pytest.importorskip("torchmetrics")
        super().setup()
        self.mean = torchmetrics.MeanMetric()
        self.module.add_module("range", torchmetrics.MaxMetric())
        self.module.forward = lambda inputs: nn.Sequential(*list(self.module)[:4])(inputs)

    def weight(self) -> Any:
        self.mean.update(self.iteration)
        self.module.range.update(self.iteration % 7)
        return self.mean.compute() + self.module.range.compute()


@pytest.mark.filterwarnings("ignore::UserWarning:torchmetrics")
def test_metrics_are_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a metric in an attribute has gathered is saved; as torchmetrics leaves it, it is not."""
    assert_exact(tmp_path / "exact", Metered, STOPS)
    monkeypatch.setattr("igniter.checkpoint.state.make_persistent", lambda module: None)
    with pytest.raises(AssertionError):
        assert_exact(tmp_path / "forgotten", Metered, STOPS)


@dataclasses.dataclass
class _Counter:
    count: int = 0


class _Stage(enum.Enum):
    WARM = 1
    HOT = 2


class _Pair(NamedTuple):
    count: int = 0


class _Helper:
    def __init__(self) -> None:
        self.count = 0


class Unstorable(Points):
    """Changes what no checkpoint can hold, and keeps much that does not matter."""

    def setup(self) -> None:
        super().setup()
        self.counter, self.stage, self.pair, self.helper = _Counter(), _Stage.WARM, _Pair(), None
        self.numbers = numpy.random.default_rng(0)
        self.batches = iter(loader())
        self.heads: list[nn.Module] = []
        self.untouched, self.logger = _Helper(), loader()
        self.untouched.model = self  # type: ignore[attr-defined]

    def on_batch_end(self, batch: Any, output: Any) -> None:
        self.counter.count += 1
        self.stage = _Stage.HOT
        self.pair = _Pair(self.iteration)
        self.helper = _Helper()  # type: ignore[assignment]
        self.numbers.random()

    def on_epoch_end(self, epoch: int) -> None:
        self.heads.append(nn.Linear(2, 2))
        self.teacher = copy.deepcopy(self.module)
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=0.1)


def test_what_is_not_saved_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each attribute that changes and cannot be saved is named in a warning, once."""
    fit(tmp_path, Unstorable())
    lines = [line for line in capsys.readouterr().err.splitlines() if "is not saved" in line]
    named = sorted(line.split("Unstorable.")[1].split(" ")[0] for line in lines)
    changed = {"counter", "stage", "pair", "helper", "numbers", "batches", "heads", "teacher"}
    assert named == sorted({*changed, "optimizer"})


def test_without_the_watch_nothing_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    monkeypatch.setattr(Unsaved, "watch", lambda self, trainer: None)
    fit(tmp_path, Unstorable())
    assert "is not saved" not in capsys.readouterr().err


def test_a_hook_on_the_object_is_one(tmp_path: Path) -> None:
    """Methods given to one model are called like those of its class."""
    model, seen = Points(), []
    model.on_epoch_end = seen.append  # type: ignore[method-assign]
    fit(tmp_path, model)
    assert seen == [1, 2, 3]
    assert model.trainer is None


def test_hooks_that_cannot_be_called_are_refused(tmp_path: Path) -> None:
    """Before training: too few arguments, a coroutine, no function at all; None is no hook."""

    def short(self: Any) -> None:
        """Without the epoch."""

    async def later(self: Any, epoch: int) -> None:
        """It would never run."""

    for hook, said in ((short, r"takes \(\); it is called with \(epoch\)"),
                       (later, "coroutine"), (3, "of type int")):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            fit(tmp_path / "refused", type("Odd", (Points,), {"on_epoch_end": hook})())
    with pytest.raises(UsageError, match="should_training_stop is a coroutine"):
        fit(tmp_path / "refused", type("Odd", (Points,), {"should_training_stop": later})())
    assert fit(tmp_path, type("None_", (Points,), {"on_epoch_end": None})()).iteration == 15


def test_what_is_no_module_is_not_exported(tmp_path: Path) -> None:
    """trained_state_dict is told what it must return, and the run is complete all the same."""

    class Wrong(Points):
        def trained_state_dict(self) -> Mapping[str, Any]:
            return {"x": 3}

    with pytest.raises(UsageError, match="exported as 'x' is of type int"):
        fit(tmp_path, Wrong())
    assert checkpoint(tmp_path)[0] == "iteration-00000015-final"


def test_a_second_fit_is_a_run_of_its_own(tmp_path: Path) -> None:
    """One object trained in two runs, one after another, is exact in the second, too."""
    for folder, stop in (("straight", None), ("stopped", 7)):
        for stopped_at in (stop, None):
            model = Slotted()
            fit(tmp_path / folder / "first", model)
            fit(tmp_path / folder / "second", model, stopped_at)
    assert_same_run(tmp_path / "straight/second", tmp_path / "stopped/second")
