"""The first moment at which two trials differ, and what they held then."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from igniter.verify.comparison import DIRECTORY, Comparison, differing, differing_state
from igniter.verify.trace import Iteration, Trace, Used
from igniter.verify.words import held

OF_DATA = ("the dataset", "the sampler", "the batch sampler", "the collate fn", "the loader")
"""The owners that batches come from."""


@dataclass(frozen=True)
class Moment:
    """The first iteration at which the traces differ, as the two trials saw it."""

    first: Iteration
    second: Iteration

    @property
    def batch(self) -> bool:
        """Whether the batch differs."""
        return differing(self.first.batch, self.second.batch) is not None

    @property
    def results(self) -> bool:
        """Whether anything differs but what no checkpoint holds."""
        ours, theirs = self.first, self.second
        return (
            self.batch
            or self.draws
            or differing(ours.output, theirs.output) is not None
            or differing_state(ours.state, theirs.state) is not None
        )

    @property
    def draws(self) -> bool:
        """Whether the random generators differ after the step."""
        return differing(self.first.random, self.second.random) is not None

    def used(self, when: tuple[str, str]) -> Iterator[tuple[Used, str]]:
        """What no checkpoint holds and differs, with what it was ``when`` the one and the other."""
        others = {(used.owner, used.name): used for used in self.second.used}
        named = set()
        for used in self.first.used:
            other = others.get((used.owner, used.name))
            found = other and differing(used.parts, other.parts)
            if found and used.name not in named:
                named.add(used.name)
                yield used, held(*found, when)


def first_moment(one: Trace, other: Trace) -> Moment | None:
    """The first iteration, in the order of the first trial, at which anything differs."""
    ours = one.at()
    order = {place: number for number, place in enumerate(ours)}
    found: dict[int, Moment] = {}
    for entry in other.iterations:
        place = (entry.run, entry.iteration)
        if place in ours and (moment := Moment(ours[place], entry)).results:
            found.setdefault(order[place], moment)
    return found[min(found)] if found else None


def is_generator(used: Used) -> bool:
    """Whether what is used is a random generator."""
    return used.type in ("Random", "Generator", "RandomState")


def elsewhere(compared: Comparison) -> str | None:
    """The cause where the two trained in different places; None where they did not."""
    moved = compared.difference(DIRECTORY)
    if moved is None:
        return None
    return (
        f"the run's directory is another one at each start ({moved.first}, then {moved.second}), "
        "so the same command never finds what it saved. Give it an output_dir, a name and "
        "arguments that stay the same"
    )
