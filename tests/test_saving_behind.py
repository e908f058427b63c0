"""Saves that are written while training goes on: what held, once, and waited for at the end."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import Small, assert_same_run, checkpoint, plain_eval_step, plain_step
from torch.utils.data import DataLoader, TensorDataset

from igniter.checkpoint import files
from igniter.checkpoint.buffers import Buffers
from igniter.checkpoint.compare import first_difference
from igniter.checkpoint.store import CheckpointStore, load
from igniter.errors import NonFiniteError
from igniter.loader import Batches
from igniter.rundir import RunRecord
from igniter.saving import Saver


class Gate:
    """Lets the writing thread write only while it is open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = threading.Event()
        self.writing = threading.Event()
        write = files.write

        def waiting(path: Path, content: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                self.writing.set()
                assert self.opened.wait(60)
            return write(path, content)

        monkeypatch.setattr(files, "write", waiting)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate, closed at first."""
    made = Gate(monkeypatch)
    yield made
    made.opened.set()


class Notes:
    """An object of ``to_save`` whose state is anything but tensors, changed in place."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.sums = np.zeros(3)
        self.by_name: dict[str, Any] = {"last": {"iteration": 0}}

    def note(self, iteration: int) -> None:
        """Take note of ``iteration``."""
        self.seen.append(iteration)
        self.sums += iteration
        self.by_name["last"]["iteration"] = iteration

    def state_dict(self) -> dict[str, Any]:
        """The notes themselves, not copies."""
        return {"seen": self.seen, "sums": self.sums, "by_name": self.by_name}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the notes."""
        self.seen, self.sums, self.by_name = state["seen"], state["sums"], state["by_name"]


def noting(run_dir: Path, notes: Notes, after: Any = lambda iteration: None) -> Small:
    """A run that notes each iteration; ``after`` is called with each."""

    def step(engine: Any, batch: Any, model: Any, optimizer: Any) -> Any:
        output = plain_step(engine, batch, model, optimizer)
        notes.note(engine.state.iteration)
        after(engine.state.iteration)
        return output

    return Small(run_dir, step=step, more_to_save={"notes": notes})


def held_at_5(folder: Path, gate: Gate) -> str | None:
    """How a checkpoint of 5 that was written at iteration 9 differs from one that was made at 5."""
    settings = {"save_every": "5 iterations", "keep_last": 9}
    noting(folder / "at once", Notes()).train(stop_at=5, save_every="never")

    def after(iteration: int) -> None:
        if iteration == 9:
            assert gate.writing.wait(60)
            gate.opened.set()

    noting(folder / "behind", Notes(), after).train(**settings)
    first = load(folder / "at once" / "checkpoints/iteration-00000005")
    second = load(folder / "behind" / "checkpoints/iteration-00000005")
    return first_difference(
        {"state": first.state, "rank": first.rank_state},
        {"state": second.state, "rank": second.rank_state},
        "checkpoint",
    )


def test_the_file_holds_what_was_true_at_the_safe_point(tmp_path: Path, gate: Gate) -> None:
    """Four iterations later tensors, arrays and lists have changed, and the file has not.

    Trap: an asynchronous snapshot holds what the next steps make of it.
    """
    assert held_at_5(tmp_path, gate) is None


def test_without_the_copy_it_would_not(
    tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above: tensors that are not copied are those of iteration 9."""
    monkeypatch.setattr(Buffers, "copy", lambda self, tensor: tensor)
    difference = held_at_5(tmp_path, gate)
    assert difference is not None
    assert "other values" in difference


def test_one_save_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that falls due while one is written waits for it; each is there in the end."""
    at_work, most = [0], [0]
    commit = CheckpointStore.commit

    def counted(*args: Any, **kwargs: Any) -> Any:
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        try:
            return commit(*args, **kwargs)
        finally:
            at_work[0] -= 1

    monkeypatch.setattr(CheckpointStore, "commit", counted)
    Small(tmp_path).train(save_every=1, keep_last=99)
    assert most == [1]
    found = [c.iteration for c in CheckpointStore(tmp_path / "checkpoints").list()]
    assert found == list(range(1, 13))


def test_a_stop_waits_for_the_commit(tmp_path: Path, gate: Gate) -> None:
    """A signal during a write: that checkpoint stands, and the one of the stop after it."""
    notes = Notes()

    def after(iteration: int) -> None:
        if iteration == 7:
            assert gate.writing.wait(60)
            os.kill(os.getpid(), signal.SIGTERM)
            gate.opened.set()

    result = noting(tmp_path / "run", notes, after).train(save_every="5 iterations", keep_last=9)
    assert result.status == "interrupted"
    assert [c.iteration for c in CheckpointStore(tmp_path / "run/checkpoints").list()] == [5, 7]
    noting(tmp_path / "run", Notes()).train()
    noting(tmp_path / "straight", Notes()).train()
    assert_same_run(tmp_path / "straight", tmp_path / "run")


def test_an_error_of_the_users_waits_for_the_commit(tmp_path: Path, gate: Gate) -> None:
    """What was being written when a step raised is there to go on from."""

    def after(iteration: int) -> None:
        if iteration == 7:
            assert gate.writing.wait(60)
            threading.Timer(0.05, gate.opened.set).start()
            raise RuntimeError("of the user's")

    with pytest.raises(RuntimeError, match="of the user's"):
        noting(tmp_path, Notes(), after).train(save_every="5 iterations")
    assert checkpoint(tmp_path)[0] == "iteration-00000005"


def test_an_interruption_while_waiting_forgets_nothing(tmp_path: Path, gate: Gate) -> None:
    """torch raises in the midst of anything when a worker dies: what is written is waited for."""

    def raise_it(*_: object) -> None:
        gate.opened.set()
        raise RuntimeError("a worker died")

    def after(iteration: int) -> None:
        if iteration == 10:  # the save of 10 waits for that of 5
            assert gate.writing.wait(60)
            signal.setitimer(signal.ITIMER_REAL, 0.05)

    before = signal.signal(signal.SIGALRM, raise_it)
    try:
        with pytest.raises(RuntimeError, match="a worker died"):
            noting(tmp_path, Notes(), after).train(save_every="5 iterations")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert checkpoint(tmp_path)[0] == "iteration-00000005"
    assert RunRecord.load(tmp_path / "run.yaml").iteration == 5


def test_a_stopped_evaluation_waits_for_the_save_of_its_iteration(
    tmp_path: Path, gate: Gate
) -> None:
    """The save of the iteration that is evaluated is the stop's own: it is not made twice."""

    def eval_step(engine: Any, batch: Any, model: Any) -> Any:
        if not gate.opened.is_set():
            assert gate.writing.wait(60)
            with torch.no_grad():
                model.weight.add_(1)  # as a moving average that is swapped in
            os.kill(os.getpid(), signal.SIGTERM)
            gate.opened.set()
        return plain_eval_step(engine, batch, model)

    Small(tmp_path / "straight", eval_step=plain_eval_step).train(save_every="never")
    run = Small(tmp_path / "run", eval_step=eval_step)
    assert run.train(save_every="1 epoch").status == "interrupted"
    (found,) = CheckpointStore(tmp_path / "run/checkpoints").list()
    assert found.iteration == 4
    assert load(found.path).manifest["reason"] == "scheduled"
    Small(tmp_path / "run", eval_step=plain_eval_step).train()
    assert_same_run(tmp_path / "straight", tmp_path / "run")


def test_a_disk_that_stays_full_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first save that fails is warned of; when one succeeds, the next failure is again."""
    at, fsync = [0], os.fsync

    def failing(descriptor: int) -> None:
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if "state.pt" in name and any(f"-{i:08d}." in name for i in (2, 3, 4, 8)):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    def step(engine: Any, batch: Any, model: Any, optimizer: Any) -> Any:
        at[0] = engine.state.iteration
        return plain_step(engine, batch, model, optimizer)

    monkeypatch.setattr(os, "fsync", failing)
    Small(tmp_path / "full", step=step).train(save_every=1, keep_last=99)
    warned = [line for line in capsys.readouterr().err.splitlines() if "did not reach" in line]
    assert [line.split("iteration ")[1].split()[0] for line in warned] == ["2", "8"]
    found = [c.iteration for c in CheckpointStore(tmp_path / "full/checkpoints").list()]
    assert found == [1, 5, 6, 7, 9, 10, 11, 12]
    monkeypatch.undo()
    Small(tmp_path / "straight").train()
    assert_same_run(tmp_path / "straight", tmp_path / "full")


def poisoned(engine: Any, batch: Any, model: Any, optimizer: Any) -> Any:
    """A step that makes a weight NaN at iteration 6, and does not tell."""
    output = plain_step(engine, batch, model, optimizer)
    if engine.state.iteration == 6:
        with torch.no_grad():
            model.weight[0, 0] = float("nan")
    return {"loss": 0.0} if engine.state.iteration >= 6 else output


def test_a_state_that_is_not_finite_ends_the_run_from_behind(tmp_path: Path) -> None:
    """The thread finds NaN in its copy; the run stops soon after, and the save before stands."""
    with pytest.raises(NonFiniteError, match=r"weight is not finite at iteration 6.*iteration-"):
        Small(tmp_path, step=poisoned).train(save_every=2)
    assert checkpoint(tmp_path)[0] == "iteration-00000004"


def test_without_memory_for_a_copy_training_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Saves are then made at once, from the objects themselves; that is said once."""

    def refuse(self: Buffers, tensor: torch.Tensor) -> torch.Tensor:
        raise MemoryError("3 bytes")

    Small(tmp_path / "straight", eval_step=plain_eval_step).train()
    monkeypatch.setattr(Buffers, "copy", refuse)
    Small(tmp_path / "tight", eval_step=plain_eval_step).train(save_every=2, keep_last=99)
    assert capsys.readouterr().err.count("no memory for a copy of the state (3 bytes)") == 1
    found = [c.iteration for c in CheckpointStore(tmp_path / "tight/checkpoints").list()]
    assert found == [2, 4, 6, 8, 10, 12]
    assert_same_run(tmp_path / "straight", tmp_path / "tight")


def test_the_best_is_linked_when_its_checkpoint_is_there(tmp_path: Path, gate: Gate) -> None:
    """An evaluation may be over before the checkpoint of its iteration is committed."""

    def step(engine: Any, batch: Any, model: Any, optimizer: Any) -> Any:
        if engine.state.iteration == 7:  # the evaluation at 4 was the best, and is over
            assert not (tmp_path / "checkpoints/best").exists()
            gate.opened.set()
        return plain_step(engine, batch, model, optimizer)

    run = Small(tmp_path, step=step, eval_step=lambda engine, batch, model: {"loss": engine.stage})
    result = run.train(best_metric="eval/loss", best_mode="min", save_every="never")
    assert (tmp_path / "checkpoints/best").resolve().name == "iteration-00000004"
    assert result.best_checkpoint == tmp_path / "checkpoints/iteration-00000004"


@pytest.mark.parametrize(("workers", "waits"), [(0, True), (1, True), (1, False)])
def test_workers_are_forked_while_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, waits: bool
) -> None:
    """What the writing thread holds would be held in the worker for ever; without one, no wait.

    The control: where it is not waited for, it is at work.
    """
    if not waits:
        monkeypatch.setattr(Saver, "rest", lambda saver: None)
    met: list[bool] = []
    forked = threading.Event()
    commit, save, opened = CheckpointStore.commit, Saver.save, Batches._open
    savers: list[Saver] = []

    def slow(*args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            forked.wait(0.05 if waits else 60)
        return commit(*args, **kwargs)

    def noted(batches: Batches, *args: Any) -> bool:
        def before_workers() -> None:
            before()
            met.append(any(s._pending is not None and not s._pending.done() for s in savers))
            if any(met):
                forked.set()

        before, batches._before_workers = batches._before_workers, before_workers
        return opened(batches, *args)

    monkeypatch.setattr(CheckpointStore, "commit", slow)
    monkeypatch.setattr(Saver, "save", lambda saver, *at: [savers.append(saver), save(saver, *at)])
    monkeypatch.setattr(Batches, "_open", noted)
    data = DataLoader(TensorDataset(torch.randn(8, 2)), batch_size=2, num_workers=workers,
                      collate_fn=lambda rows: torch.stack([row[0] for row in rows]))  # fmt: skip
    Small(tmp_path, loader=data).train(save_every="1 epoch")
    assert len(met) >= 3 * workers
    assert any(met) is not waits or not workers
