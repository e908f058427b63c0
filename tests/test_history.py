"""result.history: every metric by iteration, over all attempts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from support import Crash, Small, plain_eval_step, plain_step, points, save_at_once

from igniter.history import History
from igniter.result import Result
from igniter.tracking.records import line

EVERY = {"log_every": "1 iteration", "save_every": "5 iterations"}


def results(result: Result) -> list[tuple[int, str, str]]:
    """What of a history is a function of the run, as ``points`` of the journal has it."""
    return sorted(
        (iteration, name, repr(value))
        for name, values in result.history.items()
        if not name.startswith("perf/")
        for iteration, value in values
    )


def test_straight(tmp_path: Path) -> None:
    """It holds every value of the journal, by name, in order of iteration, as plain numbers."""
    run = Small(tmp_path, eval_step=plain_eval_step)
    result = run.train(log_every="1 iteration")
    assert [iteration for iteration, _ in result.history["train/loss"]] == list(range(1, 13))
    assert [iteration for iteration, _ in result.history["eval/loss"]] == [4, 8, 12]
    assert result.history["eval/loss"][-1][1] == result.metrics["eval/loss"]
    assert {"lr", "perf/samples_per_second"} <= set(result.history)
    assert results(result) == points(tmp_path)
    values = [pair for pairs in result.history.values() for pair in pairs]
    assert {tuple(map(type, pair)) for pair in values} == {(int, float)}


def test_over_all_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash and two stops it is that of a run that was never stopped, each value once.

    Until then it ends where the run does, though the journal has later values from the crash.
    """
    save_at_once(monkeypatch)
    straight = Small(tmp_path / "straight", eval_step=plain_eval_step).train(**EVERY)
    crash_at = [10]

    def step(engine, batch, model, optimizer):
        if engine.state.iteration == crash_at[0]:
            crash_at[0] = 0
            raise Crash
        return plain_step(engine, batch, model, optimizer)

    stopped = Small(tmp_path / "stopped", step=step, eval_step=plain_eval_step)
    with pytest.raises(Crash):
        stopped.train(**EVERY)
    logged = {iteration for iteration, *_ in points(tmp_path / "stopped")}
    assert max(logged) == 9
    result = stopped.train(stop_at=7, **EVERY)
    assert (result.status, result.iteration) == ("interrupted", 7)
    assert results(result) == [point for point in results(straight) if point[0] <= 7]
    assert stopped.train(stop_at=11, **EVERY).status == "interrupted"
    for _ in ("completed", "complete already"):
        result = stopped.train(**EVERY)
        assert result.status == "completed"
        assert results(result) == results(straight)


def test_another_order_in_the_journal(tmp_path: Path) -> None:
    """Values come in order of iteration, repeats are left out, and of two the first counts."""
    journal = tmp_path / "journal.jsonl"
    logged = [(1, 1, 0.1, False), (1, 3, 0.3, False), (2, 2, 0.2, False), (2, 3, 9.9, True)]
    logged += [(3, 3, 8.8, False), (3, 4, math.nan, False)]
    with journal.open("wb") as file:
        for attempt, iteration, value, repeat in logged:
            file.write(line(0, attempt, iteration, 1, "result", {"a": value}, repeat=repeat))
    history = History(journal, 3)
    assert dict(history) == {"a": [(1, 0.1), (2, 0.2), (3, 0.3)]}
    (last,) = History(journal, 4)["a"][3:]
    assert last[0] == 4
    assert math.isnan(last[1])


def test_read_when_asked_for(tmp_path: Path) -> None:
    """Making a result reads nothing; a missing journal is no history, not an error."""
    result = Small(tmp_path).train()
    (tmp_path / "journal.jsonl").unlink()
    assert dict(result.history) == {}
    assert "history" not in repr(result)
    with pytest.raises(KeyError):
        result.history["eval/loss"]
