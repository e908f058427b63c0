"""A saved model loaded again: from a checkpoint, a run, an export, and from MLflow."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from support import differing
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from igniter import Model, RunSpec, load_model, train, yamlfile
from igniter.checkpoint.store import load
from igniter.errors import (
    CheckpointDamaged,
    CheckpointMismatch,
    NoUsableCheckpoint,
    RunRefused,
    UsageError,
)
from igniter.models.description import Description
from igniter.tracking.sync import sync_run

# torch and sqlalchemy warn of what mlflow does with them, and mlflow of itself.
of_mlflow = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


class Net(nn.Module):
    """Two layers, with batch norm between them."""

    def __init__(self, width: int = 4, bias: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(2, width, bias=bias)
        self.norm = nn.BatchNorm1d(width)
        self.last = nn.Linear(width, 1)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """One value a point."""
        return self.last(self.norm(self.first(points)))


def scaled(by: float = 1.0) -> Any:
    """A transform of predictions."""
    return lambda prediction: prediction * by


class Points(Model):
    """Learns a value for each point."""

    module = {"net": Net, "line": "torch.nn.Linear"}  # noqa: RUF012
    loss = nn.MSELoss
    optimizer = torch.optim.SGD
    prediction_transform = scaled
    seen = 0

    def on_batch_end(self, batch: Any, output: Any) -> None:
        """Count."""
        self.seen = self.seen + 1


PARAMETERS: dict[str, Any] = {
    "module": ("net", {"width": 5}),
    "optimizer": {"lr": 0.125, "momentum": 0.5},
    "prediction_transform": {"by": 2.0},
}


def points(**how: Any) -> DataLoader[Any]:
    """Twelve points and their values, in batches of four."""
    inputs = torch.linspace(-1, 1, 24).reshape(12, 2)
    return DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=4, **how)


def trained(model: Model, run_dir: Path, evaluations: Any = None, **settings: Any) -> Model:
    """Fit it for two epochs."""
    given = {
        "max_epochs": 2,
        "mlflow": False,
        "mlflow_log_model": False,
        "progress": "none",
        "picture": False,
        "output_dir": run_dir,
        "device": "cpu",
    }
    model.fit(points(shuffle=True), evaluations, **{**given, **settings})
    return model


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here depends on a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    """A trained model and its run's directory, which no test changes."""
    run_dir = tmp_path_factory.mktemp("saved") / "run"
    return trained(Points(PARAMETERS), run_dir, save_every="1 epoch"), run_dir


@pytest.fixture
def run_dir(saved: tuple[Model, Path], tmp_path: Path) -> Path:
    """A copy of that directory."""
    return Path(shutil.copytree(saved[1], tmp_path / "copy", symlinks=True))


def assert_same(a: Model, b: Model) -> None:
    """Two models have the same weights, and predict the same, bit for bit."""
    assert differing(*({n: m.state_dict() for n, m in x.modules().items()} for x in (a, b))) == []
    assert differing(a.predict(torch.ones(3, 2)), b.predict(torch.ones(3, 2))) == []


def test_the_comparison_notices() -> None:
    """Models of other weights are not taken for the same."""
    with pytest.raises(AssertionError):
        assert_same(Points(PARAMETERS).build(), Points(PARAMETERS).build())


# -- where from --------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [".", "checkpoints", "checkpoints/latest", "model"])
def test_loaded(where: str, saved: tuple[Model, Path]) -> None:
    """A run's directory, a checkpoint's and an export's give the trained model."""
    model = load_model(saved[1] / where, device="cpu")
    assert type(model) is Points
    assert_same(model, saved[0])
    assert not model.module.training


def test_a_text_is_a_path(saved: tuple[Model, Path]) -> None:
    """A path may be given as text."""
    assert_same(load_model(str(saved[1])), saved[0])


def test_a_checkpoint_gives_all_that_is_saved(saved: tuple[Model, Path]) -> None:
    """The optimizer's state, and plain attributes that training changed, are there too."""
    model = load_model(saved[1], device="cpu")
    assert differing(model.optimizer.state_dict(), saved[0].optimizer.state_dict()) == []
    assert model.optimizer.state_dict()["state"] != {}
    assert (model.seen, saved[0].seen) == (6, 6)


def test_the_best(tmp_path: Path) -> None:
    """Of a run that follows a metric the best is taken, not the newest."""
    settings = {"best_metric": "eval/loss", "best_mode": "max", "max_epochs": 3}
    trained(Points(PARAMETERS), tmp_path / "run", points(), **settings)
    best = (tmp_path / "run/checkpoints/best").resolve()
    newest = load(tmp_path / "run").state["module"]
    found = load_model(tmp_path / "run").module.state_dict()
    assert differing(dict(found), dict(load(best).state["module"])) == []
    assert differing(dict(found), dict(newest)) != []


def test_random_generators_stay(saved: tuple[Model, Path]) -> None:
    """Loading draws nothing from the caller's generators."""
    before = torch.get_rng_state()
    load_model(saved[1])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (lambda run: shutil.rmtree(run), UsageError, "there is no directory"),
        (
            lambda run: shutil.rmtree(run / "checkpoints"),
            NoUsableCheckpoint,
            "there is no model in",
        ),
    ],
)
def test_nothing_there(damage: Any, error: Any, said: str, run_dir: Path) -> None:
    """A path that leads to no model is an error that says what would do."""
    damage(run_dir)
    with pytest.raises(error, match=said):
        load_model(run_dir)


def test_a_directory_of_something_else(tmp_path: Path) -> None:
    """A directory without a model is an error that says what would do."""
    with pytest.raises(NoUsableCheckpoint, match=r"no checkpoint, no model\.yaml"):
        load_model(tmp_path)


def test_a_damaged_checkpoint(run_dir: Path) -> None:
    """One that is named is refused; of a run the one before is taken, with a warning."""
    newest = load(run_dir).checkpoint.path
    state = newest / "state.pt"
    data = bytearray(state.read_bytes())
    data[-100] ^= 1
    state.write_bytes(data)
    with pytest.raises(CheckpointDamaged, match=r"state\.pt"):
        load_model(newest)
    with pytest.warns(UserWarning, match="The checkpoint before it is used"):
        model = load_model(run_dir)
    assert model.seen == 3


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"\x10\0\0\0\0\0\0\0not json at all!"])
def test_a_damaged_export(content: bytes, run_dir: Path) -> None:
    """An export whose weights are no safetensors is refused by name."""
    (run_dir / "model/module.safetensors").write_bytes(content)
    with pytest.raises(CheckpointDamaged, match=r"module\.safetensors cannot be read"):
        load_model(run_dir / "model")


def test_an_export_without_weights(run_dir: Path) -> None:
    """A module that the export has nothing of does not stay as it was drawn."""
    (run_dir / "model/module.safetensors").unlink()
    with pytest.raises(CheckpointMismatch, match=r"'module' \(Net\):\n  nothing is saved of it"):
        load_model(run_dir / "model")


def test_a_run_of_functions(tmp_path: Path) -> None:
    """What was trained by functions does not say what it is made of."""
    net = Net()
    train(
        to_save={"module": net},
        train_spec=RunSpec(step=lambda engine, batch: {"x": net(batch[0]).sum()}, loader=points()),
        max_epochs=1,
        mlflow=False,
        mlflow_log_model=False,
        progress="none",
        picture=False,
        output_dir=tmp_path,
    )
    with pytest.raises(UsageError, match=r"was not saved by an igniter\.Model"):
        load_model(tmp_path)


# -- parts -------------------------------------------------------------------------------------


def test_parts_left_out(saved: tuple[Model, Path]) -> None:
    """None leaves a part out, and the rest is loaded."""
    model = load_model(saved[1], loss=None, optimizer=None, prediction_transform=None)
    assert (model.loss, model.optimizer, model.prediction_transform) == (None, None, None)
    assert differing(dict(model.module.state_dict()), dict(saved[0].module.state_dict())) == []
    assert torch.equal(model.predict(torch.ones(1, 2)) * 2, saved[0].predict(torch.ones(1, 2)))


def test_other_parameters(saved: tuple[Model, Path]) -> None:
    """Other parameters of a part take the place of those that were saved."""
    model = load_model(saved[1], prediction_transform={"by": 6.0}, loss=nn.L1Loss)
    ones = torch.ones(1, 2)
    assert model.predict(ones).item() == pytest.approx(3 * saved[0].predict(ones).item())
    assert type(model.loss) is nn.L1Loss


def test_an_optimizer_with_other_parameters_begins_anew(saved: tuple[Model, Path]) -> None:
    """What it is given is not overwritten by the state of another."""
    model = load_model(saved[1], optimizer={"lr": 0.5})
    assert model.optimizer.param_groups[0]["lr"] == 0.5
    assert model.optimizer.state_dict()["state"] == {}
    other = load_model(saved[1], optimizer=("torch.optim.Adam", {"lr": 0.5}))
    assert type(other.optimizer) is torch.optim.Adam


def test_a_part_that_there_is_not(saved: tuple[Model, Path]) -> None:
    """A misspelt part is an error, not silence."""
    with pytest.raises(UsageError, match="Points has no part 'optimiser'; the nearest is 'optimiz"):
        load_model(saved[1], optimiser=None)
    with pytest.raises(UsageError, match="Points has no part 'fit'"):
        load_model(saved[1], fit=None)


def test_a_device_that_there_is_not(saved: tuple[Model, Path]) -> None:
    """A device that is not here is an error in words."""
    assert load_model(saved[1], device=torch.device("cpu")).device == torch.device("cpu")
    with pytest.raises(UsageError, match="is no device"):
        load_model(saved[1], device="tpu7")


def test_weights_that_do_not_fit(saved: tuple[Model, Path]) -> None:
    """What differs is named; with strict=False the rest is loaded, with a warning."""
    other = ("net", {"width": 5, "bias": False})
    with pytest.raises(CheckpointMismatch) as raised:
        load_model(saved[1], module=other)
    assert "does not fit 'module' (Net):\n  gone from the code: first.bias" in str(raised.value)
    assert "strict=False" in str(raised.value)
    with pytest.warns(UserWarning, match=r"gone from the code: first\.bias"):
        model = load_model(saved[1], module=other, optimizer=None, strict=False)
    weights = saved[0].module.state_dict()
    del weights["first.bias"]
    assert differing(dict(model.module.state_dict()), dict(weights)) == []


def test_another_shape_is_left_as_it_was_drawn(saved: tuple[Model, Path]) -> None:
    """With strict=False weights of another shape stay, and those of the same are loaded."""
    other = ("net", {"width": 7})
    with pytest.raises(CheckpointMismatch, match=r"of another shape: first\.weight \(5, 2\) → "):
        load_model(saved[1] / "model", module=other)
    with pytest.warns(UserWarning, match="The rest of it is loaded"):
        model = load_model(saved[1] / "model", module=other, strict=False)
    assert torch.equal(model.module.last.bias, saved[0].module.last.bias)


def test_an_optimizer_that_does_not_fit(saved: tuple[Model, Path]) -> None:
    """A state for other parameters is refused, with the way out."""
    with (
        pytest.raises(CheckpointMismatch, match="or leave it out, such as load_model"),
        pytest.warns(UserWarning, match="The rest of it is loaded"),
    ):
        load_model(saved[1], module=("net", {"width": 5, "bias": False}), strict=False)


# -- classes -----------------------------------------------------------------------------------


class Others(Model):
    """Another class."""

    module = Net


class MorePoints(Points):
    """One that inherits."""


def test_a_class_that_is_given(saved: tuple[Model, Path]) -> None:
    """One that inherits from the saved one is taken; another only with strict=False."""
    assert type(load_model(saved[1], model_class=MorePoints)) is MorePoints
    with pytest.raises(UsageError, match=r"is a model of .*:Points, not of Others"):
        load_model(saved[1], model_class=Others)
    wrong: Any = Others()
    with pytest.raises(UsageError, match="give a class that inherits from Model"):
        load_model(saved[1], model_class=wrong)
    model = load_model(
        saved[1],
        model_class=Others,
        strict=False,
        module={"width": 5},
        optimizer=None,
        prediction_transform=None,
    )
    assert type(model) is Others
    assert differing(dict(model.module.state_dict()), dict(saved[0].module.state_dict())) == []


def renamed(run_dir: Path, class_path: str) -> Path:
    """An export as if it were of another class."""
    path = run_dir / "model/model.yaml"
    path.write_text(yamlfile.dump({**yamlfile.load(path), "class_path": class_path}))
    return run_dir / "model"


def test_a_class_that_is_not_imported(run_dir: Path) -> None:
    """It is not imported by its name in the file; the error says to do so."""
    with pytest.raises(UsageError) as raised:
        load_model(renamed(run_dir, "this:NotHere"))
    assert "is a model of this:NotHere, which is not imported" in str(raised.value)
    assert "Import it before load_model" in str(raised.value)


def test_the_class_of_a_script(saved: tuple[Model, Path], run_dir: Path) -> None:
    """What a script trained is found where the script is imported as a module."""
    name, Points.__qualname__ = Points.__qualname__, "OnlyHere"  # other tests have a Points, too
    try:
        assert_same(load_model(renamed(run_dir, "__main__:OnlyHere")), saved[0])
        with pytest.raises(UsageError, match="which is not imported"):
            load_model(renamed(run_dir, "elsewhere:OnlyHere"))
    finally:
        Points.__qualname__ = name


def test_a_class_defined_anew(saved: tuple[Model, Path]) -> None:
    """Of two with one name, as a notebook's cell leaves them, the later one is taken."""
    name = {"__module__": Points.__module__, "__qualname__": "Points"}
    again = type("Points", (Points,), name)
    assert type(load_model(saved[1])) is again
    again.__qualname__ = "Earlier"


# -- what a file says --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["os:system", "subprocess.Popen", "builtins.exec", "shutil:rmtree"]
)
@pytest.mark.parametrize("part", ["module", "loss", "prediction_transform"])
def test_nothing_that_a_file_names_is_run(name: str, part: str, run_dir: Path) -> None:
    """Of the names in a file only modules, optimizers and schedulers are found."""
    path = run_dir / "model/model.yaml"
    data = yamlfile.load(path)
    data["parameters"][part] = [name, {"command": f"touch {run_dir}/ran", "args": "x"}]
    path.write_text(yamlfile.dump(data))
    with pytest.raises(UsageError, match=rf"the {part}: '{name}' is what a file names"):
        load_model(run_dir / "model")
    assert not (run_dir / "ran").exists()


def test_nothing_is_imported_that_a_file_names(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that could be imported is not, whatever is in it."""
    (tmp_path / "could_be_67.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = run_dir / "model/model.yaml"
    data = yamlfile.load(path)
    data["parameters"]["module"] = ["could_be_67.Net", {}]
    path.write_text(yamlfile.dump(data))
    with pytest.raises(UsageError, match="Import it before, or give the part itself"):
        load_model(run_dir / "model")
    assert_names_found = load_model(run_dir / "model", module=("net", {"width": 5}))
    assert type(assert_names_found.module) is Net


class Named(Model):
    """Of which the parts are named in its parameters, as a YAML file does."""

    loss = nn.MSELoss


def test_parts_named_by_path(tmp_path: Path) -> None:
    """Parts that the user's configuration names are found again."""
    model = trained(
        Named(
            {
                "module": {"class": "torch.nn.Linear", "in_features": 2, "out_features": 1},
                "optimizer": ("torch.optim.SGD", {"lr": 0.1}),
                "scheduler": {
                    "class": "igniter.schedulers.warmup_cosine",
                    "total_updates": "total_updates",
                },
            }
        ),
        tmp_path / "run",
    )
    found = load_model(tmp_path / "run", device="cpu")
    assert_same(found, model)
    trained(found, tmp_path / "more")
    assert found.optimizer.param_groups[0]["lr"] == 0
    assert load(tmp_path / "more").manifest["model"] == load(tmp_path / "run").manifest["model"]


def test_what_is_no_plain_data(tmp_path: Path) -> None:
    """A part that was given as a function made within another has to be given again."""
    parameters = {**PARAMETERS, "prediction_transform": lambda: lambda prediction: prediction * 8}
    model = trained(Points(parameters), tmp_path)
    with pytest.raises(UsageError, match=r"the parameters of prediction_transform: they were no"):
        load_model(tmp_path)
    found = load_model(tmp_path, prediction_transform={"by": 8.0})
    assert_same(found, model)
    assert load_model(tmp_path, prediction_transform=None).prediction_transform is None


def test_what_a_warmup_is_told_to_make(tmp_path: Path) -> None:
    """A name within the arguments of a part that a file names is not run either."""
    named = {
        "module": {"class": "torch.nn.Linear", "in_features": 2, "out_features": 1},
        "optimizer": ("torch.optim.SGD", {"lr": 0.1}),
        "scheduler": (
            "igniter.warmup.with_warmup",
            {"warmup": 2, "factory": "torch.optim.lr_scheduler.StepLR", "step_size": 1},
        ),
    }
    trained(Named(named), tmp_path / "run")
    path = tmp_path / "run/model/model.yaml"
    trained(load_model(path.parent), tmp_path / "sound")
    text = path.read_text()
    assert "torch.optim.lr_scheduler.StepLR" in text
    path.write_text(text.replace("torch.optim.lr_scheduler.StepLR", "os.system"))
    with pytest.raises(UsageError, match=r"'os\.system' is what a file names"):
        trained(load_model(path.parent), tmp_path / "more")


@pytest.mark.parametrize(
    ("parameters", "known", "unknown"),
    [
        ({"a": ("net", {"b": (1, 2.5, None)})}, {"a": ["net", {"b": [1, 2.5, None]}]}, []),
        ({"loss": nn.L1Loss}, {"loss": {"class": "torch.nn.modules.loss:L1Loss"}}, []),
        ({"a": None, "b": {}, "c": "x"}, {"a": None, "b": {}, "c": "x"}, []),
        ({"a": {1: 2}, "b": torch.ones(1), "c": {"d": torch.float16}}, {}, ["a", "b", "c"]),
        ({"a": lambda: 0, "hub_token": "s3cret", "b": {"api_key": "s3cret"}}, {}, None),
    ],
)  # fmt: skip
def test_described(parameters: Any, known: Any, unknown: Any) -> None:
    """Plain data and what can be imported is described; nothing else, and no secret."""
    found = Description.of(Points, parameters)
    assert found.parameters == known
    assert found.unknown == (list(parameters) if unknown is None else unknown)
    again = Description.read(json.loads(json.dumps(found.as_data())))
    assert again == found
    assert "s3cret" not in json.dumps(found.as_data())


@pytest.mark.parametrize(
    "data",
    [None, [], {}, {"class_path": "a:B"}, {"class_path": 1, "parameters": {}, "unknown": []},
     {"class_path": "a:B", "parameters": [], "unknown": []},
     {"class_path": "a:B", "parameters": {}, "unknown": [1]},
     {"class_path": "a:B", "parameters": {}, "unknown": [], "more": 1}],
)  # fmt: skip
def test_no_description(data: Any) -> None:
    """What is no description is not taken for one."""
    assert Description.read(data) is None


# -- other models ------------------------------------------------------------------------------


class Pair(Model):
    """Its own setup, with two networks of which the second shares weights, and two optimizers."""

    def setup(self) -> None:
        """Make them."""
        width = self.parameters["width"]
        self.one = nn.Sequential(nn.Linear(2, width), nn.Linear(width, 2), nn.Linear(2, width))
        self.one[2].weight = self.one[0].weight
        self.two = nn.Linear(2, 1)
        self.optimizers = [torch.optim.Adam(p.parameters(), lr=0.1) for p in (self.one, self.two)]

    def train_step(self, batch: Any) -> Any:
        """Train both."""
        loss = (self.forward(batch[0]) - batch[1]).square().mean()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return {"loss": loss}

    def forward(self, inputs: Any) -> Any:
        """One after the other."""
        return self.two(self.one[:2](inputs))


@pytest.mark.parametrize("where", [".", "model"])
def test_a_setup_of_ones_own(where: str, tmp_path: Path) -> None:
    """Every part is loaded under its name, tied weights stay tied, plain parameters are kept."""
    model = trained(Pair({"width": 3}), tmp_path / "run")
    found = load_model(tmp_path / "run" / where, device="cpu")
    assert isinstance(found, Pair)
    assert_same(found, model)
    assert found.one[2].weight is found.one[0].weight
    if where == ".":
        states = [[o.state_dict() for o in each.optimizers] for each in (found, model)]
        assert differing(*states) == []


def test_training_goes_on(saved: tuple[Model, Path], tmp_path: Path) -> None:
    """A loaded model is trained further as another run, its optimizer with the state it had."""
    found = load_model(saved[1], device="cpu")
    momentum = [s["momentum_buffer"].clone() for s in found.optimizer.state.values()]
    assert momentum
    trained(found, tmp_path / "more")
    assert found.seen == 12
    again = load_model(tmp_path / "more", device="cpu")
    assert_same(again, found)


# -- MLflow ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(store: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, str]:
    """A model whose run is in a real store, and the run's id."""
    folder = tmp_path_factory.mktemp("stored")
    model = trained(
        Points(PARAMETERS),
        folder / "run",
        mlflow=True,
        mlflow_offline=True,
        mlflow_log_model=True,
        mlflow_tracking_uri=store,
        mlflow_register_model="points",
        mlflow_log_checkpoints="last",
    )
    outcome = sync_run(folder / "run")
    assert (outcome.problem, outcome.left) == (None, 0)
    shutil.rmtree(folder / "run")
    MlflowClient(store).set_registered_model_alias("points", "ours", "1")
    return model, str(outcome.run_id)


@pytest.mark.slow
class TestMlflow:
    """From a store of MLflow's, the run's directory being gone."""

    pytestmark = of_mlflow

    @pytest.mark.parametrize(
        "path",
        [
            "runs:/{}",
            "runs:/{}/checkpoints/last",
            "models:/points/1",
            "models:/points/latest",
            "models:/points@ours",
            "runs:/{}/module",
        ],
    )
    def test_loaded(
        self,
        path: str,
        stored: tuple[Model, str],
        store: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A run, a checkpoint of it and a registered model give the trained model."""
        model, run_id = stored
        assert_same(load_model(path.format(run_id), tracking_uri=store, device="cpu"), model)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
        again = load_model(path.format(run_id), prediction_transform={"by": 2}, device="cpu")
        assert_same(again, model)

    @pytest.mark.parametrize(
        "path",
        [
            "runs:/0123",
            "runs:/{}/nothing",
            "models:/other/1",
            "models:/points/7",
            "models:/",
            "models:/points@b",
        ],
    )
    def test_nothing_there(self, path: str, stored: tuple[Model, str], store: str) -> None:
        """What the store has not is an error that names the URI."""
        uri = path.format(stored[1])
        with pytest.raises((UsageError, RunRefused)) as raised:
            load_model(uri, tracking_uri=store)
        assert uri in str(raised.value)

    def test_no_store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """No database is made where there is none."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with pytest.raises(UsageError, match=r"there is no MLflow database .*mlflow\.db"):
            load_model("models:/points/1")
        assert list(tmp_path.iterdir()) == []
