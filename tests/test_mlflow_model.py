"""The model of a completed run, exported as a program and logged as a model of MLflow's."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import Small, environment
from torch import nn

from igniter import RunSpec, train
from igniter.examples import Examples
from igniter.program import export_programs
from igniter.signature import Signature
from igniter.tracking.sync import sync_run

# torch and sqlalchemy warn of what mlflow does with them, and mlflow of itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


class Net(nn.Module):
    """A small convolution with what behaves otherwise in training."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Dropout(), nn.Flatten()
        )
        self.out = nn.Linear(2 * 4 * 4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Three scores an image."""
        return self.out(self.layers(images))


def program(path: Path) -> Any:
    """The exported program at ``path``, as a function."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.load(path).module()


def trained(run_dir: Path, model: nn.Module, *, call: Any = None, **settings: Any) -> Any:
    """Train ``model`` on four batches of five images, offline."""
    images = torch.rand(20, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(engine: Any, batch: Any) -> dict[str, Any]:
        optimizer.zero_grad()
        loss = (call or model)(batch).square().mean()
        loss.backward()
        optimizer.step()
        return {"loss": loss}

    given: dict[str, Any] = {
        "max_epochs": 1,
        "output_dir": run_dir,
        "progress": "none",
        "mlflow_offline": True,
        "mlflow_tracking_uri": f"sqlite:///{run_dir}/mlflow.db",
    }
    return train(
        to_save={"model": model, "optimizer": optimizer},
        train_spec=RunSpec(
            step=step,
            loader=torch.utils.data.DataLoader(images, batch_size=5),
            metrics={"loss": "loss"},
        ),
        **{**given, **settings},
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Net]:
    """A completed run whose model was exported, with the model; nothing was sent yet."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    model = Net()
    assert trained(run_dir, model).status == "completed"
    return run_dir, model


def test_the_program_is_the_model(finished: tuple[Path, Net]) -> None:
    """It gives bit for bit what the trained model gives in eval mode, for any number of samples."""
    run_dir, model = finished
    exported = program(run_dir / "model" / "model.pt2")
    model.eval()
    for samples in (1, 2, 7):
        images = torch.rand(samples, 1, 6, 6)
        assert torch.equal(exported(images), model(images))
        assert not torch.equal(exported(images), Net().eval()(images))


def test_the_signature_has_two_samples_of_the_data(finished: tuple[Path, Net]) -> None:
    """Types, shapes and values of the first batch that the model was called with."""
    signature = Signature.load(finished[0] / "model" / "model.json")
    assert signature is not None
    assert signature.iteration == 4
    assert (signature.input_dtype, signature.input_shape) == ("float32", [2, 1, 6, 6])
    assert (signature.output_dtype, signature.output_shape) == ("float32", [2, 3])
    images = torch.rand(20, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.tensor(signature.example), images[:2])


class Logged:
    """What MLflow holds of the models of one run."""

    def __init__(self, uri: str, run_id: str) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(uri)
        self.run = self.client.get_run(run_id)
        found = self.client.search_logged_models(
            [self.run.info.experiment_id], f"source_run_id = '{run_id}'"
        )
        self.models = list(found)


@pytest.fixture(scope="module")
def sent(finished: tuple[Path, Net], store: str) -> tuple[Path, str, str]:
    """The finished run, sent to a database: its directory, the database, the MLflow run's id."""
    run_dir, _ = finished
    outcome = sync_run(run_dir, tracking_uri=store, warn=pytest.fail)
    assert outcome.problem is None
    assert outcome.run_id is not None
    return run_dir, store, outcome.run_id


def test_the_model_is_logged_at_its_iteration(sent: tuple[Path, str, str]) -> None:
    """One model, ready, linked to the run and the iteration, with signature and example."""
    _, uri, run_id = sent
    logged = Logged(uri, run_id)
    (model,) = logged.models
    assert (model.name, str(model.status)) == ("model", "READY")
    (output,) = logged.run.outputs.model_outputs
    assert (output.model_id, output.step) == (model.model_id, 4)
    files = {path.name for path in Path(model.artifact_location).rglob("*") if path.is_file()}
    assert files >= {"MLmodel", "model.pt2", "input_example.json", "requirements.txt"}


def test_mlflow_loads_it_and_predicts(
    finished: tuple[Path, Net], sent: tuple[Path, str, str]
) -> None:
    """``mlflow.pyfunc.load_model(…).predict`` gives what the trained model gives, bit for bit."""
    import mlflow

    _, uri, run_id = sent
    (logged,) = Logged(uri, run_id).models
    loaded = mlflow.pyfunc.load_model(str(logged.artifact_location))
    images = torch.rand(5, 1, 6, 6)
    with torch.no_grad():
        expected = finished[1].eval()(images).numpy()
    assert np.array_equal(loaded.predict(images.numpy()), expected)
    with pytest.raises(mlflow.exceptions.MlflowException, match="shape"):
        loaded.predict(images.numpy()[:, :, 0])


@pytest.mark.slow
def test_mlflow_models_predict_serves_it(
    finished: tuple[Path, Net], sent: tuple[Path, str, str], tmp_path: Path
) -> None:
    """The command line takes the stored example and prints the model's predictions."""
    _, uri, run_id = sent
    (logged,) = Logged(uri, run_id).models
    location = Path(logged.artifact_location)
    command = [sys.executable, "-m", "mlflow", "models", "predict", "--env-manager", "local"]
    command += ["-m", str(location), "-i", str(location / "serving_input_example.json")]
    done = subprocess.run(
        [*command, "-t", "json", "-o", str(tmp_path / "out.json")],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    predicted = json.loads((tmp_path / "out.json").read_text())["predictions"]
    signature = Signature.load(finished[0] / "model" / "model.json")
    assert signature is not None
    with torch.no_grad():
        expected = finished[1].eval()(torch.tensor(signature.example))
    assert torch.equal(torch.tensor(predicted), expected)


def test_sent_again_it_stays_one(sent: tuple[Path, str, str]) -> None:
    """With tracking.json lost, or an upload that was cut short, no second model is made."""
    run_dir, uri, run_id = sent
    (run_dir / "tracking.json").unlink()
    assert sync_run(run_dir, tracking_uri=uri).run_id == run_id
    assert len(Logged(uri, run_id).models) == 1
    # As before it was finalized.
    unready = f"UPDATE logged_models SET status = 1 WHERE source_run_id = '{run_id}'"
    with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database, database:
        database.execute(unready)
    assert str(Logged(uri, run_id).models[0].status) == "PENDING"
    (run_dir / "tracking.json").unlink()
    assert sync_run(run_dir, tracking_uri=uri).problem is None
    (model,) = Logged(uri, run_id).models
    assert str(model.status) == "READY"


def test_a_longer_run_logs_its_model_too(tmp_path: Path, store: str) -> None:
    """Made longer, the run has a second model at its new end; told to log none, it keeps one."""
    run_dir = tmp_path / "run"
    for epochs, wanted in ((1, True), (2, True), (3, False)):
        trained(
            run_dir,
            Net(),
            max_epochs=epochs,
            mlflow_log_model=wanted,
            mlflow_tracking_uri=store,
            mlflow_register_model="our net" if wanted else None,
        )
        for _ in range(2):
            outcome = sync_run(run_dir, warn=pytest.fail)
            assert outcome.problem is None
            assert outcome.run_id is not None
            (run_dir / "tracking.json").unlink()
        logged = Logged(store, outcome.run_id)
        assert sorted(m.step for m in logged.run.outputs.model_outputs) == [4, 8][:epochs]
        versions = logged.client.search_model_versions(f"run_id = '{outcome.run_id}'")
        assert {version.name for version in versions} == {"our net"}
        sources = sorted(version.source for version in versions)
        assert sources == sorted(model.artifact_location for model in logged.models)


def test_a_name_that_the_registry_refuses_is_one_line(tmp_path: Path, store: str) -> None:
    """The model is logged all the same."""
    run_dir = tmp_path / "run"
    trained(run_dir, Net(), mlflow_register_model="a/b", mlflow_tracking_uri=store)
    said: list[str] = []
    outcome = sync_run(run_dir, warn=said.append)
    assert len(said) == 1
    assert "models/model: " in said[0]
    assert "a/b" in said[0]
    assert "\n" not in said[0]
    assert outcome.run_id is not None
    assert len(Logged(store, outcome.run_id).models) == 1


@pytest.mark.parametrize("how", ["log_model", "mlflow", "stopped"])
def test_none_is_exported_where_none_is_wanted(tmp_path: Path, how: str) -> None:
    """Not without tracking, not when told so, and not of a run that was stopped."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    settings: dict[str, Any] = {"mlflow": True, "mlflow_offline": True, "mlflow_tracking_uri": uri}
    settings["mlflow_log_model"] = True
    if how != "stopped":
        settings[{"log_model": "mlflow_log_model"}.get(how, how)] = False
    result = Small(tmp_path / "run").train(stop_at=5 if how == "stopped" else None, **settings)
    assert result.status == ("interrupted" if how == "stopped" else "completed")
    assert not list((tmp_path / "run").rglob("*.pt2"))


def test_training_is_the_same_with_and_without(tmp_path: Path) -> None:
    """Looking at what the model is called with changes no bit of the weights."""
    weights = []
    for wanted in (True, False):
        torch.manual_seed(7)
        model = Net()
        trained(tmp_path / str(wanted), model, mlflow_log_model=wanted)
        assert not model.layers[0]._forward_pre_hooks
        assert not model._forward_pre_hooks
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        assert model.training
    assert torch.equal(*weights)


def called(module: nn.Module, *args: Any, **kwargs: Any) -> Examples:
    """What is kept of one call."""
    examples = Examples({"model": module})
    with examples.watched(), torch.no_grad():
        module(*args, **kwargs)
    return examples


class Two(nn.Module):
    """Gives two tensors."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both."""
        return x, x


class Branch(nn.Module):
    """Does what its input's values say, which no graph can."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Either."""
        return x if x.sum() > 0 else -x


class Fixed(nn.Module):
    """Takes two samples and no other number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same."""
        return x.reshape(2, -1)


class Whole(nn.Module):
    """Gives one number for all samples."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Their mean."""
        return x.mean()


@pytest.mark.parametrize(
    ("module", "args", "said"),
    [
        (nn.Linear(2, 1), None, "never called"),
        (nn.Bilinear(2, 2, 1), (torch.rand(3, 2), torch.rand(3, 2)), "one tensor and nothing else"),
        (nn.Flatten(0), (torch.tensor(1.0),), "which is no batch"),
        (Two(), (torch.rand(3, 2),), "does not return one tensor"),
        (Whole(), (torch.rand(3, 2),), "does not return one tensor"),
        (Branch(), (torch.rand(3, 2),), ""),
        (Fixed(), (torch.rand(2, 2),), ""),
        (nn.Linear(2, 1).bfloat16(), (torch.rand(3, 2).bfloat16(),), "BFloat16"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_cannot_be_exported_is_said(
    tmp_path: Path, module: nn.Module, args: Any, said: str
) -> None:
    """One line, no file of it, and what was there of an earlier export is gone."""
    (tmp_path / "model.pt2").write_bytes(b"old")
    (tmp_path / "model.json").write_text("{}")
    examples = Examples({"model": module}) if args is None else called(module, *args)
    problems = export_programs(tmp_path, {"model": module}, examples.found, 1)
    assert said in problems["model"]
    assert problems["model"]
    assert "\n" not in problems["model"]
    assert list(tmp_path.iterdir()) == []


def test_a_loss_beside_a_model_is_not_spoken_of(tmp_path: Path) -> None:
    """What is never called with one tensor is told only where nothing was exported."""
    loss, model = nn.CrossEntropyLoss(), nn.Linear(2, 1)
    examples = {"loss": "it is not called so", "model": torch.rand(2, 2)}
    assert export_programs(tmp_path, {"loss": loss, "model": model}, examples, 1) == {}
    failing = {"loss": loss, "model": Branch()}
    assert set(export_programs(tmp_path, failing, examples, 1)) == {"loss", "model"}


def test_a_module_compiled_in_place_is_left_alone(tmp_path: Path) -> None:
    """Its graph, which may not be broken, is what it would be; it has no example."""
    compiles: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiles.append(len(graph.graph.nodes))
        return graph.forward

    counts = []
    for watched in (True, False):
        compiles.clear()
        torch._dynamo.reset()
        module = Net().eval()
        module.compile(backend=backend, fullgraph=True)
        examples = Examples({"model": module} if watched else {})
        with torch.no_grad(), examples.watched():
            for _ in range(3):
                module(torch.rand(4, 1, 6, 6))
        counts.append(list(compiles))
        if watched:
            problems = export_programs(tmp_path, {"model": module}, examples.found, 1)
            assert "compiled code alone" in problems["model"]
    assert counts[0] == counts[1]
    assert len(counts[0]) == 1


def test_a_scripted_module_is_said(tmp_path: Path) -> None:
    """TorchScript lets nobody look at its calls: training goes on, and it is one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.script(nn.Linear(2, 1))
        problems = export_programs(
            tmp_path, {"model": module}, called(module, torch.rand(3, 2)).found, 1
        )
    assert "never called" in problems["model"]


def test_one_sample_alone_still_gives_any_number(tmp_path: Path) -> None:
    """A batch of one is doubled: torch would take it that there is never more."""
    module = nn.Linear(2, 1)
    found = called(module, torch.rand(1, 2)).found
    assert export_programs(tmp_path, {"a/b": module}, {"a/b": found["model"]}, 1) == {}
    assert program(tmp_path / "a_b.pt2")(torch.rand(9, 2)).shape == (9, 1)


def test_a_compiled_module_is_exported(tmp_path: Path) -> None:
    """As the module inside, and looking at its first call does not compile it twice."""
    compiles: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiles.append(1)
        return graph.forward

    module = Net().eval()
    compiled = torch.compile(module, backend=backend)
    assert isinstance(compiled, nn.Module)
    examples = Examples({"model": compiled})
    with torch.no_grad(), examples.watched():
        for _ in range(3):
            compiled(torch.rand(4, 1, 6, 6))
    assert compiles == [1]
    assert export_programs(tmp_path, {"model": module}, examples.found, 1) == {}
    images = torch.rand(3, 1, 6, 6)
    assert torch.equal(program(tmp_path / "model.pt2")(images), module(images))


def test_a_large_example_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a model of more than the most bytes is not exported."""
    from igniter import program as programs
    from igniter import tracing

    module = nn.Linear(2, 1)
    found = called(module, torch.rand(3, 2)).found
    monkeypatch.setattr(programs, "_MOST_VALUES", 3)
    assert export_programs(tmp_path, {"model": module}, found, 1) == {}
    signature = Signature.load(tmp_path / "model.json")
    assert signature is not None
    assert signature.example is None
    monkeypatch.setattr(tracing, "_MOST_BYTES", 11)
    assert "GiB" in export_programs(tmp_path, {"model": module}, found, 1)["model"]


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"iteration": 1}', "[" * 100_000])
def test_a_signature_of_junk_is_as_none(tmp_path: Path, text: str) -> None:
    """What stands there came from anywhere."""
    (tmp_path / "model.json").write_text(text)
    assert Signature.load(tmp_path / "model.json") is None


def test_sending_loads_no_program(tmp_path: Path, store: str) -> None:
    """What sends a directory from anywhere never reads the program as more than bytes."""
    run_dir = tmp_path / "run"
    trained(run_dir, Net(), mlflow_tracking_uri=store)
    (run_dir / "model" / "model.pt2").write_bytes(b"cos\nsystem\n(S'touch victim'\ntR.")
    code = (
        "import sys; from pathlib import Path; from igniter.tracking.sync import sync_run; "
        f"outcome = sync_run(Path({str(run_dir)!r})); assert not outcome.problem, outcome; "
        "assert 'torch' not in sys.modules; print(outcome.run_id)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "victim").exists()
    assert len(Logged(store, done.stdout.strip()).models) == 1
