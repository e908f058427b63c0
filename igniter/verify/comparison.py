"""Two trials of one script compared: iteration by iteration, and by what they left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from igniter.checkpoint.store import load
from igniter.tracking import records
from igniter.verify.attempts import Trial
from igniter.verify.fingerprints import fingerprints
from igniter.verify.trace import Begin, Iteration, Parts, Trace

DIRECTORY = "directory of the run"
START = "state at the start"


@dataclass(frozen=True)
class Difference:
    """The first place where two trials differ, and in what.

    ``iteration`` is 0 before the first, and None for the final checkpoint. ``first`` and
    ``second`` are what the two held.
    """

    run: str
    iteration: int | None
    path: str
    first: str
    second: str


@dataclass(frozen=True)
class Row:
    """One thing that was compared; None where it is equal throughout."""

    what: str
    difference: Difference | None


@dataclass(frozen=True)
class Comparison:
    """All that was compared; where the runs are, and what they start from, only if different."""

    rows: list[Row]

    def difference(self, what: str) -> Difference | None:
        """Where a row's thing differs first."""
        return next((row.difference for row in self.rows if row.what == what), None)

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return all(row.difference is None for row in self.rows)


def compare(first: Trial, second: Trial) -> Comparison:
    """Compare two trials that trained to the end."""
    one, other = first.trace, second.trace
    moved = _runs(one, other)
    if moved is not None:
        return Comparison([Row(DIRECTORY, moved)])
    basics = [Row(START, _starts(one, other)), Row("iterations", _iterations(one, other))]
    rows = [row for row in basics if row.difference is not None]
    rows += [
        Row("batches", _traced(one, other, lambda entry: entry.batch)),
        Row("random generators", _traced(one, other, lambda entry: entry.random)),
        Row("outputs of the step", _traced(one, other, lambda entry: entry.output)),
    ]
    for name in dict.fromkeys(name for entry in one.iterations for name in entry.state):
        rows.append(Row(f"to_save: {name}", _traced(one, other, _state_of(name))))
    rows += [
        Row("journal", _first(_journal(first, second, run) for run in one.runs)),
        Row("final checkpoint", _first(_final(first, second, run) for run in one.runs)),
    ]
    return Comparison(rows)


def differing(first: Parts, second: Parts) -> tuple[str, str, str] | None:
    """The first path whose fingerprints differ, with both."""
    for path in dict.fromkeys([*first, *second]):
        a, b = first.get(path, "(absent)"), second.get(path, "(absent)")
        if a != b:
            return path, a, b
    return None


def differing_state(
    first: Mapping[str, Parts], second: Mapping[str, Parts]
) -> tuple[str, str, str] | None:
    """:func:`differing` of states, which are by name."""
    for name in dict.fromkeys([*first, *second]):
        found = differing(first.get(name, {}), second.get(name, {}))
        if found:
            return found
    return None


def _runs(one: Trace, other: Trace) -> Difference | None:
    ours, theirs = list(one.runs), list(other.runs)
    if set(ours) == set(theirs):
        return None
    lost = next((run for run in ours if run not in theirs), ours[0])
    found = next((run for run in theirs if run not in ours), None)
    place = other.runs[found].own_root if found else "(absent)"
    return Difference(lost, 0, "output_dir", one.runs[lost].own_root, place)


def _starts(one: Trace, other: Trace) -> Difference | None:
    """Where what the script builds differs, before any training or loading."""

    def unloaded(found: Trace) -> dict[str, list[Begin]]:
        return {run: [b for b in found.begins if b.run == run and not b.iteration] for run in ours}

    ours = one.runs
    for run, begins in unloaded(other).items():
        for begin in begins:
            found = differing_state(ours[run].state, begin.state)
            if found:
                return Difference(run, 0, *found)
    return None


def _iterations(one: Trace, other: Trace) -> Difference | None:
    ours, theirs = one.at(), other.at()
    for run, iteration in [*ours, *theirs]:
        place = (run, iteration)
        if (place in ours) != (place in theirs):
            texts = ["trained" if place in held else "not trained" for held in (ours, theirs)]
            return Difference(run, iteration, "iteration", *texts)
    return None


def _traced(one: Trace, other: Trace, part: Callable[[Iteration], Parts]) -> Difference | None:
    """The first iteration at which a part of the trace differs, in any of its repetitions."""
    ours = one.at()
    order = {place: number for number, place in enumerate(ours)}
    redone = sorted(
        (entry for entry in other.iterations if (entry.run, entry.iteration) in order),
        key=lambda entry: order[entry.run, entry.iteration],
    )
    for entry in redone:
        found = differing(part(ours[entry.run, entry.iteration]), part(entry))
        if found:
            return Difference(entry.run, entry.iteration, *found)
    return None


def _state_of(name: str) -> Callable[[Iteration], Parts]:
    return lambda entry: entry.state.get(name, {})


def _journal(first: Trial, second: Trial, run: str) -> Difference | None:
    def values(trial: Trial) -> dict[tuple[int, str], list[str]]:
        found: dict[tuple[int, str], list[str]] = {}
        for record in records.read(trial.run_dir(run) / "journal.jsonl"):
            if record.kind == "result":
                for name, value in record.metrics.items():
                    found.setdefault((record.iteration, name), []).append(repr(value))
        return found

    ours, theirs = values(first), values(second)
    for place in sorted({*ours, *theirs}):
        a, b = (", ".join(held.get(place, ["(absent)"])) for held in (ours, theirs))
        if a != b:
            return Difference(run, place[0], place[1], a, b)
    return None


def _final(first: Trial, second: Trial, run: str) -> Difference | None:
    ends = [load(trial.run_dir(run)) for trial in (first, second)]
    names = [end.checkpoint.path.name for end in ends]
    if names[0] != names[1]:
        return Difference(run, None, "checkpoint", *names)
    a, b = ends
    found = differing(fingerprints(a.state, "to_save"), fingerprints(b.state, "to_save"))
    found = found or differing(fingerprints(a.rank_state, "run"), fingerprints(b.rank_state, "run"))
    return None if found is None else Difference(run, None, *found)


def _first(found: Iterable[Any]) -> Any:
    return next((difference for difference in found if difference is not None), None)
