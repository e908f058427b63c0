"""When checkpoints are saved changes nothing; a save that fails loses nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from support import (
    Small,
    assert_same_run,
    checkpoint,
    differing,
    plain_eval_step,
    points,
    save_at_once,
)
from torch import nn

from igniter.best import Best
from igniter.errors import SaveFailed, UsageError


def names(run_dir: Path) -> list[str]:
    """The checkpoints, by iteration."""
    return sorted(p.name[-2:] for p in (run_dir / "checkpoints").iterdir() if p.name[-1].isdigit())


def test_when_a_save_falls_changes_nothing(tmp_path: Path) -> None:
    """Saving at each iteration, each epoch or never ends in the same state and journal."""
    for every in ("never", "1 iterations", "1 epoch", "5 iterations, 1 seconds"):
        Small(tmp_path / every, eval_step=plain_eval_step).train(save_every=every)
        assert_same_run(tmp_path / "never", tmp_path / every)


def test_retention_over_attempts(tmp_path: Path) -> None:
    """The newest are kept, those of earlier attempts counted, and multiples for ever.

    Trap: files of earlier attempts stay for ever, or the wrong ones go (PI, PA, AR).
    """
    run = Small(tmp_path)
    settings = {"save_every": 1, "keep_last": 2, "keep_every": 5}
    run.train(stop_at=3, **settings)
    assert names(tmp_path) == ["02", "03"]
    run.train(stop_at=7, **settings)
    assert names(tmp_path) == ["05", "06", "07"]
    run.train(**settings)
    assert names(tmp_path) == ["05", "10", "11"]
    assert checkpoint(tmp_path)[0] == "iteration-00000012-final"


def test_best_over_attempts(tmp_path: Path) -> None:
    """The best by a metric is kept and linked, and a worse one after a resume does not win.

    Trap: the best score is forgotten, and a worse model overwrote best (PA).
    """
    scores = {4: 0.1, 8: 0.9, 12: 0.5, 16: 0.4, 20: 0.3}
    trained = [0]

    def step(engine: Any, batch: Any, model: Any, optimizer: Any) -> Any:
        trained[0] = engine.state.iteration
        return {"loss": 0.0}

    def eval_step(engine: Any, batch: Any, model: Any) -> Any:
        return {"loss": scores[trained[0]]}

    run = Small(tmp_path, step=step, eval_step=eval_step)
    settings = {
        "best_metric": "eval/loss", "best_mode": "max", "keep_last": 1, "max_epochs": 5
    }  # fmt: skip
    run.train(stop_at=10, **settings)
    run.train(stop_at=14, **settings)
    result = run.train(**settings)
    assert result.best_checkpoint == tmp_path / "checkpoints/iteration-00000008"
    assert (tmp_path / "checkpoints/best").resolve() == result.best_checkpoint.resolve()
    with pytest.raises(UsageError, match="no evaluation gives it; there is eval/loss"):
        Small(tmp_path / "b", eval_step=eval_step).train(best_metric="eval/accuracy")


def test_ranking() -> None:
    """The earlier of two equal ones is better, NaN ranks nowhere, later ones are forgotten."""
    best = Best("x", "min", keep=2)
    values = {1: 3.0, 2: 1.0, 3: 1.0, 4: float("nan"), 5: 0.5}
    changed = [best.consider(iteration, {"x": value}) for iteration, value in values.items()]
    assert changed == [True, True, True, False, True]
    assert best.iterations == (5, 2)
    again = Best("x", "min", keep=2)
    again.restore(best.state(), up_to=4)
    assert again.iterations == (2,)
    other = Best("x", "max")
    other.restore(best.state(), up_to=9)
    assert other.iterations == ()


def full_disk(monkeypatch: pytest.MonkeyPatch, when: Any) -> None:
    """Let every fsync of a checkpoint's file fail while ``when()``."""
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if when() and "state.pt" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)


def test_full_disk_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A scheduled save that fails is warned of, and training goes on to the same end."""
    at = [0]

    def step(engine: Any, batch: Any, model: Any, optimizer: Any) -> Any:
        from support import plain_step

        at[0] = engine.state.iteration
        return plain_step(engine, batch, model, optimizer)

    Small(tmp_path / "straight", step=step).train()
    save_at_once(monkeypatch)
    full_disk(monkeypatch, lambda: at[0] == 4)
    Small(tmp_path / "full", step=step).train()
    text = capsys.readouterr().err
    assert "iteration 4 did not reach the disk" in text
    assert "No space left on device" in text
    assert_same_run(tmp_path / "straight", tmp_path / "full")


@pytest.mark.parametrize("stop_at", [6, None])
def test_full_disk_at_the_last_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int | None
) -> None:
    """The last save of a run or an attempt must reach the disk; else the one before stands."""
    full = [False]
    Small(tmp_path / "straight").train()
    run = Small(tmp_path / "full")
    run.train(stop_at=5)
    full_disk(monkeypatch, lambda: full[0])
    full[0] = True
    with pytest.raises(SaveFailed, match="Make room and run the same command again"):
        run.train(stop_at=stop_at)
    assert checkpoint(run.run_dir)[0] == "iteration-00000005"
    full[0] = False
    assert run.train().status == "completed"
    assert_same_run(tmp_path / "straight", run.run_dir)


def test_what_cannot_be_saved_is_told_at_the_start(tmp_path: Path) -> None:
    """An object whose state no safe load would take is refused before the first iteration.

    Trap: numpy scalars and paths save, and then cannot be loaded (PI, AR, IG).
    """

    class Strange:
        def state_dict(self) -> Any:
            return {"what": object()}

        def load_state_dict(self, state: Any) -> None: ...

    seen: list[int] = []
    run = Small(tmp_path, step=lambda *_: seen.append(1), more_to_save={"strange": Strange()})
    with pytest.raises(UsageError, match="strange"):
        run.train()
    assert seen == []


def test_exported_model(tmp_path: Path) -> None:
    """The finished model is exported as safetensors that hold the final weights."""
    from safetensors.torch import load_file

    run = Small(tmp_path)
    run.train()
    exported = load_file(tmp_path / "model/model.safetensors")
    assert differing(exported, dict(checkpoint(tmp_path)[1]["state"]["model"])) == []
    assert torch.equal(exported["weight"], run.model.weight)


def test_compiled_module_is_saved_as_itself(tmp_path: Path) -> None:
    """A wrapped module's keys are those of the module inside.

    Trap: a compiled module saves _orig_mod. keys (AR).
    """
    inner = nn.Linear(2, 1)

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._orig_mod = inner

    Small(tmp_path, more_to_save={"wrapped": Wrapper()}).train(max_epochs=1)
    assert set(checkpoint(tmp_path)[1]["state"]["wrapped"]) == {"weight", "bias"}


def test_finished_run_hands_back_its_final_state(tmp_path: Path) -> None:
    """Started again, a finished run loads its final checkpoint into the objects, logs nothing."""
    run = Small(tmp_path)
    result = run.train()
    weight, logged = run.model.weight.detach().clone(), points(tmp_path)
    assert run.train() == result
    assert torch.equal(run.model.weight, weight)
    assert points(tmp_path) == logged
