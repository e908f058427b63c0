"""A search stopped anywhere ends as one that never was: trials, parameters, values, runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Done, Small, Zygote, assert_same_run

from igniter import studies, study_files
from igniter.errors import (
    IdentityMismatch,
    NonFiniteError,
    RunLocked,
    RunRefused,
    UsageError,
)
from igniter.search import SearchResult, search
from igniter.studies import Asked

optuna = pytest.importorskip("optuna")

FLAGS = ("--max-epochs", "4", "--output-dir", "study", "--no-mlflow", "--progress", "none")
TRIALS = 7
# One after the other: between two parameters, in a step, after a report, in an evaluation, when the
# run has ended and the trial has not, where the trial is about to be pruned, and when it was.
STOPS = [
    "drawn:0:0:SIGKILL",
    "step:1:5:SIGKILL",
    "report:2:6:SIGKILL",
    "evaluation:3:6:SIGTERM",
    "tell:4:0:SIGKILL",
    "report:5:3:SIGKILL",
    "export:5:0:SIGKILL",
    "step:6:7:SIGINT",
]
CODES = {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130}


def start(zygote: Zygote, cwd: Path, *flags: object, stop: str = "", careless: str = "") -> Done:
    """One start of the script, which perhaps stops itself."""
    cwd.mkdir(exist_ok=True)
    env = {"TEST_STOP": stop, "TEST_CARELESS": careless}
    done = zygote.run("searching.py", *FLAGS, *flags, cwd=cwd, env=env)
    assert done.code == (CODES[stop.rsplit(":", 1)[1]] if stop else 0), f"{stop}: {done}"
    return done


def trials(cwd: Path) -> list[tuple[Any, ...]]:
    """All that the study holds of each trial, but for times."""
    asked = Asked("min", {}, 0, "sqlite" if (cwd / "study" / "study.db").exists() else "journal")
    path = cwd / "study" / study_files._FILES[asked.storage]
    with study_files.storage(path, asked.storage) as storage:
        study = optuna.load_study(study_name="study", storage=storage)
        return [
            (t.number, t.state.name, t.values, t.params, t.intermediate_values, t.user_attrs)
            for t in study.trials
        ]


def found(cwd: Path) -> Any:
    """What the search returned."""
    return json.loads((cwd / "found.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def straight(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that was never stopped."""
    cwd = tmp_path_factory.mktemp("straight")
    start(zygote, cwd)
    return cwd


def assert_same_search(straight: Path, stopped: Path) -> None:
    """The same best trial, the same trials, and in each the same run bit for bit."""
    assert found(stopped) == found(straight)
    assert trials(stopped) == trials(straight)
    for number in range(TRIALS):
        name = f"study/trial-{number:04d}"
        assert_same_run(straight / name, stopped / name)
    assert len(list((stopped / "study").glob("trial-*"))) == TRIALS


def test_straight(straight: Path) -> None:
    """The search this file compares with has trials that completed and trials that were pruned."""
    states = [state for _, state, *_ in trials(straight)]
    assert len(states) == TRIALS
    assert set(states) == {"COMPLETE", "PRUNED"}
    assert states[5] == "PRUNED"
    assert len({str(parameters) for _, _, _, parameters, *_ in trials(straight)}) == TRIALS
    best = min(value[0] for _, state, value, *_ in trials(straight) if state == "COMPLETE")
    assert found(straight)["value"] == best


def test_stopped_in_every_trial(straight: Path, zygote: Zygote, tmp_path: Path) -> None:
    """Killed in each trial at another place, the search ends as if it had never been."""
    for stop in STOPS:
        start(zygote, tmp_path, stop=stop)
    start(zygote, tmp_path)
    assert_same_search(straight, tmp_path)


def test_journal(straight: Path, zygote: Zygote, tmp_path: Path) -> None:
    """In optuna's journal too, whose lock and half a line a killed process leaves behind."""
    start(zygote, tmp_path, "--storage", "journal", stop="report:3:6:SIGKILL")
    journal = tmp_path / "study" / "study.jsonl"
    (tmp_path / "study" / "study.jsonl.lock").symlink_to(journal)
    with journal.open("ab") as file:
        file.write(b'{"op_code":')
    start(zygote, tmp_path, "--storage", "journal")
    assert_same_search(straight, tmp_path)


def test_sampler_that_carries_its_state(straight: Path, zygote: Zygote, tmp_path: Path) -> None:
    """Negative control: a sampler that is not set by address draws otherwise after a stop."""
    start(zygote, tmp_path, "--trials", 4, stop="step:2:2:SIGTERM", careless="yes")
    start(zygote, tmp_path, "--trials", 4, careless="yes")
    stopped, careless = trials(tmp_path), tmp_path / "straight"
    start(zygote, careless, "--trials", 4, careless="yes")
    assert stopped[:3] == trials(careless)[:3]
    assert stopped[3] != trials(careless)[3]


def test_finished_search(straight: Path, zygote: Zygote, tmp_path: Path) -> None:
    """Started again, a finished search trains nothing and says the same; more trials go on."""
    start(zygote, tmp_path, "--trials", TRIALS - 1)
    before, said = trials(tmp_path), found(tmp_path)
    start(zygote, tmp_path, "--trials", TRIALS - 1)
    assert (trials(tmp_path), found(tmp_path)) == (before, said)
    start(zygote, tmp_path)
    assert_same_search(straight, tmp_path)


class Points:
    """A search in this process whose objectives do not train."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, objective: Any, **how: Any) -> SearchResult:
        """Search with what is given, else for the least of three numbers."""
        given = {"metric": "eval/loss", "trials": 3, "mlflow": False, "progress": "none"}
        return search(objective, **{**given, "output_dir": self.root, **how})


def number(trial: Any) -> float:
    """A number that is its own objective."""
    return float(trial.suggest_float("x", 0, 1))


@pytest.fixture
def points(tmp_path: Path) -> Points:
    """A search of its own."""
    return Points(tmp_path / "study")


def test_more_trials(points: Points) -> None:
    """More trials go on from those there are, as if they had been asked for at first."""
    points.run(number, trials=2)
    assert points.run(number, trials=5).finished == 5
    other = Points(points.root.with_name("other"))
    assert other.run(number, trials=5).parameters == points.run(number, trials=5).parameters


@pytest.mark.parametrize("kind", ["RandomSampler", "TPESampler", "GPSampler"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_samplers(kind: str, points: Points) -> None:
    """Whatever draws, a trial broken off between two parameters goes on with the same ones."""
    if kind == "GPSampler":
        pytest.importorskip("scipy")
    broken: list[int] = []

    def objective(trial: Any) -> float:
        x = trial.suggest_float("x", -1, 1)
        if trial.number in broken:
            broken.remove(trial.number)
            raise KeyboardInterrupt
        return x**2 + trial.suggest_float("y", -1, 1) ** 2

    make = getattr(optuna.samplers, kind)
    how = {"sampler": make, "trials": 13, "mode": "min", "metric": "x/y"}
    straight = points.run(objective, **how)
    stopped = Points(points.root.with_name("stopped"))
    broken += [0, 10, 12]
    while broken:
        with pytest.raises(KeyboardInterrupt):
            stopped.run(objective, **how)
    assert stopped.run(objective, **how).parameters == straight.parameters
    cwd = points.root.with_name("a")
    shown = []
    for root in (points.root, stopped.root):
        cwd.mkdir(exist_ok=True)
        root.rename(cwd / "study")
        shown.append(trials(cwd))
        (cwd / "study").rename(root)
    assert shown[0] == shown[1]


def test_failed_trial(points: Points, capfd: pytest.CaptureFixture[str]) -> None:
    """A trial that is not finite fails, with a warning, and the search goes on; so does a NaN."""

    def objective(trial: Any) -> float:
        if trial.number == 0:
            raise NonFiniteError("the loss is nan")
        return math.nan if trial.number == 1 else 0.5

    result = points.run(objective)
    assert (result.finished, result.failed, result.trial, result.value) == (3, 2, 2, 0.5)
    assert "trial-0000 failed: the loss is nan" in capfd.readouterr().err


def test_error_in_the_objective(points: Points) -> None:
    """Any other error ends the search; at the next start its trial goes on, parameters and all."""
    seen = []

    def objective(trial: Any) -> float:
        seen.append((trial.number, trial.suggest_float("x", 0, 1)))
        if len(seen) == 2:
            raise RuntimeError("no memory")
        return seen[-1][1]

    with pytest.raises(RuntimeError, match="no memory"):
        points.run(objective)
    assert points.run(objective).finished == 3
    assert seen[1] == seen[2]
    assert [n for n, _ in seen] == [0, 1, 1, 2]


def test_pruned_by_the_objective(points: Points) -> None:
    """optuna's own exception prunes a trial, and a search may end without a best one."""

    def objective(trial: Any) -> float:
        raise optuna.TrialPruned

    result = points.run(objective)
    assert (result.finished, result.pruned, result.trial, result.run_dir) == (3, 3, None, None)


@contextmanager
def held(root: Path) -> Iterator[None]:
    """The study is held meanwhile, as by another process."""
    with studies.opened(root, Asked("min", {}, 0), print):
        yield


def test_two_processes(points: Points) -> None:
    """A second process on one study is refused while the first is at work."""
    with held(points.root), pytest.raises(RunLocked, match="is in use by pid"):
        points.run(number)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"seed": 3}, "seed: 0 → 3"),
        ({"max_epochs": 3}, "max_epochs: 10 → 3"),
        ({"metric": "eval/nll"}, "metric: eval/loss → eval/nll"),
        ({"mode": "max"}, "mode: min → max"),
        ({"parameters": {"layers": 3}}, r"layers: \(absent\) → 3"),
    ],
)
def test_other_arguments(how: dict[str, Any], words: str, points: Points) -> None:
    """A study is not gone on with under arguments that would make its trials incomparable."""
    points.run(number, trials=1)
    with pytest.raises(IdentityMismatch, match=words):
        points.run(number, **how)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"trials": 0}, "trials is 0"),
        ({"resume": "never"}, "give another --output-dir to begin a new one"),
        ({"eval_only": True}, "a search trains"),
        ({"storage": "redis"}, "storage is 'redis'; it must be sqlite or journal"),
        ({"metric": "eval/score"}, "give --best-mode max or"),
        ({"sampler": "tpe"}, "sampler is a str"),
        ({"sampler": optuna.samplers.RandomSampler(1)}, "whose random state would be lost"),
        ({"max_epoch": 3}, "did you mean max_epochs"),
    ],
)
def test_refused(how: dict[str, Any], words: str, points: Points) -> None:
    """What cannot be honoured is said before any trial."""
    with pytest.raises(UsageError, match=words):
        points.run(lambda trial: pytest.fail("ran"), **how)


def test_one_storage(points: Points) -> None:
    """A study in a database is not begun again in a journal beside it."""
    points.run(number)
    with pytest.raises(UsageError, match=r"is in study\.db: give the storage it has"):
        points.run(number, storage="journal")


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_damaged_file(kind: Any, points: Points) -> None:
    """A study whose file is damaged is refused in words, not begun anew over it."""
    points.run(number, storage=kind)
    file = points.root / study_files._FILES[kind]
    content = b"\n".join([b"rubbish" * 700] * 3)
    file.write_bytes(content)
    with pytest.raises(RunRefused, match=r"study\.\w+ cannot be used: .*\nRestore the file"):
        points.run(number, storage=kind)
    assert file.read_bytes().startswith(b"rubbish")


def test_without_optuna(points: Points, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the extra is missing the message says what to install."""
    monkeypatch.setattr(studies, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'torch-igniter\[search\]'"):
        points.run(number)


def test_what_the_objective_returns(points: Points) -> None:
    """Neither a result nor a number is refused, and so is a metric that no run gave."""
    with pytest.raises(UsageError, match="returned NoneType; return what train"):
        points.run(lambda trial: None)

    def objective(trial: Any) -> Any:
        small = Small(Path(), spec=lambda: {"metrics": {}})
        return small.train(**_settings(trial))

    with pytest.raises(UsageError, match="the run gave no eval/loss; its metrics are none"):
        points.run(objective)


def _settings(trial: Any) -> dict[str, Any]:
    """What :class:`Small` lets a trial set."""
    return {**trial.train_kwargs, "mlflow_log_model": False, "max_iterations": 1}


def test_metric_without_evaluation(points: Points) -> None:
    """Pruning on a metric that no evaluation gives is refused before training."""

    def objective(trial: Any) -> Any:
        small = Small(Path(), spec=lambda: {"callback": [trial.pruning]})
        return small.train(**_settings(trial))

    with pytest.raises(UsageError, match=r"which no evaluation gives; .* \(there is none\)"):
        points.run(objective, max_iterations=1)


def test_arguments_of_a_trial(points: Points) -> None:
    """A trial's run has directories of its own, and its parameters among its arguments."""
    seen: list[dict[str, Any]] = []

    def objective(trial: Any) -> float:
        trial.suggest_categorical("kind", ["a"])
        trial.suggest_int("rate", 2, 2)
        seen.append(trial.train_kwargs)
        return float(torch.rand(()))

    given = {"parameters": {"rate": 1, "data": "x"}, "model_dir": points.root / "m", "seed": 4}
    points.run(objective, trials=2, **given)
    first, second = seen
    assert first["output_dir"] == points.root / "trial-0000"
    assert second["model_dir"] == points.root / "m" / "trial-0001"
    assert first["parameters"] == {"rate": 2, "data": "x", "kind": "a"}
    assert first["identity"] == first["parameters"]
    assert (first["seed"], first["on_interrupt"], first["mlflow"]) == (4, "raise", False)


def test_each_trial_builds_the_same_model(points: Points) -> None:
    """The generators stand alike where each objective begins, and are left as they were."""
    seen = []

    def objective(trial: Any) -> float:
        seen.append(torch.rand(()).item())
        return 0.0

    before = torch.random.get_rng_state()
    points.run(objective)
    assert len(set(seen)) == 1
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_one_run_above_the_trials(points: Points, store: str) -> None:
    """In MLflow the search is one run, over all its starts; it shows the best trial."""
    from mlflow import MlflowClient

    parents = []

    def objective(trial: Any) -> float:
        parents.append(trial.train_kwargs["mlflow_parent_run_id"])
        if len(parents) == 1:
            raise RuntimeError
        return trial.suggest_float("x", 0.25, 0.25)

    how = {"mlflow": True, "mlflow_tracking_uri": store, "mlflow_experiment_name": "hunt"}
    with pytest.raises(RuntimeError):
        points.run(objective, **how)
    points.run(objective, **how)
    assert len(set(parents)) == 1
    run = MlflowClient(store).get_run(parents[0])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "study")
    assert run.data.metrics == {"eval/loss": 0.25}
    assert run.data.tags["best.x"] == "0.25"
    assert run.data.tags["igniter.best_trial"] == "0"


def test_tracking_that_is_down(points: Points, capfd: pytest.CaptureFixture[str]) -> None:
    """Where MLflow cannot be reached the search goes on, and says what is missing."""
    nowhere = f"sqlite:///{points.root.parent}/missing/mlflow.db"
    assert points.run(number, mlflow=True, mlflow_tracking_uri=nowhere).finished == 3
    said = capfd.readouterr().err
    assert "the trials are not put below one run in MLflow: MLflow's database cannot" in said


@pytest.mark.parametrize("at", [4, 5])
def test_ended_early_and_not_written_down(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that a handler ended stays ended if its process died before ``run.yaml`` said so.

    So a pruned trial is not trained on; what happens once, at the end, happens once.
    """
    ends: list[int] = []

    class Early:
        def on_batch_end(self, trainer: Any, batch: Any, output: Any) -> None:
            if trainer.state.iteration == at:
                trainer.terminate()

        def on_training_end(self, trainer: Any) -> None:
            ends.append(trainer.state.iteration)

    def die(*_: Any) -> None:
        raise RuntimeError("killed")

    def spec() -> Any:
        return {"callback": [Early()]}

    straight, killed = Small(tmp_path / "a", spec=spec), Small(tmp_path / "b", spec=spec)
    straight.train()
    with monkeypatch.context() as patch:
        patch.setattr("igniter.exporting.export_result", die)
        with pytest.raises(RuntimeError, match="killed"):
            killed.train()
    assert killed.train().iteration == at
    assert_same_run(straight.run_dir, killed.run_dir)
    assert ends == [at, at]
    assert (killed.run_dir / "model" / "model.safetensors").exists()
    assert killed.train(max_epochs=4).iteration > at
