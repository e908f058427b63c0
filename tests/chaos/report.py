"""What the chaos run says: a line for each round, all of one where something is wrong, the sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chaos.plans import MOMENTS, PASSING, STOPS, TIME, Plan
from chaos.rounds import Round, Tally

# From so many rounds on, each kind of strike and each moment must have been met this often in every
# hundred rounds: chaos that has quietly become tame proves nothing.
LONG = 50
_LEAST_IN_A_HUNDRED = 5


def line(number: int, wrong: list[str], seconds: float) -> str:
    """A round in a line."""
    found = f"{len(wrong)} THINGS WRONG" if wrong else "as if never stopped"
    return f"round {number}: {found}, {seconds:.1f} s"


def details(seed: int, number: int, plan: Plan, a_round: Round, wrong: list[str]) -> str:
    """All that helps to find out why a round went wrong."""
    lines = [
        f"{plan.shape}, save every {plan.save_every}, best {plan.best}, MLflow {plan.mlflow}",
        *a_round.log,
        *(f"WRONG: {what}" for what in wrong),
        f"kept in {a_round.folder}; this round again: make chaos SEED={seed} ONLY={number}",
        "(what is done is the same again; the moment that it falls on may not be)",
    ]
    return "\n".join(f"  {line}" for line in lines)


def summary(tally: Tally, failed: list[int], seconds: float) -> str:
    """What was done in all, and what differed."""
    return "\n".join(
        [
            f"{tally.rounds} rounds, {tally.starts} starts in {seconds:.0f} s; "
            f"{tally.missed} strikes came too late",
            f"strikes: {_counts(tally.kinds)}",
            f"moments: {_counts(tally.moments)}",
            f"exits:   {_counts(tally.codes)}",
            f"what differed: {f'rounds {failed}' if failed else 'nothing'}",
        ]
    )


def tame(tally: Tally) -> list[str]:
    """What a long run has met too seldom; a short one may have met anything or nothing."""
    if tally.rounds < LONG:
        return []
    met = {moment: tally.moments[moment] for moment in MOMENTS if moment != TIME}
    met |= {kind: tally.kinds[kind] for kind in (*STOPS, *PASSING)}
    least = _LEAST_IN_A_HUNDRED * tally.rounds / 100
    return [f"{name} ({count})" for name, count in met.items() if count < least]


def _counts(counter: Mapping[Any, int]) -> str:
    return ", ".join(f"{name} {counter[name]}" for name in sorted(counter)) or "none"
