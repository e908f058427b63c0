"""What MLflow holds of a run besides its values: data sets, surroundings, attempts, checkpoints."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from support import Small, plain_eval_step, points_loader
from tracked import Run, Stored

from igniter.checkpoint import manifest
from igniter.datasets import described
from igniter.environment import git_diff, installed, mask_code
from igniter.rundir import Paths, RunRecord
from igniter.tracking import artifacts
from igniter.tracking.sync import sync_run

# sqlalchemy warns of what mlflow does with it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Kept:
    """What MLflow holds of one run besides its values."""

    def __init__(self, uri: str, run_id: str) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(uri)
        self.run = self.client.get_run(run_id)
        self.tags = self.run.data.tags
        self.root = Path(self.run.info.artifact_uri.removeprefix("file://"))

    @property
    def files(self) -> dict[str, bytes]:
        """Its artifacts by path."""
        found = sorted(path for path in self.root.rglob("*") if path.is_file())
        return {path.relative_to(self.root).as_posix(): path.read_bytes() for path in found}

    def text(self, path: str) -> str:
        """An artifact as text."""
        return self.files[path].decode()


class Tracked(Small):
    """A small run that is tracked, and sent when it is asked for."""

    def __init__(self, run_dir: Path, store: str, **how: Any) -> None:
        super().__init__(run_dir, eval_step=plain_eval_step, **how)
        self.store = store

    def train(self, stop_at: int | None = None, **settings: Any) -> Any:
        """One attempt."""
        tracking = {"mlflow": True, "mlflow_offline": True, "mlflow_tracking_uri": self.store}
        return super().train(stop_at, **{**tracking, **settings})

    def sent(self) -> Kept:
        """What MLflow holds once all is sent."""
        outcome = sync_run(self.run_dir, warn=pytest.fail)
        assert outcome.problem is None
        assert outcome.run_id is not None
        return Kept(self.store, outcome.run_id)


def test_the_loaders_data_sets_are_inputs_once(tmp_path: Path, store: str) -> None:
    """Class, length and batch size for training and evaluation; a resume doubles none of them."""
    run = Tracked(tmp_path / "run", store)
    run.train(stop_at=5)
    run.sent()
    run.train()
    (run.run_dir / "tracking.json").unlink()
    found = run.sent().run.inputs.dataset_inputs
    assert {each.dataset.name: each.tags[0].value for each in found} == {
        "train loader": "train",
        "eval loader": "eval",
    }
    assert len(found) == 2
    (training,) = [each.dataset for each in found if each.dataset.name == "train loader"]
    assert json.loads(training.profile)["samples"] == 10
    assert json.loads(training.profile)["batch_size"] == 3
    kind = "torch.utils.data.dataset.TensorDataset"
    assert json.loads(training.source) == {"class": kind}


def test_inputs_have_their_digest_and_size(tmp_path: Path, store: str) -> None:
    """A file or directory among the run's inputs; changed on resume it is another data set."""
    data = tmp_path / "data"
    data.write_text("one")
    run = Tracked(tmp_path / "run", store)
    for content, stop in (("one", 5), ("another", None)):
        data.write_text(content)
        result = run.train(stop, inputs={"points": data})
        found = [e.dataset for e in run.sent().run.inputs.dataset_inputs]
    assert result.status == "completed"
    inputs = [each for each in found if each.name == "points"]
    assert sorted(json.loads(each.profile)["bytes"] for each in inputs) == [3, 7]
    assert len({each.digest for each in inputs}) == 2


def test_an_input_that_is_not_on_disk_is_named_and_masked(run: Run) -> None:
    """A URI stands there without what opens it, and has a digest all the same."""
    secret = "hunter2"
    run.record.parameters["bucket"] = f"s3://b/k?X-Amz-Signature={secret}"
    attempt = run.record.attempts[-1]
    run.record.attempts[-1] = dataclasses.replace(attempt, inputs={"bucket": None})
    run.end("completed")
    assert sync_run(run.paths.root, warn=pytest.fail).problem is None
    (found,) = run.mlflow().run.inputs.dataset_inputs
    assert json.loads(found.dataset.source)["uri"].startswith("s3://b/k")
    assert secret not in found.dataset.source
    assert found.dataset.digest


class Unsized:
    """A loader whose dataset has no length."""

    batch_size = True

    class dataset:
        """Nothing."""

        def __len__(self) -> int:
            raise RuntimeError("not now")


def test_loaders_in_words() -> None:
    """A list stands for itself; what cannot be told is None."""
    found = described({"list": [1, 2], "unsized": Unsized(), "plain": points_loader()})
    assert found["list"] == {"class": "builtins.list", "samples": None, "batch_size": None}
    assert found["unsized"]["samples"] is None
    assert found["unsized"]["batch_size"] is None
    assert found["plain"]["samples"] == 10


def test_the_environment_is_what_pip_would_freeze(tmp_path: Path, store: str) -> None:
    """Each installed distribution with its version, as the training process found it."""
    names = {line.partition("==")[0].lower().replace("-", "_") for line in installed().split()}
    known = {dist.metadata["Name"].lower().replace("-", "_") for dist in metadata.distributions()}
    assert names == {name.replace(".", "_") for name in known} or known - names == set()
    assert f"torch=={metadata.version('torch')}\n" in installed()
    run = Tracked(tmp_path / "run", store)
    run.train()
    (run.run_dir / "environment.txt").write_text("elsewhere==1\n")  # another machine syncs
    assert run.sent().text("environment.txt") == "elsewhere==1\n"


def test_attempts_are_a_table(tmp_path: Path, store: str) -> None:
    """Each attempt with start, end, host and reason, as run.yaml has them."""
    run = Tracked(tmp_path / "run", store)
    run.train(stop_at=5)
    assert len(list(csv.DictReader(run.sent().text("attempts.csv").splitlines()))) == 1
    run.train()
    kept = run.sent()
    rows = list(csv.DictReader(kept.text("attempts.csv").splitlines()))
    record = RunRecord.load(run.run_dir / "run.yaml")
    for row, attempt in zip(rows, record.attempts, strict=True):
        assert row["start"] == attempt.start
        assert row["end"] == attempt.end
        assert row["host"] == attempt.host
        assert row["outcome"] == attempt.outcome
    assert [row["reason"] for row in rows] == ["SIGTERM", ""]
    assert kept.tags["igniter.resume_command"]
    assert kept.tags["igniter.command"]


def test_tags_lead_to_the_last_and_best_checkpoint(tmp_path: Path, store: str) -> None:
    """Path and iteration, after a stop and at the end; the best only where one is followed."""
    run = Tracked(tmp_path / "run", store)
    run.train(stop_at=5, best_metric="eval/loss")
    tags = run.sent().tags
    assert tags["igniter.checkpoint.last.iteration"] == "5"
    assert Path(tags["igniter.checkpoint.last"]).is_dir()
    run.train(best_metric="eval/loss")
    tags = run.sent().tags
    assert Path(tags["igniter.checkpoint.last"]).name == "iteration-00000012-final"
    best = run.run_dir / "checkpoints" / "best"
    assert Path(tags["igniter.checkpoint.best"]) == best.resolve()
    other = Tracked(tmp_path / "other", store)
    other.train()
    assert "igniter.checkpoint.best" not in other.sent().tags


@pytest.mark.parametrize("which", ["none", "last", "best", "all"])
def test_checkpoints_are_artifacts_on_request(tmp_path: Path, store: str, which: Any) -> None:
    """Byte for byte as on disk; the last and the best have one place, that of the newest."""
    run = Tracked(tmp_path / "run", store)
    how = {"best_metric": "eval/loss", "mlflow_log_checkpoints": which, "keep_last": 9}
    run.train(stop_at=5, **how)
    before = run.sent()
    run.train(**how, checkpoint_dir=None)
    kept = run.sent()
    files = {path for path in kept.files if path.startswith("checkpoints/")}
    directory = run.run_dir / "checkpoints"
    if which == "none":
        expected = {}
    elif which == "all":
        expected = {found.path.name: found.path for found in manifest.scan(directory)}
    else:
        newest = manifest.scan(directory)[-1].path
        expected = {which: newest if which == "last" else (directory / "best").resolve()}
    assert files == {f"checkpoints/{n}/{f.name}" for n, p in expected.items() for f in p.iterdir()}
    for name, path in expected.items():
        for file in path.iterdir():
            assert kept.files[f"checkpoints/{name}/{file.name}"] == file.read_bytes()
    assert before.run.info.run_id == kept.run.info.run_id


def test_checkpoints_and_models_elsewhere_are_found(tmp_path: Path, store: str) -> None:
    """Under --checkpoint-dir, and when the whole tree was moved."""
    run = Tracked(tmp_path / "tree" / "run", store)
    where = tmp_path / "tree" / "kept"
    run.train(mlflow_log_checkpoints="last", checkpoint_dir=where, model_dir=tmp_path / "tree/m")
    (tmp_path / "tree").rename(tmp_path / "moved")
    run.run_dir = tmp_path / "moved" / "run"
    kept = run.sent()
    assert "checkpoints/last/manifest.json" in kept.files
    record = RunRecord.load(run.run_dir / "run.yaml")
    assert Paths.of(run.run_dir, record).model.resolve() == tmp_path / "moved" / "m"


def test_a_checkpoint_removed_meanwhile_is_no_error(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention takes it away between the look and the upload; any other failure is told."""
    from igniter.tracking.mlflow_run import MlflowRun

    run = Tracked(tmp_path / "run", store)
    run.train(mlflow_log_checkpoints="all")
    log_artifact = MlflowRun.log_artifact
    failing = "state.pt"

    def removed_first(self: Any, artifact: artifacts.Artifact) -> str | None:
        if artifact.path.endswith(failing) and isinstance(artifact.content, Path):
            shutil.rmtree(artifact.content.parent)
        return log_artifact(self, artifact)

    monkeypatch.setattr(MlflowRun, "log_artifact", removed_first)
    assert "attempts.csv" in run.sent().files
    monkeypatch.setattr(MlflowRun, "log_artifact", lambda self, artifact: "no room")
    (run.run_dir / "tracking.json").unlink()
    said: list[str] = []
    sync_run(run.run_dir, warn=said.append)
    assert said[0].startswith("MLflow did not take config.yaml: no room")


SECRET = "hunter2-Zq9"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one committed file, changed since."""
    for command in (["init", "-q"], ["config", "user.email", "a@b"], ["config", "user.name", "a"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    (tmp_path / "train.py").write_text("rate = 1\n")
    subprocess.run(["git", "add", "train.py"], cwd=tmp_path, check=True)
    subprocess.run(["git", "commit", "-qm", "x"], cwd=tmp_path, check=True)
    return tmp_path


def test_the_diff_is_of_uncommitted_changes_and_masked(repository: Path) -> None:
    """What tracked files have now; not a secret they were given, however it is written."""
    assert git_diff(repository) == ""
    (repository / "train.py").write_text(
        f'rate = 2\nAPI_KEY = "{SECRET}"\nsettings = {{"password": "{SECRET}"}}\n'
        f'db_password: str = "{SECRET}"\nurl = "http://me:{SECRET}@h/x"\ntoken: {SECRET}\n'
        f'connect("{SECRET}")\n'
    )
    diff = git_diff(repository, {"PATH": "/usr/bin:/bin", "DB_PASSWORD": SECRET})
    assert diff is not None
    assert "-rate = 1\n+rate = 2\n" in diff
    assert SECRET not in diff
    assert diff.count("***") == 6
    assert SECRET in str(git_diff(repository, {"PATH": "/usr/bin:/bin"}))  # a bare call
    assert git_diff(Path("/")) is None


@pytest.mark.parametrize(
    "line", ["rate = 2\n", "if token == end:\n", "pad_token = '<pad>'\n", "x: int\n", "no newline"]
)
def test_other_lines_of_a_diff_stay(line: str) -> None:
    """Only what a secret's name is set to goes."""
    assert mask_code(line, {}) == line


@pytest.mark.parametrize("wanted", [True, False])
def test_the_diff_is_an_artifact_on_request(
    repository: Path, store: str, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken when the attempt begins, of the script's repository; never without the flag."""
    (repository / "train.py").write_text("rate = 3\n")
    monkeypatch.setattr("sys.argv", [str(repository / "train.py")])
    run = Tracked(repository / "run", store)
    run.train(mlflow_log_git_diff=wanted)
    assert RunRecord.load(run.run_dir / "run.yaml").script == str(repository / "train.py")
    files = run.sent().files
    assert ("git.diff" in files) == wanted
    if wanted:
        assert b"+rate = 3" in files["git.diff"]


def test_experiments_hold_one_run_each(tmp_path: Path, store: str) -> None:
    """The negative control of all that is found by run id here: another run has other files."""
    run = Tracked(tmp_path / "run", store)
    run.train(mlflow_experiment_name="alone")
    run.sent()
    assert len(Stored(store, "alone").runs) == 1
