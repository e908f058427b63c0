"""The class form: one class, its parts and its steps, exact under stops."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from support import assert_same_run, checkpoint, differing
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from igniter import Model
from igniter.errors import UsageError
from igniter.result import Result

torch.set_num_threads(1)


def loader(batch_size: int = 4, **how: Any) -> DataLoader[Any]:
    """18 points of a plane in two classes; five batches, the last of two."""
    points = torch.linspace(-1, 1, 36).reshape(18, 2)
    return DataLoader(
        TensorDataset(points, (points[:, 0] > 0).long()), batch_size, shuffle=True, **how
    )


def network(width: int = 4) -> nn.Module:
    """With what has a state and what draws."""
    return nn.Sequential(
        nn.Linear(2, width), nn.BatchNorm1d(width), nn.Dropout(0.3), nn.Linear(width, 2)
    )


class Points(Model):
    """Two classes of points."""

    module = network
    loss = nn.CrossEntropyLoss
    optimizer = torch.optim.Adam


def fit(run_dir: Path, model: Model, stop_at: int | None = None, **options: Any) -> Result:
    """One attempt, perhaps stopped by SIGTERM in the step of ``stop_at``."""
    step = model.train_step

    def train_step(batch: Any) -> Mapping[str, Any]:
        output = step(batch)
        if model.iteration == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return output

    model.train_step = train_step  # type: ignore[method-assign]
    given = {"max_epochs": 3, "mlflow": False, "progress": "none", "picture": False,
             "save_every": "4 iterations", "log_every": 2, "output_dir": run_dir}  # fmt: skip
    loaders = options.pop("loaders", (loader(), loader()))
    return model.fit(*loaders, **{**given, **options})


def assert_exact(folder: Path, build: Any, stops: tuple[int, ...] = (3, 5, 12), **how: Any) -> None:
    """Stopped at each of ``stops`` it ends as straight on."""
    assert fit(folder / "straight", build(), **how).status == "completed"
    for stop in stops:
        assert fit(folder / "stopped", build(), stop, **how).status == "interrupted"
    assert fit(folder / "stopped", build(), **how).status == "completed"
    assert_same_run(folder / "straight", folder / "stopped")


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here depends on a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def test_a_declared_model_is_exact(tmp_path: Path) -> None:
    """Three declared parts are all it takes; stopped three times it ends bit for bit the same."""
    assert_exact(tmp_path, lambda: Points({"module": {"width": 6}, "optimizer": {"lr": 0.01}}))
    state = checkpoint(tmp_path / "straight")[1]["state"]
    assert set(state) == {"updates", "module", "loss", "optimizer", "(attributes)"}


def test_without_the_plain_attributes_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A counter that steers the loss is in the checkpoint; left out, the comparison fails."""
    from igniter.models import parts

    class Counting(Points):
        seen = 0

        def compute_loss(self, prediction: Any, target: Any) -> torch.Tensor:
            self.seen += 1
            return super().compute_loss(prediction, target) * (1 + 0.1 * self.seen)

    assert_exact(tmp_path / "exact", Counting)
    _, state = checkpoint(tmp_path / "exact/straight")
    assert state["state"]["(attributes)"] == {"seen": 30}  # 15 in training, 15 in evaluations
    monkeypatch.setattr(parts.PlainAttributes, "load_state_dict", lambda self, state: None)
    with pytest.raises(AssertionError):
        assert_exact(tmp_path / "broken", Counting)


class Written(Points):
    """With a setup of its own, as one would write a loop."""

    def setup(self) -> None:
        self._net = network().to(self.device)
        self.heads = [nn.Linear(2, 2), nn.Linear(2, 2)]
        self.noise = torch.Generator()
        parameters = [*self._net.parameters(), *(p for h in self.heads for p in h.parameters())]
        self.optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.LinearLR(
            self.optimizer, 1.0, 0.1, self.sizes.total_updates if self.sizes else 1
        )
        self.loss = nn.functional.cross_entropy

    def forward(self, inputs: Any) -> Any:
        noise = torch.rand(inputs.shape, generator=self.noise)
        outputs = self._net(inputs + 0.1 * noise)
        for head in self.heads:
            outputs = outputs + head(inputs)
        return outputs


def test_a_written_setup_is_exact(tmp_path: Path) -> None:
    """Whatever setup assigns is saved by name: private names, lists of modules, generators."""
    assert_exact(tmp_path, Written)
    state = checkpoint(tmp_path / "straight")[1]["state"]
    parts = {"_net", "heads.0", "heads.1", "noise", "optimizer", "scheduler"}
    assert set(state) == {*parts, "updates", "(attributes)"}


def test_same_weights_whatever_was_drawn_before() -> None:
    """The parts a run begins with are a function of the seed alone."""
    from igniter.models.running import _build

    built = []
    for _ in range(2):
        torch.rand(3)
        built.append(Points())
        _build(built[-1], "cpu", 7, None)
    other = Points()
    _build(other, "cpu", 8, None)
    weights = [model.module[0].weight for model in (*built, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


class Recorded(Points):
    """Writes down which hook is called, in attributes that are saved."""

    def setup(self) -> None:
        super().setup()
        self.seen: list[str] = []
        self.attempts: list[int] = []

    def _note(self, *what: Any) -> None:
        self.seen.append(" ".join(map(str, what)))

    def on_attempt_start(self) -> None:
        self.attempts.append(self.iteration)

    def on_training_start(self) -> None:
        self._note("training", self.module.training, self.iteration)

    def on_training_end(self) -> None:
        self._note("end", self.iteration)

    def on_epoch_start(self, epoch: int) -> None:
        self._note("epoch", epoch)

    def on_epoch_end(self, epoch: int) -> None:
        self._note("epoch end", epoch)

    def on_batch_start(self, batch: Any) -> None:
        self._note("batch", self.iteration, len(batch[0]))

    def on_batch_end(self, batch: Any, output: Any) -> None:
        self._note("batch end", self.iteration, sorted(output))

    def on_validation_start(self, cycle: int, name: str) -> None:
        self._note("validation", cycle, name, self.module.training)

    def on_validation_batch_start(self, batch: Any) -> None:
        self._note("validating", self.module.training, torch.is_grad_enabled())

    def on_validation_batch_end(self, batch: Any, output: Any) -> None:
        self._note("validated", sorted(output))

    def on_validation_end(self, cycle: int, name: str, metrics: Mapping[str, float]) -> None:
        self._note("validation end", cycle, name, sorted(metrics))


KEYS = ["loss", "prediction", "target"]


def expected_of_an_epoch(epoch: int) -> list[str]:
    """What Recorded writes down of one."""
    lines = [f"epoch {epoch}"]
    for iteration in range(5 * epoch - 4, 5 * epoch + 1):
        size = 2 if iteration % 5 == 0 else 4
        lines += [f"batch {iteration} {size}", f"batch end {iteration} {KEYS}"]
    lines.append(f"validation {epoch} eval False")
    lines += ["validating False False", f"validated {KEYS}"] * 5
    lines.append(f"validation end {epoch} eval ['eval/loss']")
    return [*lines, f"epoch end {epoch}"]


@pytest.mark.parametrize("stops", [(), (3, 5, 12), (5, 10, 15), tuple(range(1, 16))])
def test_every_hook_once_at_its_time(stops: tuple[int, ...], tmp_path: Path) -> None:
    """In order, and exactly once over all attempts, wherever it was stopped.

    Traps: EPOCH_COMPLETED that never fires (IG), an epoch repeated (PA), a validation of one batch
    after a resume (LI), an evaluation that leaves eval mode on (PA).
    """
    for stop in stops:
        assert fit(tmp_path, Recorded(), stop).status == "interrupted"
    model = Recorded()
    assert fit(tmp_path, model).status == "completed"
    lines = ["training True 0", *(line for e in (1, 2, 3) for line in expected_of_an_epoch(e))]
    assert model.seen == [*lines, "end 15"]
    assert model.attempts == [0, *stops]
    state = checkpoint(tmp_path)[1]["state"]["(attributes)"]
    assert state["seen"] == model.seen


def test_iterations_instead_of_epochs(tmp_path: Path) -> None:
    """Training by iterations ends in mid-epoch, with its hooks, as exact as by epochs."""

    class Unattended(Recorded):
        def on_attempt_start(self) -> None:
            """Nothing that tells one attempt from two."""

    how = {"max_epochs": None, "max_iterations": 13, "eval_every": "4 iterations"}
    assert_exact(tmp_path, Unattended, (3, 4, 11, 12), **how)
    seen = checkpoint(tmp_path / "stopped")[1]["state"]["(attributes)"]["seen"]
    assert seen[-1] == "end 13"
    assert [line for line in seen if line.startswith("validation end")] == [
        f"validation end {cycle} eval ['eval/loss']" for cycle in (1, 2, 3, 4)
    ]


def test_the_end_of_each_attempt(tmp_path: Path) -> None:
    """``on_attempt_end`` is called once an attempt, after a stop and at the end."""
    ends: list[int] = []

    class Ending(Points):
        def on_attempt_end(self) -> None:
            ends.append(self.iteration)

    fit(tmp_path, Ending(), 7)
    fit(tmp_path, Ending())
    assert ends == [7, 15]


def test_a_method_that_looks_like_a_hook(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One named as another trainer's is not passed over in silence; the nearest of ours is told."""

    class FromLightning(Points):
        def on_train_start(self) -> None:
            """Never called."""

    fit(tmp_path, FromLightning(), progress="plain", max_epochs=1)
    told = "FromLightning.on_train_start is no hook: igniter does not call it; the nearest is 'on_"
    assert told in capsys.readouterr().err


def test_training_end_is_saved_and_exported(tmp_path: Path) -> None:
    """What on_training_end changes is in the final checkpoint, once; a second start leaves it."""

    class Rounded(Points):
        def on_training_end(self) -> None:
            with torch.no_grad():
                for parameter in self.module.parameters():
                    parameter.add_(1.0)

    fit(tmp_path, Rounded())
    _, state = checkpoint(tmp_path)
    again = Rounded()
    assert fit(tmp_path, again).status == "completed"
    assert differing(state["state"]["module"], again.module.state_dict()) == []
    from safetensors.torch import load_file

    exported = load_file(tmp_path / "model/module.safetensors")
    assert torch.equal(exported["0.weight"], again.module[0].weight)
    assert not (tmp_path / "model/loss.safetensors").exists()


def test_should_training_stop_is_asked_everywhere(tmp_path: Path) -> None:
    """After a step, a validation and an epoch; the run is completed then, and stays so."""
    for moment in ("batch_end", "validation_end", "epoch_end"):

        class Stopping(Points):
            wanted = False

            def should_training_stop(self) -> bool:
                return self.wanted

        def ask(self: Any, *arguments: Any) -> None:
            self.wanted = self.iteration >= 5

        setattr(Stopping, f"on_{moment}", ask)
        ends = {"batch_end": 5, "validation_end": 6, "epoch_end": 5}[moment]
        how: dict[str, Any] = {"eval_every": "3 iterations"}
        result = fit(tmp_path / moment, Stopping(), **how)
        assert (result.status, result.iteration) == ("completed", ends), moment
        assert fit(tmp_path / moment, Stopping(), **how).iteration == ends


def test_patience(tmp_path: Path) -> None:
    """Training ends after so many validations without have_metrics_improved, stopped or not."""

    class Patient(Points):
        patience = 2

        def on_validation_end(self, cycle: int, name: str, metrics: Mapping[str, float]) -> None:
            self.better = cycle < 3  # before it is asked whether that is so

        def have_metrics_improved(self, metrics: Mapping[str, float]) -> bool:
            return self.better

    assert_exact(tmp_path, Patient, (7, 16, 20), max_epochs=9)
    assert checkpoint(tmp_path / "stopped")[0] == "iteration-00000020-final"
    with pytest.raises(UsageError, match="override have_metrics_improved"):
        fit(tmp_path / "b", type("Impatient", (Points,), {"patience": 2})())


def test_steps_are_independent(tmp_path: Path) -> None:
    """Another eval_step changes neither training's nor testing's, and so on (argus's rule)."""

    class OtherEval(Points):
        def eval_step(self, batch: Any) -> Mapping[str, Any]:
            return {"loss": torch.tensor(7.0)}

    class OtherTrain(Points):
        def train_step(self, batch: Any) -> Mapping[str, Any]:
            return {"loss": torch.tensor(7.0)}

    plain, evaluated, trained = (
        fit(tmp_path / kind.__name__, kind()) for kind in (Points, OtherEval, OtherTrain)
    )
    assert evaluated.metrics["eval/loss"] == 7.0
    assert evaluated.metrics["train/loss_epoch"] == plain.metrics["train/loss_epoch"]
    assert trained.metrics["train/loss_epoch"] == 7.0
    assert trained.metrics["eval/loss"] != 7.0
    model = OtherEval().build()
    assert model.test(loader())["test/loss"] != 7.0
    assert model.validate(loader()) == {"eval/loss": 7.0}


def test_validate_test_and_predict_need_no_optimizer(tmp_path: Path) -> None:
    """They run on a model as built, on one that was trained, and on a checkpoint; hooks are called.

    Trap: evaluation builds gradients (PI), a model left in eval mode (PA).
    """

    calls: list[str] = []

    class Bare(Points):
        optimizer = None

        def on_testing_end(self, cycle: int, name: str, metrics: Mapping[str, float]) -> None:
            calls.append(f"{name} {sorted(metrics)}")

    bare = Bare()
    before = bare.validate(loader())["eval/loss"]
    assert bare.test(loader()) == {"test/loss": pytest.approx(before)}
    assert calls == ["test ['test/loss']"]
    trained = Points()
    fit(tmp_path, trained)
    after = trained.validate(loader())["eval/loss"]
    assert after != before
    loaded = Bare().validate(loader(), checkpoint=tmp_path)  # in another order
    assert loaded["eval/loss"] == pytest.approx(after)
    inputs = loader().dataset.tensors[0]
    predicted = trained.predict(inputs)
    assert not predicted.requires_grad
    assert torch.equal(predicted, trained.predict(inputs))  # no dropout
    assert trained.module.training
    in_order = DataLoader(loader().dataset, batch_size=4)
    assert torch.allclose(trained.predict(in_order), predicted, atol=1e-6)


def test_prediction_transform_and_devices_of_nested_batches(tmp_path: Path) -> None:
    """The transform makes the prediction that steps return; batches are moved at any depth."""

    @dataclasses.dataclass
    class Pair:
        inputs: Any
        target: Any

    class Nested(Points):
        prediction_transform = torch.nn.Softmax

        def split(self, batch: Any) -> Any:
            return batch.inputs["points"][0], batch.target

    model = Nested({"prediction_transform": {"dim": 1}}).build("cpu")
    batch = Pair({"points": [torch.rand(3, 2)]}, torch.tensor([0, 1, 0]))
    output = model.eval_step(batch)
    assert torch.allclose(output["prediction"].sum(dim=1), torch.ones(3))
    moved = model.to_device(batch)
    assert isinstance(moved, Pair)
    assert not output["prediction"].requires_grad


def test_metadata_and_banner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Metadata is in each manifest, its label in the name; lines of the banner are shown."""
    from igniter.checkpoint.store import load

    class Told(Points):
        def checkpoint_metadata(self) -> Mapping[str, Any]:
            return {"updates made": self.iteration, "label": f"it {self.iteration}/x"}

        def banner(self) -> list[str]:
            return [f"{sum(p.numel() for p in self.module.parameters())} parameters"]

    fit(tmp_path, Told(), 7, progress="plain")
    assert "\n30 parameters\n" in capsys.readouterr().out
    names = [path.name for path in sorted((tmp_path / "checkpoints").glob("iteration-*"))]
    assert names == ["iteration-00000004+it-4-x", "iteration-00000007+it-7-x"]
    manifest = load(tmp_path).manifest
    assert manifest["metadata"] == {"updates made": 7, "label": "it 7/x"}
    assert fit(tmp_path, Told()).status == "completed"

    class Untellable(Points):
        def checkpoint_metadata(self) -> Mapping[str, Any]:
            return {"loss": torch.tensor(1.0)}

    with pytest.raises(UsageError, match="checkpoint_metadata returned what a manifest cannot"):
        fit(tmp_path / "b", Untellable())


def test_trained_state_dict(tmp_path: Path) -> None:
    """What it returns is exported, as modules or as states, and nothing else."""

    class Exporting(Points):
        def trained_state_dict(self) -> Mapping[str, Any]:
            return {"first": self.module[0], "sum": {"w": self.module[0].weight.detach() * 2}}

    fit(tmp_path, Exporting())
    assert sorted(path.name for path in (tmp_path / "model").glob("*.safetensors")) == [
        "first.safetensors", "sum.safetensors"
    ]  # fmt: skip


def test_a_model_that_is_fitted_again_goes_on(tmp_path: Path) -> None:
    """Parts are made once; a fit after an evaluation makes what training needs besides."""
    model = Points()
    model.validate(loader())
    module = model.module
    assert fit(tmp_path, model).status == "completed"
    assert model.module is module
    assert model.optimizer.state


def test_a_model_with_parts_of_its_own_is_fitted_after_a_validation(tmp_path: Path) -> None:
    """What its setup has made is all there is: no module and no optimizer are asked for."""

    class Own(Points):
        optimizer = None

        def setup(self) -> None:
            self.net, self.loss = network(), nn.CrossEntropyLoss()
            self.pair = [torch.optim.SGD([p], lr=0.1) for p in self.net[0].parameters()]

        def forward(self, inputs: Any) -> Any:
            return self.net(inputs)

        def optimizer_step(self) -> None:
            self.updates.step(*self.pair)

        def zero_grad(self) -> None:
            self.net.zero_grad()

    model = Own()
    before = model.validate(loader())["eval/loss"]
    assert fit(tmp_path, model).status == "completed"
    assert model.validate(loader())["eval/loss"] != before


@pytest.mark.parametrize("step_on", ["update", "epoch", "eval/loss"])
def test_schedulers_step_when_asked(step_on: str, tmp_path: Path) -> None:
    """After each update, each epoch or on a metric, exact under stops."""
    schedulers = {
        "update": ("torch.optim.lr_scheduler.CosineAnnealingLR", {"T_max": "total_updates"}),
        "epoch": ("torch.optim.lr_scheduler.StepLR", {"step_size": 1, "step_on": "epoch"}),
        "eval/loss": (
            "torch.optim.lr_scheduler.ReduceLROnPlateau",
            {"patience": 0, "threshold": 10.0, "step_on": "eval/loss"},
        ),
    }
    assert_exact(tmp_path, lambda: Points({"scheduler": schedulers[step_on]}), accumulate=2)
    _, state = checkpoint(tmp_path / "straight")
    steps = {"update": 9, "epoch": 3, "eval/loss": 3}  # two batches an update, the last alone
    assert state["state"]["scheduler"]["last_epoch"] == steps[step_on]
    rate = state["state"]["optimizer"]["param_groups"][0]["lr"]
    assert rate == pytest.approx({"update": 0.0, "epoch": 1e-6, "eval/loss": 1e-6}[step_on])


def test_what_is_trained_begins_in_training_mode(tmp_path: Path) -> None:
    """A module that comes in eval mode is put in training mode if it is trained: no teacher is."""

    class Student(Points):
        def setup(self) -> None:
            super().setup()
            self.teacher = network().eval()
            self.module.eval()  # as a pretrained one may come
            self.modes: list[bool] = []

        def on_training_start(self) -> None:
            self.modes += [self.module.training, self.teacher.training]

    fit(tmp_path, Student(), 3)
    model = Student()
    fit(tmp_path, model)
    assert model.modes == [True, False]
    assert (model.module.training, model.teacher.training) == (True, False)
