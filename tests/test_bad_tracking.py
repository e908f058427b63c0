"""What MLflow will not have as it is: addresses, names, values, files."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import Small
from tracked import Run

from igniter import yamlfile
from igniter.errors import UsageError
from igniter.rundir import RunRecord
from igniter.tracking.names import Flat, flat, legal, worth_keeping
from igniter.tracking.place import place_of
from igniter.tracking.records import read
from igniter.tracking.sync import sync_run
from igniter.tracking.uri import resolve, sqlite_path, with_credentials

# sqlalchemy warns of what mlflow does with it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_all_parameters_arrive_flattened_and_masked(run: Run) -> None:
    """More than 100 parameters, nested ones, long values and odd names are all there, no secret."""
    many = {f"p{number}": number for number in range(230)}
    run.record.parameters = {
        **many,
        "model": {"layers": [1, 2], "head": {"bias": True}},
        "long": "x" * 7000,
        "odd!name": None,
        "api_token": "hunter2",
        "url": "https://me:hunter2@example.org",
    }
    run.save()
    assert sync_run(run.paths.root).problem is None
    params = run.mlflow().run.data.params
    assert {name: params[name] for name in many} == {n: str(v) for n, v in many.items()}
    assert params["model.layers"] == "[1, 2]"
    assert params["model.head.bias"] == "True"
    assert params["long"] == "x" * 6000
    assert params["odd_name"] == "None"
    assert "hunter2" not in str(run.mlflow().run.to_dictionary())
    assert not any(b"hunter2" in f.read_bytes() for f in _files(run) if f != run.paths.run_yaml)


def _files(run: Run) -> Iterator[Path]:
    database = sqlite_path(run.uri)
    assert database is not None
    artifacts = run.mlflow().run.info.artifact_uri
    for top in (run.paths.root, Path(artifacts)):
        yield from (path for path in top.rglob("*") if path.is_file())


def test_bookkeeping_is_no_parameter(run: Run) -> None:
    """How igniter's command was started is not sent; a user's own parameter of that name is."""
    from igniter.args import build_parser

    every = vars(build_parser().parse_args([]))
    kept = {
        *("max_epochs", "max_iterations", "epoch_length", "batch_size", "eval_batch_size"),
        *("learning_rate", "seed", "deterministic", "device", "workers", "on_nan"),
        *("best_metric", "best_mode", "eval_every", "log_every", "limit_batches", "precision"),
        *("accumulate", "clip_norm", "clip_value", "compile"),
    }
    assert worth_keeping(every).keys() == kept
    left_out = every.keys() - kept
    own = {"config": "resnet50", "strict": True, "learning_rate": 0.1}
    assert worth_keeping(own) == own
    names = [*left_out, "learning_rate"]
    run.record.parameters = dict.fromkeys(names, "x")
    run.save()
    sync_run(run.paths.root)
    run.begin()
    run.record.parameters = dict.fromkeys(names, "y")
    run.save()
    sync_run(run.paths.root)
    data = run.mlflow().run.data
    assert data.params == {"learning_rate": "x"}
    changed = [tag for tag in data.tags if tag.startswith("igniter.attempt.")]
    assert changed == ["igniter.attempt.2.learning_rate"]


def test_what_mlflow_refuses_is_left_out_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bad point of a batch costs itself and a warning; the batch is not sent for ever."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    log_batch = MlflowClient.log_batch
    calls = []

    def picky(self: Any, run_id: str, metrics: Any = (), **rest: Any) -> None:
        calls.append(len(metrics))
        if any(metric.step == 77 for metric in metrics):
            raise MlflowException.invalid_parameter_value("step 77 is no step")
        log_batch(self, run_id, metrics=metrics, **rest)

    run.log(1, 100)
    monkeypatch.setattr(MlflowClient, "log_batch", picky)
    warned: list[str] = []
    outcome = sync_run(run.paths.root, warn=warned.append)
    assert (outcome.left, outcome.problem) == (0, None)
    assert run.mlflow().points() == [point for point in run.expected() if point[3] != 77]
    assert len([text for text in warned if "left out" in text]) == 1
    assert len(calls) < 25


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "mlruns", "sqlite://", "nonsense://x"])
def test_an_unusable_uri_says_what_to_use(run: Run, uri: str) -> None:
    """A directory of files, memory or an unknown scheme is a problem with a way out."""
    run.log(1, 1)
    outcome = sync_run(run.paths.root, tracking_uri=uri)
    assert outcome.problem is not None
    assert outcome.left == 1
    if uri != "nonsense://x":
        assert "sqlite:///mlflow.db" in outcome.problem


def test_names_are_made_legal() -> None:
    """Whatever a metric is called, what is sent satisfies MLflow's own check."""
    from mlflow.utils.validation import _validate_metric_name

    for name in ("train/loss", "a@b", "../up", "a//b", "/abs", "", ".", "ü:é", "x" * 400, "end/"):
        _validate_metric_name(legal(name))
    assert legal("train/loss") == "train/loss"
    assert len(legal("x" * 400)) == 250


def test_parameters_flatten() -> None:
    """Nested parameters get dotted names; an empty one is kept."""
    nested = {"a": {"b": {"c": 1}, "empty": {}}, "d": None}
    assert flat(nested) == Flat({"a.b.c": "1", "a.empty": "{}", "d": "None"})


def test_relative_databases_become_absolute() -> None:
    """A sqlite path counts from the directory it was given in, wherever it is read later."""
    here = Path("/home/me")
    assert resolve("sqlite:///mlflow.db", here) == "sqlite:////home/me/mlflow.db"
    assert resolve("sqlite:////data/a.db?timeout=5", here) == "sqlite:////data/a.db?timeout=5"
    assert resolve("https://host/path", here) == "https://host/path"
    assert sqlite_path("sqlite:////data/a.db?timeout=5") == Path("/data/a.db")
    with pytest.raises(UsageError):
        resolve("/data/mlruns", here)


def test_masked_credentials_come_back_from_the_environment(run: Run) -> None:
    """What run.yaml holds masked is connected to with what the environment has of that place."""
    here = Path("/")
    environ = {"MLFLOW_TRACKING_URI": "https://me:secret@host/path"}
    masked = "https://***@host/path"
    assert with_credentials(masked, environ, here) == environ["MLFLOW_TRACKING_URI"]
    assert with_credentials("https://***@other", environ, here) == "https://***@other"
    assert with_credentials(masked, {}, here) == masked
    record = replace(run.record, tracking=None)
    assert place_of(record, run.paths.root) is None


@pytest.mark.parametrize(
    ("uri", "advice"),
    [
        ("localhost:5000", "did you mean http://localhost:5000"),
        ("127.0.0.1:5000/mlflow", "did you mean http://127.0.0.1:5000/mlflow"),
        ("http://", "names no host"),
        ("http://host:port", "its port is no number"),
        ("http://host:99999", "its port is no number"),
        ("http://[::1", "cannot be read"),
        ("nonsense://x", "begins with nonsense://"),
        ("sqlite://relative.db", "three slashes"),
        ("sqlite:///:memory:", "would not outlive the run"),
        ("sqlite:mlflow.db", "'://'"),
        ("file:///tmp/mlruns", "sqlite:///mlflow.db"),
        ("./mlruns", "sqlite:///mlflow.db"),
    ],
)
def test_a_malformed_address_says_what_is_wrong(uri: str, advice: str) -> None:
    """Each mistake that people make in a tracking URI has its own words."""
    with pytest.raises(UsageError) as refused:
        resolve(uri, Path("/here"))
    assert advice in str(refused.value)


@pytest.mark.parametrize(
    "uri",
    ["https://me:pw@host:8443/p", "postgresql+psycopg2://db/x", "databricks", "databricks://p"],
)
def test_addresses_that_mlflow_knows_are_left_as_they_are(uri: str) -> None:
    """The control of the test above: nothing is wrong with these."""
    assert resolve(uri, Path("/here")) == uri
    assert resolve(" HTTP://host ", Path("/here")) == "http://host"


def test_an_unusable_address_does_not_stop_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is warned of at the start, and `igniter sync` sends all elsewhere, named as it was."""
    small = Small(tmp_path / "run")
    result = small.train(
        mlflow=True, mlflow_tracking_uri="localhost:5000", mlflow_experiment_name="kept"
    )
    assert result.status == "completed"
    assert capsys.readouterr().err.count("did you mean http://localhost:5000") == 1
    outcome = sync_run(tmp_path / "run")
    assert outcome.problem is not None
    assert "--tracking-uri" in outcome.problem
    record = RunRecord.load(tmp_path / "run" / "run.yaml")
    assert record.tracking is not None
    assert (record.tracking["uri"], record.tracking["experiment_name"]) == (None, "kept")


def _at(run: Run, uri: str) -> str | None:
    """What is wrong when the run is sent to ``uri``."""
    assert run.record.tracking is not None
    run.record.tracking["uri"] = uri
    run.save()
    return sync_run(run.paths.root).problem


def test_databases_that_cannot_be_used(run: Run, tmp_path: Path, store: str) -> None:
    """A missing directory, a damaged file, a directory: each is named, and mending it is enough."""
    run.log(1, 3)
    missing = tmp_path / "missing" / "mlflow.db"
    problem = _at(run, f"sqlite:///{missing}")
    assert problem == (
        f"MLflow's database cannot be used: there is no directory {missing.parent}; make it"
    )
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"not at all" * 1000)
    assert "is no sqlite database" in str(_at(run, f"sqlite:///{damaged}"))
    good = sqlite_path(store)
    assert good is not None
    assert _at(run, store) is None
    half = tmp_path / "half.db"
    data = bytearray(good.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    half.write_bytes(data)
    problem = _at(run, f"sqlite:///{half}")
    assert problem is not None
    assert "malformed" in problem
    assert "\n" not in problem
    assert "is a directory" in str(_at(run, f"sqlite:///{tmp_path}"))
    assert not missing.parent.exists()
    half.unlink()
    half.write_bytes(good.read_bytes())
    assert _at(run, f"sqlite:///{half}") is None
    assert run.mlflow().points() == run.expected()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_database_that_may_not_be_written(run: Run, tmp_path: Path, store: str) -> None:
    """Who may not write the file or its directory is told which."""
    good = sqlite_path(store)
    assert good is not None
    database = tmp_path / "mlflow.db"
    database.write_bytes(good.read_bytes())
    database.chmod(0o444)
    assert f"{database} cannot be written" in str(_at(run, f"sqlite:///{database}"))


def test_an_experiment_name_that_mlflow_refuses(run: Run) -> None:
    """It is named with the flag to give another by; nothing is lost meanwhile."""
    assert run.record.tracking is not None
    run.record.tracking["experiment_name"] = "x" * 501
    run.log(1, 3)
    run.save()
    outcome = sync_run(run.paths.root)
    assert outcome.problem is not None
    assert "--mlflow-experiment-name" in outcome.problem
    assert outcome.left == 3
    run.record.tracking["experiment_name"] = run.record.name
    run.save()
    assert sync_run(run.paths.root).problem is None
    assert run.mlflow().points() == run.expected()


def _sent(run: Run) -> list[str]:
    """Send the run; what was said."""
    said: list[str] = []
    assert sync_run(run.paths.root, warn=said.append).problem is None
    return said


def test_metrics_whose_names_become_the_same_stay_apart(run: Run) -> None:
    """A name MLflow refuses is changed, with a line once; no two metrics ever share one.

    That holds in any order, in one record or several, after a restart, and with nothing known.
    """
    names = ["acc@5", "acc_5", "acc#5", "a//b", "a/_/b"]
    for first, name in enumerate(names, start=1):
        run.log(first, first, **{name: float(first)})
        assert len([text for text in _sent(run) if repr(name) in text]) == 1
        assert _sent(run) == []
    run.log(9, 9, **dict.fromkeys(reversed(names), 9.0))
    _sent(run)
    run.paths.tracking.unlink()
    _sent(run)
    history: dict[str, list[float]] = {}
    for name, value, _, _ in run.mlflow().points():
        history.setdefault(name, []).append(value)
    del history["train/loss"]
    assert sorted(history.values()) == [[float(n), 9.0] for n in range(1, len(names) + 1)]
    assert history["acc_5"] == [1.0, 9.0]
    tags = run.mlflow().run.data.tags
    assert "acc_5 = acc@5" in tags.values()


def test_metrics_in_one_record_stay_apart(run: Run) -> None:
    """A name that is taken later in the same record is not given away."""
    run.log(1, 1, **{"acc@5": 1.0, "acc_5": 2.0, "acc#5": 3.0, "x" * 300: 4.0, "x" * 301: 5.0})
    _sent(run)
    values = [value for name, value, _, _ in run.mlflow().points() if name != "train/loss"]
    assert sorted(values) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert ("acc_5", 2.0) in [point[:2] for point in run.mlflow().points()]


def test_parameters_that_mlflow_does_not_take_as_they_are(run: Run) -> None:
    """Ten thousand characters, 1500 of them, empty ones, two alike: all there, each said once."""
    run.record.parameters = {
        "long": "é" * 10_000,
        "empty": "",
        "": "no name",
        "a": {"b": 1},
        "a.b": 2,
        "odd!": 3,
        "odd?": 4,
        **{f"p{n}": n for n in range(1500)},
    }
    run.save()
    said = _sent(run)
    params = run.mlflow().run.data.params
    assert params["long"] == "é" * 6000
    assert len([text for text in said if "'long' is cut from 10000" in text]) == 1
    assert params["empty"] == ""
    assert params["_"] == "no name"
    assert sorted(v for name, v in params.items() if name.startswith(("a.b", "odd"))) == list(
        "1234"
    )
    assert len(params) == 7 + 1500
    artifact = Path(run.mlflow().run.info.artifact_uri) / "config.yaml"
    assert yamlfile.load(artifact)["long"] == "é" * 10_000


def test_a_tag_of_more_than_8000_characters_is_cut(run: Run) -> None:
    """It is cut with a line; the rest arrives."""
    last = run.record.attempts[-1]
    run.record.attempts[-1] = replace(last, resume_command="python train.py " + "x" * 9000)
    run.save()
    said = _sent(run)
    assert [text for text in said if "igniter.resume_command is cut from 9016" in text]
    assert len(run.mlflow().run.data.tags["igniter.resume_command"]) == 8000


def test_infinity_is_said_once(run: Run) -> None:
    """What MLflow keeps in place of infinity is told once a metric; the journal has the truth."""
    run.log(1, 30, up=math.inf, down=-math.inf, odd=math.nan)
    said = _sent(run)
    assert sorted(text.split()[0] for text in said) == ["down", "up"]
    assert {value for name, value, _, _ in run.mlflow().points() if name == "up"} == {
        1.7976931348623157e308
    }
    assert {record.metrics["up"] for record in read(run.paths.journal)} == {math.inf}


def test_files_that_cannot_be_stored(run: Run) -> None:
    """A store without room or permission is a problem; values and status arrive, files later."""
    run.log(1, 3)
    assert sync_run(run.paths.root).problem is None
    where = Path(run.mlflow().run.info.artifact_uri)
    shutil.rmtree(where)
    where.parent.mkdir(exist_ok=True)
    where.write_text("in the way")
    run.paths.pictures[0].write_bytes(b"picture")
    run.log(4, 5)
    run.end("completed")
    said: list[str] = []
    outcome = sync_run(run.paths.root, warn=said.append)
    assert (outcome.sent, outcome.left) == (2, 0)
    assert outcome.problem is not None
    assert "the values are not affected" in outcome.problem
    assert said == [outcome.problem]
    assert run.mlflow().points() == run.expected()
    assert run.mlflow().run.info.status == "FINISHED"
    where.unlink()
    assert sync_run(run.paths.root).problem is None
    assert (where / run.paths.pictures[0].name).read_bytes() == b"picture"
    assert (where / "run-record.yaml").is_file()
