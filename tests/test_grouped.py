"""Runs that belong to others in MLflow: joined, children of a parent, with tags of the user's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support import Small, Zygote
from tracked import Stored

from igniter.errors import UsageError
from igniter.rundir import RunRecord
from igniter.settings import Settings
from igniter.tracking.sync import sync_run

# sqlalchemy warns of what mlflow does with it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def client(store: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the store; no variable of MLflow's is set."""
    from mlflow import MlflowClient

    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    return MlflowClient(store)


@pytest.fixture
def owners(client: Any, request: pytest.FixtureRequest) -> str:
    """The id of a run that somebody else made, in an experiment of its own."""
    experiment = client.create_experiment(f"of the owner of {request.node.name}")
    made = client.create_run(experiment, tags={"mlflow.source.name": "parent.py"})
    return str(made.info.run_id)


def trained(run_dir: Path, store: str, stop_at: int | None = None, **settings: Any) -> str:
    """Train, send, and return the id of the MLflow run."""
    tracking = {"mlflow": True, "mlflow_offline": True, "mlflow_tracking_uri": store}
    Small(run_dir).train(stop_at, **{**tracking, **settings})
    outcome = sync_run(run_dir)
    assert outcome.problem is None
    assert outcome.run_id is not None
    return outcome.run_id


def test_a_run_named_by_the_environment_is_joined(
    tmp_path: Path, store: str, client: Any, owners: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets the values; its status, name and source stay its owner's, also after a stop."""
    monkeypatch.setenv("MLFLOW_RUN_ID", owners)
    before = client.get_run(owners)
    assert trained(tmp_path / "run", store, stop_at=5) == owners
    assert client.get_run(owners).data.tags["igniter.status"] == "KILLED"
    assert trained(tmp_path / "run", store) == owners
    after = client.get_run(owners)
    assert after.info.status == before.info.status == "RUNNING"
    assert after.info.end_time is None
    assert after.info.run_name == before.info.run_name
    assert after.data.tags["mlflow.source.name"] == "parent.py"
    assert after.data.tags["igniter.status"] == "FINISHED"
    assert len(client.get_metric_history(owners, "train/loss_epoch")) == 3


def test_one_that_its_owner_has_ended_stays_ended(
    tmp_path: Path, store: str, client: Any, owners: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `mlflow run` does when the script ends: what is sent after that changes no status."""
    monkeypatch.setenv("MLFLOW_RUN_ID", owners)
    client.set_terminated(owners, "FAILED", 5)
    assert trained(tmp_path / "run", store) == owners
    info = client.get_run(owners).info
    assert (info.status, info.end_time) == ("FAILED", 5)


def test_a_run_of_its_own_is_started_and_ended(tmp_path: Path, store: str, client: Any) -> None:
    """The negative control: without a run to join igniter's own has igniter's status."""
    info = client.get_run(trained(tmp_path / "run", store, stop_at=5)).info
    assert info.status == "KILLED"
    assert info.end_time is not None


def test_a_resume_goes_on_in_the_run_it_was_begun_in(
    tmp_path: Path,
    store: str,
    client: Any,
    owners: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever the variable says then: unset, or another run, which is told; one run it stays."""
    monkeypatch.setenv("MLFLOW_RUN_ID", owners)
    assert trained(tmp_path / "run", store, stop_at=3) == owners
    monkeypatch.delenv("MLFLOW_RUN_ID")
    (tmp_path / "run" / "tracking.json").unlink()
    assert trained(tmp_path / "run", store, stop_at=5) == owners
    assert "goes on in" not in capsys.readouterr().err
    other = client.create_run(client.get_run(owners).info.experiment_id).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", other)
    assert trained(tmp_path / "run", store) == owners
    assert f"begun in, not in {other}" in capsys.readouterr().err
    assert client.get_run(other).data.metrics == {}


def test_of_two_the_second_becomes_a_child(
    tmp_path: Path,
    store: str,
    client: Any,
    owners: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two runs under one MLFLOW_RUN_ID: each curve is one run's, both are in one experiment."""
    monkeypatch.setenv("MLFLOW_RUN_ID", owners)
    assert trained(tmp_path / "one", store) == owners
    second = trained(tmp_path / "two", store)
    assert second != owners
    child = client.get_run(second)
    assert child.data.tags["mlflow.parentRunId"] == owners
    assert child.info.experiment_id == client.get_run(owners).info.experiment_id
    assert child.info.status == "FINISHED"
    (tmp_path / "two" / "tracking.json").unlink()
    assert sync_run(tmp_path / "two").run_id == second
    assert len(client.get_metric_history(owners, "train/loss_epoch")) == 3


def test_a_run_that_is_not_there_is_replaced(
    tmp_path: Path,
    store: str,
    client: Any,
    owners: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run to join that was deleted: a run of igniter's own, with the tag that says so."""
    monkeypatch.setenv("MLFLOW_RUN_ID", owners)
    client.delete_run(owners)
    run = client.get_run(trained(tmp_path / "run", store))
    assert run.info.run_id != owners
    assert run.data.tags["igniter.replaces"] == owners
    assert run.info.status == "FINISHED"


def test_elsewhere_it_is_a_run_of_its_own(
    tmp_path: Path,
    store: str,
    owners: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The id is one of the store that the run was told: synced to another it joins nothing."""
    monkeypatch.setenv("MLFLOW_RUN_ID", owners)
    Small(tmp_path / "run").train(mlflow=True, mlflow_offline=True, mlflow_tracking_uri=store)
    record = RunRecord.load(tmp_path / "run" / "run.yaml")
    assert record.tracking is not None
    record.tracking["uri"] = "sqlite:////nowhere/else.db"  # where the run was told to go
    record.save(tmp_path / "run" / "run.yaml")
    outcome = sync_run(tmp_path / "run", tracking_uri=store)
    assert outcome.run_id not in (None, owners)


def test_the_scripts_active_run_is_joined(
    tmp_path: Path, store: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``with mlflow.start_run():`` round ``train``; it ends as its owner ends it."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    mlflow.set_experiment("of a script")
    with mlflow.start_run() as active:
        assert trained(tmp_path / "run", store) == active.info.run_id
        assert client.get_run(active.info.run_id).info.status == "RUNNING"
        mlflow.log_metric("mine", 1.0)
    run = client.get_run(active.info.run_id)
    assert run.info.status == "FINISHED"
    assert {"mine", "train/loss"} <= set(run.data.metrics)
    assert trained(tmp_path / "another", store) != active.info.run_id


def test_a_parent_has_its_children_in_its_experiment(
    tmp_path: Path, store: str, client: Any, owners: str
) -> None:
    """``--mlflow-parent-run-id``, for each run of a sweep; the parent itself gets nothing."""
    children = [trained(tmp_path / name, store, mlflow_parent_run_id=owners) for name in ("a", "b")]
    experiment = client.get_run(owners).info.experiment_id
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{owners}'")
    assert {run.info.run_id for run in found} == set(children)
    assert client.get_run(owners).data.metrics == {}


def test_a_parent_that_is_not_there_loses_nothing(tmp_path: Path, store: str, client: Any) -> None:
    """The run is in the experiment it would be in without."""
    name = f"orphan of {tmp_path}"
    how = {"mlflow_parent_run_id": "0" * 32, "mlflow_experiment_name": name}
    run_id = trained(tmp_path / "run", store, **how)
    assert Stored(store, name).run.info.run_id == run_id
    assert client.get_run(run_id).data.tags["mlflow.parentRunId"] == "0" * 32


def test_tags_and_description(tmp_path: Path, store: str, client: Any) -> None:
    """As given, by name; those of a resume over those before; secrets masked on the way."""
    run_dir = tmp_path / "run"
    secret = "hunter2-Zq9"
    given = ["team=vision", "api_token=" + secret, "equation=a=b", f"u=http://me:{secret}@h/"]
    how = {"mlflow_tags": given, "mlflow_description": f"The first.\nhttp://me:{secret}@h/"}
    tags = client.get_run(trained(run_dir, store, stop_at=5, **how)).data.tags
    assert tags["team"] == "vision"
    assert tags["equation"] == "a=b"
    assert tags["api_token"] == "***"
    assert tags["mlflow.note.content"].startswith("The first.\n")
    assert not [value for value in tags.values() if secret in value]
    assert secret not in (run_dir / "run.yaml").read_text()
    how = {"mlflow_tags": {"team": "speech"}, "mlflow_description": "The second."}
    tags = client.get_run(trained(run_dir, store, **how)).data.tags
    assert (tags["team"], tags["mlflow.note.content"]) == ("speech", "The second.")
    assert tags["equation"] == "a=b"


@pytest.mark.parametrize("given", ["team", ["team"], ["=x"], [1], 3, None])
def test_what_is_no_tag_is_refused(given: Any) -> None:
    """With what it must be."""
    with pytest.raises(UsageError, match="mlflow_tags"):
        Settings(mlflow_tags=given)


def test_the_flags_reach_the_run(tmp_path: Path, store: str, client: Any, zygote: Zygote) -> None:
    """From the command line through the child that sends, into MLflow; none shapes the run."""
    flags = ["--mlflow-tags", "team=vision", "--mlflow-tags", "part=2", "--max-epochs", 1]
    flags += ["--mlflow-description", "From a script.", "--mlflow-tracking-uri", store]
    name = f"flags {tmp_path}"
    done = zygote.run("simple.py", *flags, "--mlflow-experiment-name", name, cwd=tmp_path)
    assert done.code == 0, done
    tags = Stored(store, name).run.data.tags
    assert (tags["team"], tags["part"]) == ("vision", "2")
    assert tags["mlflow.note.content"] == "From a script."
    again = zygote.run("simple.py", "--max-epochs", 1, "--no-mlflow", cwd=tmp_path)
    assert "complete" in again.out + again.err
    bad = zygote.run("simple.py", "--mlflow-tags", "team", cwd=tmp_path)
    assert bad.code == 2
    assert "'team' is not NAME=VALUE" in bad.err
