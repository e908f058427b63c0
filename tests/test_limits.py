"""--limit-batches, a quick look at all there is, and --stop-after, an attempt that ends in time."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import (
    Small,
    Zygote,
    assert_exact,
    assert_same_run,
    plain_eval_step,
    plain_step,
)
from torch.utils.data import DataLoader, IterableDataset

from igniter import RunSpec, assembly
from igniter.args import build_parser, parse, train_kwargs
from igniter.errors import UsageError
from igniter.eval_only import evaluated
from igniter.intervals import parse_duration
from igniter.rundir import RunRecord
from igniter.settings import Settings
from igniter.signals import StopSignals
from igniter.tracking.display import Display
from igniter.verify.plan import Plan


class Counting:
    """Counts the batches of training and of evaluations."""

    def __init__(self) -> None:
        self.trained = self.evaluated = 0

    def step(self, engine: Any, batch: Any, model: Any, optimizer: Any) -> Any:
        """A step of training."""
        self.trained += 1
        return plain_step(engine, batch, model, optimizer)

    def eval_step(self, engine: Any, batch: Any, model: Any) -> Any:
        """A step of an evaluation."""
        self.evaluated += 1
        return plain_eval_step(engine, batch, model)


@pytest.mark.parametrize(("limit", "epoch", "evaluated"), [(2, 2, 2), (100, 4, 4), (None, 4, 4)])
def test_limit_batches(tmp_path: Path, limit: int | None, epoch: int, evaluated: int) -> None:
    """An epoch and an evaluation take at most so many batches, each its first ones."""
    count = Counting()
    run = Small(tmp_path, step=count.step, eval_step=count.eval_step)
    result = run.train(limit_batches=limit)
    assert (result.iteration, result.epoch) == (3 * epoch, 3)
    assert (count.trained, count.evaluated) == (3 * epoch, 3 * evaluated)


class Endless(IterableDataset[torch.Tensor]):
    """Points of a plane, of which nobody knows how many there are."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __iter__(self) -> Iterator[torch.Tensor]:
        for index in range(self.number):
            yield torch.tensor([index / 8, 1.0])


def test_limit_of_what_has_no_length(tmp_path: Path) -> None:
    """The limit is the length of an epoch where the loader has none, and ends an evaluation."""
    count = Counting()

    def step(engine: Any, batch: Any, model: Any, optimizer: Any) -> Any:
        return count.step(engine, [batch], model, optimizer)

    run = Small(tmp_path, step=step, loader=DataLoader(Endless(8), batch_size=2))
    assert run.train(limit_batches=3).iteration == 9
    for number, expected in ((100, 3), (4, 2)):
        count.evaluated = 0
        spec = RunSpec(
            step=lambda engine, batch: count.eval_step(engine, [batch], run.model),
            loader=DataLoader(Endless(number), batch_size=2),
        )
        settings = Settings(limit_batches=3)
        evaluated(settings, {"model": run.model}, {"eval": spec}, Display("none"))
        assert count.evaluated == expected


def test_limited_training_is_exact(tmp_path: Path) -> None:
    """A limited run stopped in the middle of an epoch and at its end ends as one that is not."""
    assert_exact(
        tmp_path, [1, 2, 5], eval_step=plain_eval_step, settings={"limit_batches": 2}
    )  # fmt: skip


def test_limit_is_part_of_the_identity() -> None:
    """A quick look is another run than the whole; a time limit is not."""

    def identity(*flags: str) -> Any:
        return train_kwargs(parse(build_parser(), flags, {}))["identity"]

    assert identity("--limit-batches", "2") != identity()
    assert identity("--stop-after", "2 hours") == identity()


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "many"])
def test_wrong_limits(wrong: Any) -> None:
    """A limit is a whole number of at least 1."""
    with pytest.raises(UsageError, match="limit_batches is"):
        Settings(limit_batches=wrong)


@pytest.mark.parametrize(
    ("text", "seconds"), [("2 hours", 7200), ("90m", 5400), ("1.5 h", 5400), ("30s", 30)]
)
def test_times(text: str, seconds: float) -> None:
    """A time is read as intervals are, and its text reads back as the same."""
    assert Settings(stop_after=text).time_limit == seconds
    assert parse_duration(str(parse_duration(text))) == parse_duration(text)
    for none in (None, "never", 0):
        assert Settings(stop_after=none).time_limit is None


@pytest.mark.parametrize("wrong", ["5 epochs", "3600", "1 hour, 5 epochs", "1 h, 30 m", "auto", ""])
def test_wrong_times(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is not one time is refused, on the command line with exit code 2."""
    with pytest.raises(UsageError):
        parse_duration(wrong)
    with pytest.raises(SystemExit) as caught:
        parse(build_parser(), ["--stop-after", wrong], {})
    assert caught.value.code == 2
    assert "argument --stop-after" in capsys.readouterr().err


class Clock:
    """A clock that training's iterations move on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        signals = functools.partial(StopSignals, clock=lambda: self.now, notify=lambda text: None)
        monkeypatch.setattr(assembly, "StopSignals", signals)

    def step(self, engine: Any, batch: Any, model: Any, optimizer: Any) -> Any:
        """A step that takes one second."""
        self.now += 1
        return plain_step(engine, batch, model, optimizer)

    def eval_step(self, engine: Any, batch: Any, model: Any) -> Any:
        """As long a step of an evaluation."""
        self.now += 1
        return plain_eval_step(engine, batch, model)


def test_stop_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt ends when its time is over, in an evaluation too, and all is as if it had not.

    What has taken too long once is finished by the next attempt.
    """
    how = {"log_every": "1 iteration"}
    straight = Small(tmp_path / "straight", eval_step=plain_eval_step)
    straight.train(**how)
    clock = Clock(monkeypatch)
    stopped = Small(tmp_path / "stopped", step=clock.step, eval_step=clock.eval_step)
    # Iterations of a second, and evaluations that take longer than there is time.
    ends = []
    while True:
        clock.now += 1000  # between attempts
        result = stopped.train(stop_after="3 seconds", **how)
        ends.append(result.iteration)
        if result.status == "completed":
            break
        assert (result.status, result.signal) == ("interrupted", signal.SIGTERM)
    assert ends == [3, 4, 5, 8, 9, 12, 12]
    record = RunRecord.load(tmp_path / "stopped/run.yaml")
    assert {attempt.reason for attempt in record.attempts[:-1]} == {"the time limit"}
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


def test_enough_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends within its time is complete, at the last iteration too."""
    clock = Clock(monkeypatch)
    for limit in ("13 s", "12 s"):
        run = Small(tmp_path / limit, step=clock.step)
        result = run.train(stop_after=limit, log_every="1 iteration")
        assert result.iteration == 12
        assert result.status == ("completed" if limit == "13 s" else "interrupted")


def test_a_signal_after_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time is over the first signal is one to stop, not a second that ends at once."""
    now, told = [0.0], []
    signals = StopSignals(
        ["SIGINT"], time_limit=10, notify=told.append, clock=lambda: now[0]
    )  # fmt: skip
    with signals:
        now[0] = 9.9
        signals.look_at_clock()
        assert (signals.received, signals.reason) == (None, None)
        now[0] = 10
        signals.look_at_clock()
        assert (signals.received, signals.reason) == (signal.SIGTERM, "the time limit")
        os.kill(os.getpid(), signal.SIGINT)
        assert (signals.received, signals.reason) == (signal.SIGINT, "SIGINT")
    assert len(told) == 2


def test_verifying_takes_the_time_it_needs(tmp_path: Path) -> None:
    """A script with a time limit can be verified: its trials have none."""
    spec = RunSpec(step=lambda *_: {}, loader=[1])
    settings, _ = Plan(str(tmp_path)).applied(
        Settings(stop_after="1 s", limit_batches=3), spec, tmp_path
    )
    assert (settings.time_limit, settings.limit_batches) == (None, 3)
    with pytest.raises(UsageError, match="only training can be verified"):
        Plan(str(tmp_path)).applied(Settings(eval_only=True), spec, tmp_path)


def test_time_in_a_thread() -> None:
    """The limit holds where signals cannot be taken, or none is wanted."""
    now = [0.0]
    signals = StopSignals((), time_limit=1, notify=lambda text: None, clock=lambda: now[0])
    with signals:
        now[0] = 2
        signals.look_at_clock()
    assert signals.received == signal.SIGTERM


def test_exit_code_and_words(zygote: Zygote, tmp_path: Path) -> None:
    """The program ends with 143 and says how to go on; each start does at least one iteration."""
    flags = ("--no-mlflow", "--output-dir", "run", "--max-epochs", "2")
    done = zygote.run("simple.py", *flags, "--stop-after", "0.0001 s", cwd=tmp_path)
    assert done.code == 143, done
    assert "the time limit is over" in done.err
    last = done.out.splitlines()[-1]
    assert last.startswith("stopped by the time limit; iteration 1 of 12 is saved. To go on: ")
    assert last.endswith("simple.py --no-mlflow --output-dir run --max-epochs 2 "
                         "--stop-after '0.0001 s'")  # fmt: skip
    assert zygote.run("simple.py", *flags, "--stop-after=1e-4s", cwd=tmp_path).code == 143
    assert RunRecord.load(tmp_path / "run/run.yaml").iteration == 2
    assert zygote.run("simple.py", *flags, cwd=tmp_path).code == 0
    assert zygote.run("simple.py", *flags, "--stop-after", "1 hour", cwd=tmp_path).code == 0
    straight = zygote.run("simple.py", *flags, "--output-dir", "straight", cwd=tmp_path)
    assert straight.code == 0
    assert_same_run(tmp_path / "straight", tmp_path / "run")
