"""Why a script that repeats itself does not when it is stopped: the likely causes, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from igniter.verify.attempts import Trial
from igniter.verify.comparison import Comparison, differing
from igniter.verify.moments import OF_DATA, Moment, elsewhere, first_moment, is_generator
from igniter.verify.trace import Begin, Iteration, Trace, Used
from igniter.verify.words import held

_RUNS = ("in the straight run", "in the stopped one")


def of_stops(straight: Trial, stopped: Trial, again: Trial, compared: Comparison) -> list[str]:
    """Why a script that repeats itself does not when it is stopped.

    ``again`` is a second straight trial: what differs from it is no sign of a stop.
    """
    moved = elsewhere(compared)
    if moved:
        return [moved]
    moment = first_moment(straight.trace, stopped.trace)
    found = list(_not_taken_back(straight.trace, stopped.trace, moment))
    certain = bool(found)
    moment = moment or _moment_of(straight.trace, stopped.trace, compared)
    attempt = _attempt_until(stopped.trace, moment.second)
    noise = _noise(straight.trace, again.trace)
    harmless = _harmless(straight.trace, attempt)
    journal = compared.difference("journal")
    evaluation = "" if journal is None else f"the step of {journal.path.partition('/')[0]}"

    def unlikely(used: Used) -> tuple[bool, ...]:
        """A key to sort by: the likeliest first."""
        return (
            (used.owner, used.name) in harmless,
            used.owner != evaluation,
            (used.owner in OF_DATA) != moment.batch,
            not used.stateful,
        )

    lost = [
        (used, what)
        for used, what in moment.used(_RUNS)
        if (used.owner, used.name) not in noise
        and not (used.owner in OF_DATA and (is_generator(used) or not moment.batch))
    ]
    lost.sort(key=lambda one: unlikely(one[0]))
    at = f"at iteration {moment.first.iteration}, after the resume at {attempt[0].iteration - 1}"
    if moment.batch:
        private = straight.trace.runs[moment.first.run].private
        found += [_PRIVATE.format(place=place) for place in private]
        if not private and not any(used.owner in OF_DATA for used, _ in lost):
            found.append(f"{_UNSEEN_IN_DATA}. First {at}")
    found += [_not_saved(used, f"{what}, {at}") for used, what in lost]
    if not certain:
        found.append(f"otherwise {_UNSEEN}" if found else _UNSEEN)
    return found


_PRIVATE = (
    "{place} is a random generator of its own, which begins anew at each start. Draw from the "
    "global ones of python, numpy or torch, which igniter sets"
)
_UNSEEN_IN_DATA = (
    "the dataset, the sampler or the collate function gives another batch after a resume: it keeps "
    "state that is not seen from here (in the workers, in a module, in an open file), or the data "
    "changed"
)
_UNSEEN = (
    "something that is kept outside of to_save and not seen from here: an attribute of a "
    "class, a global of another module, a file that the script writes and reads; or a "
    "non-deterministic kernel that agreed by chance (try --deterministic)"
)


def _not_taken_back(one: Trace, other: Trace, moment: Moment | None) -> Iterator[str]:
    """Objects that are not after loading what they were when they were saved."""
    ours = one.at()
    order = {place: number for number, place in enumerate(ours)}
    until = len(order)
    if moment is not None:
        until = order[moment.first.run, moment.first.iteration]
    told = set()
    for begin in other.begins:
        place = (begin.run, begin.iteration)
        if begin.after_everything or order.get(place, until) >= until:
            continue
        for name, state in ours[place].state.items():
            found = differing(state, begin.state.get(name, {}))
            if found and name not in told:
                told.add(name)
                what = held(*found, ("when saved", "after loading"))
                yield (
                    f"to_save[{name!r}] does not take back what its state_dict gave: {what}, at "
                    f"iteration {begin.iteration}. Mend its load_state_dict"
                )


def _not_saved(used: Used, what: str) -> str:
    if used.owner in OF_DATA:
        return (
            f"{used.owner} keeps state of its own, which a stop loses: its attribute {what}. Let "
            "what it gives depend on the index and on the global random generators alone"
        )
    if used.stateful:
        return (
            f"{used.owner} uses {used.name} ({used.type}), which is not in to_save: {what}. "
            f"Add it: to_save={{…, {used.name!r}: …}}"
        )
    return (
        f"{used.owner} uses {used.name} ({used.type}), which no checkpoint holds: {what}. Work it "
        "out from engine.state.iteration, or keep it in an object with state_dict and "
        "load_state_dict and add that to to_save"
    )


def _noise(first: Trace, second: Trace) -> set[tuple[str, str]]:
    """What differs between two straight trials without making them differ, such as a clock."""
    theirs = second.at()
    found = set()
    for place, entry in first.at().items():
        if place in theirs:
            for used, _ in Moment(entry, theirs[place]).used(_RUNS):
                found.add((used.owner, used.name))
    return found


def _harmless(one: Trace, attempt: Iterable[Iteration]) -> set[tuple[str, str]]:
    """What the step used with other values in iterations that came out equal all the same."""
    ours = one.at()
    equal = [m for e in attempt if not (m := Moment(ours[e.run, e.iteration], e)).results]
    return {
        (used.owner, used.name)
        for moment in equal
        for used, _ in moment.used(_RUNS)
        if used.owner == "the step"
    }


def _attempt_until(found: Trace, last: Iteration) -> list[Iteration]:
    """The iterations of a run since it went on, up to ``last``."""
    attempt: list[Iteration] = []
    for line in found.lines:
        if isinstance(line, Begin) and line.run == last.run:
            attempt = []
        elif isinstance(line, Iteration) and line.run == last.run:
            attempt.append(line)
        if line is last:
            break
    return attempt


def _moment_of(one: Trace, other: Trace, compared: Comparison) -> Moment:
    """The iteration after which a difference came about that no iteration shows."""
    difference = next(row.difference for row in compared.rows if row.difference)
    run = difference.run
    iteration = difference.iteration or max(i for of, i in one.at() if of == run)
    place = (run, iteration)
    others = [entry for entry in other.iterations if (entry.run, entry.iteration) == place]
    return Moment(one.at()[place], others[-1])
