"""Why two straight trials of one script differ: the likely causes, the likeliest first."""

from __future__ import annotations

from collections.abc import Iterator

from igniter.verify.attempts import Trial
from igniter.verify.comparison import DIRECTORY, START, Comparison, differing_state
from igniter.verify.moments import OF_DATA, Moment, elsewhere, first_moment, is_generator
from igniter.verify.trace import Begin

_RUNS = ("in the first run", "in the second")

_CHANGING_DATA = (
    "the dataset gives something else in each run: the data changed between the two, or what it "
    "gives depends on the clock, on os.urandom, on a random generator of its own, or on the order "
    "of a set or of a directory's listing"
)
_CHANGING_DRAWS = (
    "the step draws another number of random numbers in each run, though its batch is the same: "
    "how often it draws depends on the clock or on something outside of the run"
)
_CHANCE_IN_STEP = (
    "randomness from outside: with the same batch and the same state the step comes to something "
    "else in each run, with deterministic kernels too. Look for the clock (time.time, time_ns), "
    "os.urandom, uuid, secrets, the order of a set, or a random generator that is not seeded"
)
_UNKNOWN_AFTER = (
    "the iterations are all equal: what differs is in the evaluation or in the handlers of an "
    "epoch's end, by the clock, os.urandom or a non-deterministic kernel"
)


def of_chance(first: Trial, second: Trial, compared: Comparison) -> list[str]:
    """Why two straight trials differ, where it is no kernel that makes the difference."""
    moved = elsewhere(compared)
    if moved:
        return [moved]
    found = []
    for run, begin in first.trace.runs.items():
        other = second.trace.runs[run]
        for what in ("samples", "epoch_length"):
            a, b = getattr(begin, what), getattr(other, what)
            if a != b:
                name = "samples in the dataset" if what == "samples" else "iterations an epoch"
                found.append(
                    f"the data changes between two starts: {a} {name} in the first, {b} in the "
                    "second. Let every start of a run see the same data"
                )
                break
        start = differing_state(begin.state, other.state)
        if start:
            found.append(
                f"the script builds {start[0]} with other values at each start. Seed python, numpy "
                "and torch before building it (igniter_main does that before it calls main)"
            )
    if found:
        return found
    moment = first_moment(first.trace, second.trace)
    if moment is None:
        return [_UNKNOWN_AFTER]
    begin = first.trace.runs[moment.first.run]
    if moment.batch:
        return [*_chance_in_data(moment, begin), _CHANGING_DATA]
    others = [(used, what) for used, what in moment.used(_RUNS) if used.owner not in OF_DATA]
    named = [
        f"{used.owner} uses {used.name} ({used.type}), which is another one in each run: {what}. "
        "Make it depend on the seed and on what to_save holds alone"
        for used, what in others
    ]
    generators = [text for (used, _), text in zip(others, named, strict=True) if is_generator(used)]
    rest = [text for text in named if text not in generators]
    return [*generators, _CHANGING_DRAWS if moment.draws else _CHANCE_IN_STEP, *rest]


def is_in_the_step(first: Trial, second: Trial, compared: Comparison) -> bool:
    """Whether all that two straight trials got is equal, so that a kernel may be to blame."""
    if compared.difference(DIRECTORY) or compared.difference(START):
        return False
    moment = first_moment(first.trace, second.trace)
    return moment is not None and not (moment.batch or moment.draws)


def kernel(operation: str | None) -> str:
    """The cause where deterministic kernels agree; ``operation`` is one that has none."""
    if operation is not None:
        return (
            f"{operation} is not deterministic on this device, and has no deterministic form: with "
            "--deterministic torch refuses it. Replace it, or move it to a device where it is"
        )
    return (
        "a non-deterministic kernel: two straight runs differ, and agree with deterministic "
        "kernels. Train with --deterministic (without igniter_main: train(deterministic=True)); "
        "igniter verify --deterministic looks at the rest"
    )


def _chance_in_data(moment: Moment, begin: Begin) -> Iterator[str]:
    for place in begin.private:
        yield (
            f"{place} is a random generator of its own, which nothing seeds alike at each start. "
            "Draw from the global ones of python, numpy or torch, which igniter sets"
        )
    for used, what in moment.used(_RUNS):
        if used.owner in OF_DATA and not is_generator(used):
            yield f"{used.owner} is another one in each run: its attribute {what}"
