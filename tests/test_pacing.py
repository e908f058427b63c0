"""How often to save: within its share of the time, and never rarer than every ten minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Small, assert_same_run

from igniter import pacing
from igniter.cadence import Length, Timer
from igniter.checkpoint.store import CheckpointStore
from igniter.errors import UsageError
from igniter.intervals import Auto, Interval, parse_interval
from igniter.pacing import Pace
from igniter.settings import Settings


def pace(share: float = 0.01, size: int = 0) -> tuple[Pace, list[str]]:
    """One for a state of ``size`` bytes, and what it says."""
    said: list[str] = []
    return Pace(share, lambda: size, said.append), said


@given(st.floats(0, 5), st.sampled_from([0.001, 0.01, 0.2]))
def test_the_cost_is_within_the_share(cost: float, share: float) -> None:
    """The time between two saves pays for them, unless that would be more than ten minutes."""
    chosen, _ = pace(share)
    chosen.measured(cost)
    assert 10 <= chosen.seconds <= 600
    assert cost <= share * chosen.seconds or chosen.seconds == 600


def test_before_the_first_save_its_size_says_what_it_may_cost() -> None:
    """A gigabyte is not saved every ten seconds until somebody notices."""
    assert pace(size=1_000)[0].seconds == 10
    assert pace(size=10**9)[0].seconds == 120
    assert pace(size=10**12)[0].seconds == 600


def test_a_choice_is_said_when_it_changes() -> None:
    """Small differences change nothing; one slow save does not either, several do."""
    chosen, said = pace()
    for cost in (0.25, 0.28, 0.22, 0.3, 0.26):
        chosen.measured(cost)
    assert chosen.seconds == 30
    assert said == ["saving every 30 s: a checkpoint costs 0.25 s of training"]
    chosen.measured(9.0)
    assert chosen.seconds == 30
    for _ in range(3):
        chosen.measured(9.0)
    assert chosen.seconds == 600
    assert said[1:] == [
        "saving every 10 minutes: a checkpoint costs 9 s of training, 1.5% of the time; rarer than "
        "that is never chosen"
    ]


def test_it_does_not_go_up_and_down() -> None:
    """Where two choices are as good, the one that was made stands."""
    chosen, said = pace()
    for cost in (0.301, 0.299, 0.301, 0.298, 0.302, 0.297, 0.299, 0.299, 0.299, 0.299, 0.299):
        chosen.measured(cost)
    assert chosen.seconds == 45
    assert len(said) == 1
    for _ in range(5):
        chosen.measured(0.15)
    assert chosen.seconds == 20


def test_a_slow_disk_is_not_waited_for() -> None:
    """A save that costs little and takes long is over before the next one is due."""
    chosen, _ = pace()
    chosen.measured(0.1, took=55.0)
    assert chosen.seconds == 120
    chosen.measured(0.1, took=1.0)
    assert chosen.seconds == 15


def test_a_timer_keeps_its_pace() -> None:
    """It is due after the seconds of its pace, or at other terms; a slower one counts at once."""
    chosen, _ = pace()
    timer = Timer(parse_interval("auto, 50 iterations", allow_time=True, allow_auto=True),
                  Length(100, 100), pace=chosen)  # fmt: skip
    timer.begin(0, 1000.0)
    assert not timer.due(1, 1009.0)
    assert timer.due(2, 1010.0)
    chosen.measured(0.9)
    assert not timer.due(3, 1020.0)
    assert timer.time == 1100.0
    assert timer.due(50, 1030.0)
    assert timer.time == 1120.0


@pytest.mark.parametrize(
    ("text", "share"), [("auto", 0.01), ("AUTO", 0.01), ("auto:0.5%", 0.005), ("auto : 20 %", 0.2)]
)
def test_auto_is_read_and_written(text: str, share: float) -> None:
    """The text of it reads back as an equal value."""
    interval = parse_interval(text, allow_time=True, allow_auto=True)
    assert interval == Interval((Auto(pytest.approx(share)),))  # type: ignore[arg-type]
    assert parse_interval(str(interval), allow_time=True, allow_auto=True) == interval


@pytest.mark.parametrize("text", ["auto:0%", "auto:100%", "auto:x", "auto:1", "auto:-1%"])
def test_a_share_that_is_none_is_refused(text: str) -> None:
    """A share is above 0 % and below 100 % of the time."""
    with pytest.raises(UsageError, match="cannot read the interval"):
        parse_interval(text, allow_time=True, allow_auto=True)


def test_only_saving_chooses_its_own_times() -> None:
    """What is evaluated and logged falls on the same iterations in every run."""
    assert Settings(save_every="auto:2%").interval("save_every").share == 0.02
    for name in ("eval_every", "log_every", "print_every"):
        with pytest.raises(UsageError, match="only saving"):
            Settings(**{name: "auto"})  # type: ignore[arg-type]


def test_auto_is_the_default_and_changes_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Saves that choose their times end in what a run without any ends in, and say the choice."""

    assert Settings().interval("save_every") == Interval((Auto(0.01),))
    monkeypatch.setattr(pacing, "_STEPS", (1e-4,))
    commits: list[Any] = []
    commit = CheckpointStore.commit
    monkeypatch.setattr(
        CheckpointStore, "commit", lambda *a, **k: commits.append(a[1]) or commit(*a, **k)
    )
    Small(tmp_path / "never").train(save_every="never")
    assert commits == [12]
    Small(tmp_path / "auto").train(save_every="auto", progress="plain")
    assert len(commits) > 2
    assert_same_run(tmp_path / "never", tmp_path / "auto")
    assert "saving every" in capsys.readouterr().out
