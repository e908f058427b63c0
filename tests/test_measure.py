"""What every run logs besides its metrics: what is a function of the run, and what is measured."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import Crash, Small, assert_exact, plain_eval_step, plain_step, points, points_loader
from torch.utils.data import DataLoader, Dataset

from igniter import RunSpec, train
from igniter.cli import main
from igniter.engine import Events, StepEngine
from igniter.errors import UsageError
from igniter.measure import Speed, learning_rates

CPU = torch.device("cpu")
PERF = {"perf/samples_per_second", "perf/seconds_per_iteration", "perf/data_wait_share"}


def records(run_dir: Path) -> list[dict[str, Any]]:
    """Every record of a run's journal."""
    lines = (run_dir / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def logged(run_dir: Path, name: str, kind: str = "result") -> dict[int, float]:
    """The values of ``name`` by iteration; each is there once, and of that kind."""
    found: dict[int, float] = {}
    for record in records(run_dir):
        if name in record["metrics"]:
            assert record["kind"] == kind
            assert record["iteration"] not in found
            found[record["iteration"]] = record["metrics"][name]
    return found


def parameter() -> torch.nn.Parameter:
    """A parameter of its own."""
    return torch.nn.Parameter(torch.zeros(1))


def sgd(*groups: Mapping[str, Any]) -> torch.optim.Optimizer:
    """An optimizer with a parameter in each group."""
    return torch.optim.SGD([{"params": [parameter()], **group} for group in groups], lr=0.5)


# Learning rates.


def test_one_rate() -> None:
    """One optimizer with one group has a rate, with every digit; one of a tensor too."""
    assert learning_rates({"any": sgd({"lr": 3e-6})}) == {"lr": 3e-6}
    assert learning_rates({"any": sgd({"lr": torch.tensor(0.25)})}) == {"lr": 0.25}


@pytest.mark.parametrize(
    ("groups", "names"),
    [
        ([{}, {"lr": 2.0}], ["lr/opt/0", "lr/opt/1"]),
        ([{"name": "head"}, {"lr": 2.0}], ["lr/opt/head", "lr/opt/1"]),
        ([{"name": "head"}, {"lr": 2.0, "name": "head"}], ["lr/opt/0", "lr/opt/1"]),
    ],
)
def test_several_groups(groups: list[Mapping[str, Any]], names: list[str]) -> None:
    """Groups are told apart by name or index, and two of one name are not taken for one."""
    assert learning_rates({"opt": sgd(*groups)}) == dict(zip(names, [0.5, 2.0], strict=True))


def test_several_optimizers() -> None:
    """Each optimizer's rates are under its name; one that has no rate says nothing."""
    without, own = sgd({}), sgd({})
    del without.param_groups[0]["lr"]
    own.param_groups[0]["lr"] = None
    both = {"a": sgd({}), "b": sgd({"lr": 2.0}), "c": without, "d": own}
    assert learning_rates(both) == {"lr/a/0": 0.5, "lr/b/0": 2.0}
    assert learning_rates({}) == {}


def test_schedule_in_the_journal(tmp_path: Path) -> None:
    """At each log point stands the rate that the next step finds, and the epoch as a number."""
    found: list[float] = []

    def attach(trainer: Any, evaluator: Any, model: Any) -> None:
        @trainer.on(Events.ITERATION_COMPLETED)
        def halve() -> None:
            small.optimizer.param_groups[0]["lr"] /= 2

    def step(engine: Any, batch: Any, model: Any, optimizer: Any) -> Any:
        found.append(optimizer.param_groups[0]["lr"])
        return plain_step(engine, batch, model, optimizer)

    small = Small(tmp_path, attach=attach, step=step)
    result = small.train(log_every=3)
    assert logged(tmp_path, "lr") == {i: 0.01 / 2**i for i in (3, 6, 9, 12)}
    assert [logged(tmp_path, "lr")[i] for i in (3, 6, 9)] == [found[i] for i in (3, 6, 9)]
    assert logged(tmp_path, "epoch") == {3: 0.75, 6: 1.5, 9: 2.25, 12: 3.0}
    assert set(result.metrics) == {"train/loss", "train/loss_epoch"}


def test_whatever_the_spec_logs(tmp_path: Path) -> None:
    """RunSpec(log=…) chooses among the metrics; the rest is always there."""
    small = Small(tmp_path, spec=lambda: {"log": []})
    small.train(log_every=6)
    names = {name for record in records(tmp_path) for name in record["metrics"]}
    assert names >= {"lr", "epoch", *PERF}
    assert "train/loss" not in names


def test_drifting_rate_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rate that comes out different when its iteration runs again is told of; a speed is not."""

    def attach(trainer: Any, evaluator: Any, model: Any) -> None:
        @trainer.on(Events.ITERATION_COMPLETED)
        def drift() -> None:
            small.optimizer.param_groups[0]["lr"] = next(rates)
            if trainer.state.iteration == crash_at:
                raise Crash

    small = Small(tmp_path, attach=attach)
    rates, crash_at = iter([0.01] * 8), 8
    with pytest.raises(Crash):
        small.train(log_every=2, save_every="4 iterations")
    before = logged(tmp_path, "perf/samples_per_second", "measured")
    assert set(before) == {2, 4, 6}
    rates, crash_at = iter([0.01] + [0.02] * 7), 0
    small.train(log_every=2, save_every="4 iterations")

    told = capsys.readouterr().err
    assert "lr at iteration 6 is 0.02, but was 0.01 before the run was stopped" in told
    assert "perf/" not in told
    repeats = [record for record in records(tmp_path) if record.get("repeat")]
    assert repeats[0]["metrics"]["lr"] == 0.02
    assert not {name for record in repeats for name in record["metrics"]} & PERF
    speeds = logged(tmp_path, "perf/samples_per_second", "measured")
    assert {i: speeds[i] for i in before} == before
    assert set(speeds) == {2, 4, 6, 8, 10, 12}


def test_equal_rates_are_not_reported(tmp_path: Path) -> None:
    """The same kill without a drift leaves each value once and nothing to tell of."""

    def attach(trainer: Any, evaluator: Any, model: Any) -> None:
        @trainer.on(Events.ITERATION_COMPLETED)
        def crash() -> None:
            if trainer.state.iteration == crash_at:
                raise Crash

    straight, killed = (Small(tmp_path / name, attach=attach) for name in ("a", "b"))
    crash_at = 0
    straight.train(log_every=1, save_every="4 iterations")
    for crash_at in (3, 6, 7, 11):  # noqa: B007 read by the handler
        with pytest.raises(Crash):
            killed.train(log_every=1, save_every="4 iterations")
    crash_at = 0
    killed.train(log_every=1, save_every="4 iterations")
    assert points(killed.run_dir) == points(straight.run_dir)
    assert set(logged(killed.run_dir, "perf/data_wait_share", "measured")) >= {2, 3, 5, 6, 7}


@pytest.mark.parametrize("kind", ["result", "measured"])
def test_kill_between_two_records_of_a_log_point(tmp_path: Path, kind: str) -> None:
    """Whichever record of an iteration a kill has left, the other one comes, and nothing twice."""

    def attach(trainer: Any, evaluator: Any, model: Any) -> None:
        @trainer.on(Events.ITERATION_COMPLETED)
        def crash() -> None:
            if trainer.state.iteration == crash_at:
                raise Crash

    small, journal = Small(tmp_path, attach=attach), tmp_path / "journal.jsonl"
    crash_at = 7
    with pytest.raises(Crash):
        small.train(log_every=2, save_every="4 iterations")
    left = [r for r in records(tmp_path) if r["iteration"] < 6 or r["kind"] == kind]
    assert len(left) == len(records(tmp_path)) - 1
    lines = [json.dumps(record) + "\n" for record in left]
    journal.write_text("".join(lines) + '{"time":1', encoding="utf-8")
    crash_at = 0
    small.train(log_every=2, save_every="4 iterations")
    for name, of in (("lr", "result"), ("perf/data_wait_share", "measured")):
        assert set(logged(tmp_path, name, of)) == {2, 4, 6, 8, 10, 12}


def test_finished_and_made_longer(tmp_path: Path) -> None:
    """A finished run started again logs nothing; a longer one goes on, with nothing twice."""
    small = Small(tmp_path)
    small.train(log_every=5)
    first = (tmp_path / "journal.jsonl").read_bytes()
    assert set(logged(tmp_path, "lr")) == {5, 10, 12}
    small.train(log_every=5)
    assert (tmp_path / "journal.jsonl").read_bytes() == first
    small.train(log_every=5, max_epochs=4)
    assert (tmp_path / "journal.jsonl").read_bytes().startswith(first)
    assert set(logged(tmp_path, "epoch")) == {5, 10, 12, 15, 16}
    assert set(logged(tmp_path, "perf/seconds_per_iteration", "measured")) == {5, 10, 12, 15, 16}


# The gradient norm.


def norm_step(engine: Any, batch: Any, model: Any, optimizer: Any) -> dict[str, Any]:
    """An update that tells its gradient's norm in every second iteration, infinite in the 4th."""
    output = plain_step(engine, batch, model, optimizer)
    if engine.state.iteration % 2 == 0:
        output["grad_norm"] = torch.tensor(float(engine.state.iteration))
    if engine.state.iteration == 4:
        output["grad_norm"] = torch.tensor(float("inf"))
    return output


def test_gradient_norm(tmp_path: Path) -> None:
    """A norm that the step returns is averaged over the window; infinity does not stop the run.

    With mixed precision a norm is infinite wherever the scale was too large.
    """
    result = Small(tmp_path, step=norm_step).train(log_every=4)
    # Batches of 3, 3, 3 and 1 samples.
    assert logged(tmp_path, "train/grad_norm") == {4: "inf", 8: (6 * 3 + 8) / 4, 12: 10.5}
    assert "train/grad_norm" not in result.metrics


def test_gradient_norm_across_stops(tmp_path: Path) -> None:
    """The window of the norm goes on after a stop within it."""
    assert_exact(tmp_path, [2, 3, 6, 9], step=norm_step, settings={"log_every": 5})
    assert logged(tmp_path / "stopped", "train/grad_norm") == {5: "inf", 10: 8.0, 12: 12.0}


@pytest.mark.parametrize("name", ["grad_norm", "norm"])
def test_gradient_norm_as_a_metric(tmp_path: Path, name: str) -> None:
    """Where a metric reads the key, or has the name, it alone is followed."""

    def step(*args: Any) -> Any:
        return {**plain_step(*args), "grad_norm": 2.0}

    spec = {"metrics": {name: "grad_norm"}}
    result = Small(tmp_path, step=step, spec=lambda: spec).train(log_every=6)
    assert logged(tmp_path, f"train/{name}") == {6: 2.0, 12: 2.0}
    names = {name for record in records(tmp_path) for name in record["metrics"]}
    assert sum("norm" in each for each in names) == 2  # with its average over the epoch
    assert result.metrics[f"train/{name}"] == 2.0


@pytest.mark.parametrize("output", [None, 0.5, {"grad_norm": 3.0}])
def test_run_without_metrics(tmp_path: Path, output: Any) -> None:
    """A step that has no metrics may return anything, and a norm is logged all the same."""
    small = Small(tmp_path, step=lambda *_: output, spec=lambda: {"metrics": {}})
    assert small.train(max_epochs=1).status == "completed"
    expected = {4: 3.0} if isinstance(output, dict) else {}
    assert logged(tmp_path, "train/grad_norm") == expected
    assert logged(tmp_path, "epoch") == {4: 1.0}


# Speed.


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now


def counted(samples: int, waited: float) -> Any:
    """What the loop has counted."""
    return SimpleNamespace(samples=samples, waited=waited)


def test_speed_of_a_window() -> None:
    """Samples and waiting since the last log point, over the time since then."""
    clock, counts = Clock(), counted(50, 7.0)
    speed = Speed(counts, CPU, clock)
    speed.go_on(1)
    counts.samples, counts.waited, clock.now = 80, 9.0, 110.0
    first = speed.window(11)
    assert {name: first[name] for name in PERF} == {
        "perf/samples_per_second": 3.0,
        "perf/seconds_per_iteration": 1.0,
        "perf/data_wait_share": 0.2,
    }
    counts.samples, clock.now = 100, 114.0
    assert speed.window(13)["perf/samples_per_second"] == 5.0
    assert speed.window(13) == {}


def test_speed_without_the_first_iteration() -> None:
    """What comes before the first iteration of an attempt is done belongs to no window."""
    speed = Speed(counted(50, 7.0), CPU, Clock())
    assert speed.window(1) == {}


@pytest.mark.parametrize(("paused", "rate"), [(True, 3.0), (False, 1.5)])
def test_speed_leaves_pauses_out(paused: bool, rate: float) -> None:
    """The time between ``pause`` and ``go_on`` is not training's."""
    clock, counts = Clock(), counted(0, 0.0)
    speed = Speed(counts, CPU, clock)
    speed.go_on(1)
    clock.now += 4.0
    if paused:
        speed.pause()
    clock.now += 10.0
    speed.go_on(5)
    clock.now += 6.0
    counts.samples = 30
    assert speed.window(11)["perf/samples_per_second"] == rate


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What training's speed is measured with."""
    made = Clock()
    monkeypatch.setattr("igniter.assembly.Speed", functools.partial(Speed, clock=made))
    timed = functools.partial(StepEngine, clock=made)
    monkeypatch.setattr("igniter.assembly.StepEngine", timed)
    return made


class Slow(Dataset[torch.Tensor]):
    """Twelve items that take two seconds each."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        self._clock.now += 2.0
        return torch.zeros(2)


def test_speed_of_a_run(tmp_path: Path, clock: Clock) -> None:
    """Loading and steps count, evaluations and saves do not: they are slow here in vain.

    Batches of 4 and 2 samples take 8 and 4 seconds to load, each step 2 seconds.
    """

    def slow(seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
        def slowed(*args: Any) -> Any:
            clock.now += seconds
            return function(*args)

        return slowed

    class SlowState(torch.nn.Linear):
        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            clock.now += 1e6
            return super().state_dict(*args, **kwargs)

    loader = DataLoader(Slow(clock), batch_size=4, sampler=range(10))
    evaluation = slow(1e6, plain_eval_step)

    def step(engine: Any, batch: Any, model: Any, optimizer: Any) -> Any:
        return plain_step(engine, [batch], model, optimizer)

    small = Small(
        tmp_path,
        step=slow(2.0, step),
        eval_step=evaluation,
        loader=loader,
        more_to_save={"slow": SlowState(1, 1)},
    )
    small.train(log_every=3, eval_every=2, save_every="4 iterations")
    rates = logged(tmp_path, "perf/samples_per_second", "measured")
    shares = logged(tmp_path, "perf/data_wait_share", "measured")
    assert set(rates) == {3, 6, 9}
    # Without the first iteration, which begins an attempt.
    assert rates[3] == pytest.approx(6 / 16)
    assert shares[3] == pytest.approx(12 / 16)
    assert rates[6] == rates[9] == pytest.approx(10 / 26)
    assert shares[6] == shares[9] == pytest.approx(20 / 26)


def test_speed_is_not_in_a_checkpoint(tmp_path: Path) -> None:
    """Runs stopped anywhere hold the same state as one that was not, whatever their speed was."""
    assert_exact(tmp_path, [1, 5], settings={"log_every": 2, "save_every": "2 iterations"})
    speeds = [
        logged(tmp_path / n, "perf/data_wait_share", "measured") for n in ("straight", "stopped")
    ]
    assert set(speeds[0]) == {2, 4, 6, 8, 10, 12}
    # Not where the first iteration of an attempt is all there is.
    assert set(speeds[1]) == {4, 8, 10, 12}
    assert speeds[0] != speeds[1]


def test_device_memory_and_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peak is that of each window, and a pause begins when the device has done its work."""
    calls: list[str] = []
    device = SimpleNamespace(
        max_memory_allocated=lambda d: calls.append("peak") or 3_000_000,
        reset_peak_memory_stats=lambda d: calls.append("reset"),
    )
    monkeypatch.setattr(torch, "get_device_module", lambda d: device)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda d: calls.append("wait"))
    clock, counts = Clock(), counted(0, 0.0)
    speed = Speed(counts, torch.device("cuda"), clock)
    speed.go_on(1)
    clock.now += 1.0
    assert speed.window(2)["perf/gpu_peak_memory_megabytes"] == 3.0
    assert calls == ["peak", "reset"]
    speed.pause()
    assert calls[2:] == ["wait"]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
def test_resident_memory(tmp_path: Path) -> None:
    """The memory of the process that trains, in units of 10^6 bytes."""
    Small(tmp_path).train(log_every=4)
    held = logged(tmp_path, "perf/memory_megabytes", "measured")
    assert set(held) == {4, 8, 12}
    assert all(50 < megabytes < 50_000 for megabytes in held.values())


# Where it shows.


def test_printed_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line about the run has its speed, once that is known."""
    Small(tmp_path).train(log_every=6, print_every=4, progress="plain")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert ["samples/s" in line for line in lines] == [False, True, True]


def test_igniter_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``igniter show`` has the rates and the speed of the last log point; the list has not."""
    Small(tmp_path / "run").train(log_every=5)
    last = [record for record in records(tmp_path / "run") if record["kind"] == "measured"][-1]
    assert main(["show", str(tmp_path / "run"), "--json"]) == 0
    latest = json.loads(capsys.readouterr().out)["latest"]
    assert latest["rates"] == {"lr": 0.01}
    assert {f"perf/{name}": value for name, value in latest["speed"].items()} == last["metrics"]
    assert main(["show", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "\n  rates       lr 0.01\n  speed       samples_per_second " in out
    (tmp_path / "run" / "journal.jsonl").unlink()
    assert main(["show", str(tmp_path / "run")]) == 0
    assert "speed" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["train", "lr", "epoch", "perf", "system", "a/b"])
def test_names_of_evaluations(tmp_path: Path, name: str) -> None:
    """An evaluation cannot have the name of what else is logged."""
    spec = RunSpec(step=lambda *_: {}, loader=points_loader())
    model = torch.nn.Linear(1, 1)
    with pytest.raises(UsageError, match=f"an evaluation cannot be called '{name}'"):
        train(
            to_save={"model": model}, train_spec=spec, eval_spec={name: spec}, output_dir=tmp_path
        )
