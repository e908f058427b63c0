"""--eval-only: a run's evaluations on a checkpoint, bit for bit as training logged them."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Done, Small, Zygote, plain_eval_step, points_loader, run_fresh
from torch import nn

from igniter import Model, RunSpec, evaluate, selection, train
from igniter.engine import Events
from igniter.errors import (
    CheckpointDamaged,
    CheckpointMismatch,
    Interrupted,
    NoUsableCheckpoint,
    UsageError,
)
from igniter.handlers import EMA
from igniter.lock import RunLock
from igniter.result import Result
from igniter.rundir import Paths, RunRecord

QUIET = ("--no-mlflow", "--output-dir", "run")


def noisy_eval_step(engine: Any, batch: Any, model: Any) -> Any:
    """A step that draws, under dropout that does not in eval mode."""
    output = nn.functional.dropout(model(batch[0]), 0.5, model.training)
    return {"loss": (output + torch.rand(())).mean()}


def trained(run_dir: Path, **settings: Any) -> tuple[Small, Result]:
    """A run whose checkpoints of iterations 4, 8 and 12 are all kept."""
    run = Small(run_dir, eval_step=noisy_eval_step)
    return run, run.train(**{"keep_last": 9, "best_metric": "eval/loss", **settings})


def again(run: Small, **settings: Any) -> Result:
    """Evaluate the run alone."""
    result = run.train(eval_only=True, **settings)
    assert result.status == "completed"
    return result


def checkpoint_of(run: Small, iteration: int) -> Path:
    """The directory of a checkpoint."""
    return run.run_dir / f"checkpoints/iteration-{iteration:08d}"


def spoil(checkpoint: Path) -> None:
    """Change one byte of its state."""
    file = checkpoint / "state.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def files_in(directory: Path) -> dict[str, tuple[int, int]]:
    """Every file below, with its size and when it was changed, directories too."""
    return {
        str(path.relative_to(directory)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in [directory, *directory.rglob("*")]
    }


def test_equal_to_what_training_logged(tmp_path: Path) -> None:
    """On each checkpoint it gives what training logged at that iteration, to the last bit.

    Of another iteration, or with another seed, it does not. Trap: `eval` does not find what
    `train` saved (PI).
    """
    run, result = trained(tmp_path)
    logged = dict(result.history["eval/loss"])
    assert len(set(logged.values())) == 3
    for iteration in (4, 8, 12):
        found = again(run, checkpoint=checkpoint_of(run, iteration))
        assert found.metrics == {"eval/loss": logged[iteration]}
        assert (found.iteration, found.epoch) == (iteration, iteration // 4)
        assert dict(found.history["eval/loss"])[iteration] == logged[iteration]
        assert max(dict(found.history["train/loss_epoch"])) == iteration
    assert again(run, checkpoint="latest", seed=1).metrics["eval/loss"] not in logged.values()
    # The same weights, and what is random as at another iteration.
    spec = RunSpec(
        step=lambda engine, batch: noisy_eval_step(engine, batch, run.model),
        loader=points_loader(),
        metrics={"loss": "loss"},
    )
    again(run, checkpoint="latest")
    elsewhere = evaluate(to_save={"model": run.model}, eval_spec=spec)
    assert elsewhere["eval/loss"] not in logged.values()


def test_which_checkpoint(tmp_path: Path) -> None:
    """The best where there is one, else the latest; or as asked."""
    run, result = trained(tmp_path, best_mode="min")
    logged = dict(result.history["eval/loss"])
    best = min(logged, key=lambda iteration: logged[iteration])
    assert best != 12
    for which, iteration in ((None, best), ("best", best), ("latest", 12)):
        found = again(run, checkpoint=which)
        assert (found.iteration, found.metrics["eval/loss"]) == (iteration, logged[iteration])
        assert found.best_checkpoint == result.best_checkpoint
        assert found.run_dir == tmp_path
    (tmp_path / "checkpoints/best").unlink()
    assert again(run).iteration == best
    shutil.rmtree(checkpoint_of(run, best))
    assert again(run).iteration == 12
    with pytest.raises(NoUsableCheckpoint, match="--checkpoint latest"):
        again(run, checkpoint="best")


def test_a_run_that_follows_no_best(tmp_path: Path) -> None:
    """Without a best metric it is the latest, the final checkpoint of a run that is complete."""
    run, result = trained(tmp_path, best_metric=None)
    assert again(run).metrics == {"eval/loss": result.metrics["eval/loss"]}
    with pytest.raises(NoUsableCheckpoint, match="--best-metric"):
        again(run, checkpoint="best")


def test_nothing_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file appears, goes or changes, and a lock that somebody holds is no hindrance.

    ``--resume never`` would set the run aside; it has no say here, whatever it is.
    """
    monkeypatch.chdir(tmp_path)
    run, _ = trained(tmp_path / "run")
    before = files_in(tmp_path)
    with RunLock.acquire(Paths(run.run_dir).lock):
        for resume in ("auto", "never", "must", "always", "./nowhere"):
            held = files_in(tmp_path)
            again(run, resume=resume, mlflow=True, tensorboard=True)
            assert files_in(tmp_path) == held
    again(run)
    assert files_in(tmp_path).keys() == before.keys()


def test_nothing_to_evaluate(tmp_path: Path) -> None:
    """Without an evaluation, a run or a checkpoint it says so, and makes no directory."""
    with pytest.raises(UsageError, match="no evaluation; give train"):
        Small(tmp_path / "a").train(eval_only=True)
    run = Small(tmp_path / "run", eval_step=plain_eval_step)
    with pytest.raises(NoUsableCheckpoint, match="Train first") as caught:
        again(run)
    assert caught.value.exit_code == 3
    with pytest.raises(NoUsableCheckpoint, match="nowhere"):
        again(run, checkpoint=tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="add eval_only"):
        run.train(checkpoint="best")
    with pytest.raises(UsageError, match="checkpoint is 'bets'; it must be best, latest, or the"):
        again(run, checkpoint="bets")


def test_damaged_checkpoints(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A damaged latest one is passed over with a warning, a damaged best or named one refused.

    Nothing is set aside: that is for training to do.
    """
    run, _ = trained(tmp_path, best_mode="min")
    best = checkpoint_of(run, RunRecord.load(tmp_path / "run.yaml").best["iteration"])
    for path in (best, checkpoint_of(run, 12), tmp_path / "checkpoints/iteration-00000012-final"):
        spoil(path)
    before = files_in(tmp_path)
    for which in (None, "best"):
        with pytest.raises(CheckpointDamaged, match="the newest is taken with --checkpoint latest"):
            again(run, checkpoint=which)
    capfd.readouterr()
    with pytest.raises(CheckpointDamaged, match=r"state\.pt"):
        again(run, checkpoint=checkpoint_of(run, 12))
    rest = next(i for i in (8, 4) if checkpoint_of(run, i) != best)
    assert again(run, checkpoint="latest").iteration == rest
    warned = capfd.readouterr().err
    assert warned.count("iteration-00000012-final/state.pt is damaged") == 1
    assert "The checkpoint before it is used" in warned
    assert files_in(tmp_path) == before
    for path in (checkpoint_of(run, 4), checkpoint_of(run, 8)):
        (path / "state.pt").write_bytes(b"")
    with pytest.raises(NoUsableCheckpoint):
        again(run, checkpoint="latest")


@pytest.mark.parametrize("which", ["best", "latest"])
def test_removed_while_it_is_read(
    tmp_path: Path, which: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What training removes for something newer between two looks is no damage."""
    run, _ = trained(tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/iteration-00000012-final")
    newer = tmp_path / "newer"
    checkpoint_of(run, 12).rename(newer)
    record = RunRecord.load(tmp_path / "run/run.yaml")
    record.best = {**record.best, "iteration": 8}
    record.save(tmp_path / "run/run.yaml")
    load = selection.files.load_at_position

    def overtaken(checkpoint: Any) -> Any:
        if newer.exists():
            newer.rename(checkpoint_of(run, 12))
            record.best = {**record.best, "iteration": 12}
            record.save(tmp_path / "run/run.yaml")
            shutil.rmtree(checkpoint.path)
        return load(checkpoint)

    monkeypatch.setattr(selection.files, "load_at_position", overtaken)
    assert again(run, checkpoint=which).iteration == 12
    assert capfd.readouterr().err == ""


def evaluated(
    run_dir: Path, to_save: dict[str, Any], model: nn.Module, *, spec: Any = None, **settings: Any
) -> Result:
    """Evaluate a run with other objects than it was trained with."""
    evaluation = RunSpec(
        step=lambda engine, batch: noisy_eval_step(engine, batch, model),
        loader=points_loader(),
        metrics={"loss": "loss"},
        **(spec or {}),
    )
    return train(
        to_save=to_save,
        train_spec=RunSpec(step=lambda engine, batch: {}, loader=points_loader()),
        eval_spec=evaluation,
        eval_only=True,
        output_dir=run_dir,
        progress="none",
        **settings,
    )


def test_other_objects(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """No optimizer is needed; what is new is told of; each module must be there and fit."""
    _, result = trained(tmp_path)
    expected = {"eval/loss": dict(result.history["eval/loss"])[result.iteration]}
    model = nn.Linear(2, 1)
    found = evaluated(tmp_path, {"model": model}, model, checkpoint="latest")
    assert found.metrics == expected
    assert capfd.readouterr().err == ""
    scheduler = torch.optim.lr_scheduler.StepLR(torch.optim.SGD(model.parameters(), lr=1), 1)
    objects = {"model": model, "scheduler": scheduler}
    assert evaluated(tmp_path, objects, model, checkpoint="latest").metrics == expected
    assert "has nothing of scheduler" in capfd.readouterr().err

    with pytest.raises(CheckpointMismatch, match="no 'net', a module of to_save; it holds model"):
        evaluated(tmp_path, {"net": model}, model)
    wide = nn.Linear(3, 1)
    with pytest.raises(CheckpointMismatch, match=r"weight \(1, 2\) → \(1, 3\)"):
        evaluated(tmp_path, {"model": wide}, wide)


def test_other_arguments(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Arguments other than the run's are told, and evaluated with: nothing can be spoilt."""
    run, _ = trained(tmp_path, parameters={"width": 2})
    again(run, parameters={"width": 2})
    assert capfd.readouterr().err == ""
    again(run, parameters={"width": 3})
    assert "other arguments than are given:\n  width: 2 → 3" in capfd.readouterr().err


def test_averaged_weights(tmp_path: Path) -> None:
    """An evaluation with averaged weights gives what it gave; the average comes along by itself.

    The evaluation beside it has the weights as they are.
    """

    def evaluation(model: nn.Module, weights: Any) -> RunSpec:
        return RunSpec(
            step=lambda engine, batch: plain_eval_step(engine, batch, model),
            loader=points_loader(),
            metrics={"loss": "loss"},
            weights=weights,
        )

    def run(**settings: Any) -> Result:
        torch.manual_seed(0)
        model = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        ema = EMA(decay=0.5)

        def step(engine: Any, batch: Any) -> Any:
            optimizer.zero_grad()
            loss = (model(batch[0]) - 1).square().mean()
            loss.backward()
            optimizer.step()
            return {"loss": loss}

        return train(
            to_save={"model": model, "optimizer": optimizer},
            train_spec=RunSpec(step=step, loader=points_loader(), callback=[ema]),
            eval_spec={"averaged": evaluation(model, ema), "plain": evaluation(model, None)},
            max_epochs=2,
            output_dir=tmp_path,
            mlflow=False,
            progress="none",
            **settings,
        )

    logged = run().metrics
    assert logged["averaged/loss"] != logged["plain/loss"]
    assert run(eval_only=True).metrics == logged
    model = nn.Linear(2, 1)
    specs = {"averaged": evaluation(model, EMA()), "plain": evaluation(model, None)}
    assert evaluate(to_save={"model": model}, eval_spec=specs, checkpoint=tmp_path) == logged


class Halves(Model):
    """A model whose evaluation depends on the precision, on its hooks, and on what it counted."""

    module = nn.Linear
    loss = nn.MSELoss
    optimizer = torch.optim.SGD

    def setup(self) -> None:
        """Have something to count."""
        super().setup()
        self.added, self.batches = 0.0, 0

    def on_batch_end(self, batch: Any, output: Any) -> None:
        """Count."""
        self.batches += 1

    def on_validation_start(self, cycle: int, name: str) -> None:
        """Have the evaluation know of the hook."""
        self.added = 0.5

    def eval_step(self, batch: Any) -> Any:
        """Evaluate in the run's precision."""
        with self.updates.autocast():
            output = self.module(batch[0].to(self.device)).float()
        return {"loss": output.mean() + self.added * self.batches}


def test_a_model(tmp_path: Path) -> None:
    """A Model is evaluated in the run's precision, with its hooks and all its state.

    In another precision it gives something else.
    """

    def fit(precision: str = "bf16", **settings: Any) -> Result:
        inputs = torch.linspace(-1, 1, 20).reshape(10, 2)
        data = torch.utils.data.TensorDataset(inputs, inputs.sum(1, keepdim=True))
        parameters = {
            "module": {"in_features": 2, "out_features": 1},
            "optimizer": {"lr": 0.1},
        }
        loader = torch.utils.data.DataLoader(data, 3, shuffle=True)
        return Halves(parameters).fit(
            loader,
            loader,
            precision=precision,
            max_epochs=2,
            output_dir=tmp_path,
            mlflow=False,
            progress="none",
            **settings,
        )

    logged = fit().metrics["eval/loss"]
    before = files_in(tmp_path)
    assert fit(eval_only=True).metrics == {"eval/loss": logged}
    assert fit("fp32", eval_only=True).metrics["eval/loss"] != logged
    assert files_in(tmp_path) == before


def test_callbacks_in_evaluate(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """evaluate() has objects and functions take part, and tells of a state that is not there."""
    run, _ = trained(tmp_path / "run")
    model = nn.Linear(2, 1)
    seen: list[Any] = []

    class Told:
        def on_validation_end(
            self, trainer: Any, cycle: int, name: str, metrics: dict[str, float]
        ) -> None:
            seen.append((trainer.state.iteration, cycle, name, metrics))

    spec = RunSpec(
        step=lambda engine, batch: noisy_eval_step(engine, batch, model),
        loader=points_loader(),
        metrics={"loss": "loss"},
        weights=EMA(),
        callback=[
            Told(),
            lambda engine, trainer: seen.append(trainer.evaluators["eval"] is engine),
        ],
    )
    found = evaluate(to_save={"model": model}, eval_spec=spec, checkpoint=run.run_dir)
    assert seen == [True, (12, 1, "eval", found)]
    assert "has nothing of callbacks/EMA, which is used as it was built" in capfd.readouterr().err


def test_callbacks(tmp_path: Path) -> None:
    """Callbacks of the evaluations take part, training's do not; figures are not kept."""
    trained(tmp_path)
    seen: list[Any] = []
    model = nn.Linear(2, 1)

    def attach(engine: Any, trainer: Any) -> None:
        @engine.on(Events.COMPLETED)
        def _() -> None:
            assert trainer.objects == engine.objects == {"model": model}
            seen.append((trainer.state.iteration, trainer.state.epoch))
            engine.log_image("noise", torch.zeros(2, 2))
            trainer.terminate()

    before = files_in(tmp_path)
    evaluated(tmp_path, {"model": model}, model, spec={"callback": attach}, checkpoint="latest")
    assert seen == [(12, 3)]
    assert files_in(tmp_path) == before
    run = Small(tmp_path, attach=lambda trainer, *_: seen.append(trainer))
    run.eval_step = None
    with pytest.raises(UsageError):
        run.train(eval_only=True)
    assert len(seen) == 1


@pytest.mark.parametrize("how", ["return", "raise"])
def test_stopped(tmp_path: Path, how: str) -> None:
    """A signal ends it after the batch, without a result, as training ends."""
    run, _ = trained(tmp_path)

    def stopped(engine: Any, batch: Any, model: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return noisy_eval_step(engine, batch, model)

    run.eval_step = stopped
    if how == "return":
        result = run.train(eval_only=True)
    else:
        with pytest.raises(Interrupted) as caught:
            run.train(eval_only=True, on_interrupt="raise")
        result = caught.value.result
    assert (result.status, result.signal, result.metrics) == ("interrupted", signal.SIGINT, {})


@pytest.fixture(scope="module")
def script_run(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which a script has trained."""
    cwd = tmp_path_factory.mktemp("script")
    done = start(zygote, cwd, "--max-epochs", "3", "--best-metric", "eval/loss")
    assert done.code == 0, done
    return cwd


def start(zygote: Zygote, cwd: Path, *argv: object, **env: str) -> Done:
    """Start the script."""
    return zygote.run("evaluated.py", *QUIET, *argv, cwd=cwd, env={"TEST_DO": "", **env})


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("workers", [0, 2])
def test_signals_in_a_process(zygote: Zygote, script_run: Path, name: str, workers: int) -> None:
    """The program ends with 128 + N and no traceback, and nothing is lost."""
    flags = ("--eval-only", "--workers", workers)
    done = start(zygote, script_run, *flags, TEST_DO=name)
    assert done.code == 128 + signal.Signals[name], done
    assert "Traceback" not in done.out + done.err
    assert done.out.splitlines()[-1] == f"stopped by {name}; there is no result"
    assert start(zygote, script_run, *flags).code == 0


def test_words_and_progress(zygote: Zygote, script_run: Path, tmp_path: Path) -> None:
    """It says what it evaluates and what came out, in JSON too; errors have their exit codes."""
    trained = json.loads((script_run / "run/journal.jsonl").read_text().splitlines()[-1])
    assert trained["iteration"] == 15
    before = files_in(script_run / "run")
    done = start(zygote, script_run, "--eval-only", "--checkpoint", "latest")
    assert (done.code, done.err) == (0, "")
    where = "run/checkpoints/iteration-00000015-final"
    assert done.out.splitlines()[0] == f"evaluating {where}"
    assert done.out.splitlines()[1].startswith("iteration 15, epoch 3; eval loss ")
    returned = json.loads((script_run / "returned.json").read_text())
    assert returned["steps"] == {"train": 0, "eval": 5}

    done = start(zygote, script_run, "--eval-only", "--checkpoint=latest", "--progress", "json")
    begun, ended = map(json.loads, done.out.splitlines())
    assert (begun["event"], ended["event"], ended["status"]) == ("start", "end", "completed")
    assert ended["metrics"] == returned["metrics"]
    assert begun["checkpoint"] == ended["checkpoint"] == where
    assert files_in(script_run / "run") == before
    left = {path.name for path in script_run.iterdir() if not path.name.startswith(".")}
    assert left == {"run", "returned.json"}

    done = start(zygote, tmp_path, "--eval-only")
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith("error: there is no usable checkpoint in run/checkpoints. Train ")
    done = start(zygote, script_run, "--checkpoint", "latest")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: checkpoint is 'latest', which is for evaluating alone")


def test_while_training_is_at_work(zygote: Zygote, tmp_path: Path) -> None:
    """A run is evaluated in the middle of its training, which is not disturbed by it."""
    env = {"TEST_DO": "wait"}
    flags = (*QUIET, "--save-every", "1 epoch", "--max-epochs", "3")
    training = zygote.start("evaluated.py", *flags, cwd=tmp_path, env=env)
    wait_for(lambda: (tmp_path / "waiting").exists())
    wait_for(lambda: (tmp_path / "run/checkpoints/iteration-00000010/manifest.json").exists())
    done = run_fresh("evaluated.py", *flags, "--eval-only", cwd=tmp_path)
    assert done.code == 0, done
    during = json.loads((tmp_path / "returned.json").read_text())
    (tmp_path / "go").touch()
    done = training.wait()
    assert (done.code, done.err) == (0, "")
    logged = [
        json.loads(line) for line in (tmp_path / "run/journal.jsonl").read_text().splitlines()
    ]
    (at_ten,) = [r for r in logged if r["iteration"] == 10 and "eval/loss" in r["metrics"]]
    assert during["iteration"] == 10
    assert during["metrics"] == {"eval/loss": at_ten["metrics"]["eval/loss"]}


def wait_for(there: Callable[[], bool]) -> None:
    """Wait until another process has come that far."""
    import time

    late = time.monotonic() + 30
    while not there():
        assert time.monotonic() < late
        time.sleep(0.005)
