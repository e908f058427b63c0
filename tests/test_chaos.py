"""A handful of the chaos run's rounds, and that it would see a fault. The whole: ``make chaos``."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from chaos import plans, report, verdict
from chaos.plans import Strike
from chaos.rounds import Tally
from chaos.strikes import Made
from support import ROOT, environment

SEED = os.environ["TEST_SEED"]


def chaos(folder: Path, *flags: str, seed: str = SEED) -> tuple[int, str]:
    """Its exit code and what it said."""
    path = os.pathsep.join([str(ROOT / "tests"), environment()["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "chaos", "--seed", seed, "--no-mlflow", "--folder", folder, *flags],
        cwd=ROOT,
        env={**environment(), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_handful_of_rounds(tmp_path: Path) -> None:
    """Stopped in any way at any moment, runs of any kind end as if they had never been stopped."""
    code, said = chaos(tmp_path, "--seconds", "8")
    assert code == 0, said
    assert "what differed: nothing" in said
    rounds, starts = map(int, re.findall(r"(\d+) rounds, (\d+) starts", said)[0])
    assert starts > rounds, said  # something was stopped, whatever this seed has in it
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "moment", "seed", "found"),
    [
        # Seeds whose first rounds are short and have in them what the fault needs.
        ("scheduler", "training", "28", "the exported model differs"),
        ("atomic", "saving", "112", "was found damaged"),
    ],
)
def test_a_planted_fault_is_found(
    tmp_path: Path, broken: str, moment: str, seed: str, found: str
) -> None:
    """A scheduler that is not saved, or a save that is not atomic, is told with all about it."""
    flags = ("--broken", broken, "--moments", moment, "--exit-first", "--seconds", "60")
    code, said = chaos(tmp_path, *flags, seed=seed)
    assert code == 1, said
    assert found in said
    assert re.search(rf"this round again: make chaos SEED={seed} ONLY=\d+", said)
    (kept,) = re.findall(r"kept in (\S+);", said)
    assert (Path(kept) / "run/run.yaml").exists()


def test_a_seed_draws_the_same_rounds() -> None:
    """The same seed and number give the same round, another number another one."""
    assert plans.draw(1, 7) == plans.draw(1, 7)
    assert plans.draw(1, 7) != plans.draw(1, 8)


def test_rounds_have_everything_in_them() -> None:
    """A hundred rounds have each kind of strike, each moment and each configuration in them."""
    rounds = [plans.draw(3, number) for number in range(100)]
    strikes = [s for a_round in rounds for start in a_round.starts for s in start.strikes]
    assert {strike.kind for strike in strikes} == {*plans.STOPS, *plans.PASSING}
    assert {strike.when for strike in strikes} == set(plans.MOMENTS)
    assert {start.workers for a_round in rounds for start in a_round.starts} == {0, 1, 2}
    assert len({a_round.shape.sampler for a_round in rounds}) == 5
    assert len({a_round.save_every for a_round in rounds}) == 4
    assert 10 <= sum(a_round.mlflow for a_round in rounds) <= 35


def test_chaos_that_became_tame_fails() -> None:
    """A long run that has met too little of anything is no proof; a short one is not judged."""
    assert report.tame(Tally(rounds=report.LONG - 1)) == []
    tame = report.tame(Tally(rounds=report.LONG))
    assert len(tame) == len(plans.MOMENTS) - 1 + len(plans.STOPS) + len(plans.PASSING)


def made(kind: str, moment: str, *numbers: signal.Signals, single: bool = True) -> Made:
    """A strike that was made at iteration 7."""
    return Made(Strike(kind, moment, 0, 0.0, numbers), moment, 7, single)


TERM = made(plans.SIGNAL, plans.TRAINING, signal.SIGTERM)
KILL = made(plans.SIGNAL, plans.SAVING, signal.SIGKILL)
EARLY = made(plans.SIGNAL, plans.IMPORTING, signal.SIGTERM)
TWO = made(plans.TWO, plans.TRAINING, signal.SIGINT, signal.SIGTERM, single=False)
WORKER = made(plans.KILL_WORKER, plans.TRAINING)
SHIPPER = made(plans.KILL_SHIPPER, plans.TRAINING)


@pytest.mark.parametrize(
    ("code", "strikes", "status", "newest", "right"),
    [
        (143, [TERM], "interrupted", 7, True),
        (143, [TERM], "interrupted", 6, False),  # what the signal found done was not saved
        (-15, [TERM], "running", 7, False),  # it did not get to the safe point
        (0, [TERM], "interrupted", 7, False),
        (0, [TERM], "completed", 30, True),
        (1, [TERM], "failed", 7, False),
        (-15, [EARLY], "absent", 0, True),
        (-9, [KILL], "running", 2, True),
        (143, [KILL], "interrupted", 7, False),
        (-15, [TWO], "running", 2, True),
        (130, [TWO], "interrupted", 7, True),
        (1, [WORKER], "failed", 2, True),
        (1, [SHIPPER], "failed", 2, False),
        (0, [SHIPPER], "completed", 30, True),
        (143, [SHIPPER, TERM], "interrupted", 7, True),
        (0, [], "running", 0, False),
    ],
)
def test_exit_codes(code: int, strikes: list[Made], status: str, newest: int, right: bool) -> None:
    """An exit is right where it is the table's for what was done, and what was done is saved."""
    assert (verdict.of_an_exit(code, strikes, status, newest) == []) == right


def test_what_is_left_over_is_seen(tmp_path: Path) -> None:
    """Temporaries, a checkpoint set aside, a torn line and a lock's holder are all told of."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "journal.jsonl").write_text("{}\n")
    (tmp_path / "run.lock").touch()
    assert verdict.left_over(tmp_path) == []
    for name in (".iteration-1.5.part", ".iteration-1.5.removed", "damaged-iteration-1"):
        (tmp_path / "checkpoints" / name).mkdir()
    (tmp_path / "journal.jsonl").write_text('{}\n{"ti')
    (tmp_path / "run.lock").write_text("5")
    assert len(verdict.left_over(tmp_path)) == 5
