"""Where the stops fall: drawn at random, by a seed, over all iterations of a script."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from igniter.verify.plan import Stop

_MOST_REDONE = 3


@dataclass(frozen=True)
class Place:
    """An iteration at which a script can be stopped."""

    run: str
    iteration: int
    epoch_length: int

    @property
    def in_epoch(self) -> int:
        """Which iteration of its epoch it is, from 1."""
        return (self.iteration - 1) % self.epoch_length + 1

    @property
    def ends_epoch(self) -> bool:
        """Whether it is the last of its epoch."""
        return self.in_epoch == self.epoch_length


def draw(places: Sequence[Place], count: int, signals: Sequence[str], seed: int) -> list[Stop]:
    """Up to ``count`` stops at ``places``, in their order, by ``signals`` in turn.

    The first falls in mid-epoch; of two, one falls on an epoch's last iteration; of three, one
    falls in a later epoch, as far as there are such places.
    """
    dice = random.Random(seed)
    everywhere = range(len(places))
    chosen: set[int] = set()

    def choose(*pools: list[int]) -> None:
        """Add one of the first pool that has any left."""
        for pool in pools:
            left = [index for index in pool if index not in chosen]
            if left and len(chosen) < count:
                chosen.add(dice.choice(left))
                return

    def within(pool: Sequence[int]) -> list[int]:
        # Not the first of an epoch: of a kill there, what was saved before is the epoch before.
        return [i for i in pool if not places[i].ends_epoch and places[i].in_epoch > 1]

    if count > 1:
        choose([i for i in everywhere if places[i].ends_epoch and i > 0])
    before = everywhere[: min(chosen, default=len(places))]
    choose(within(before), [i for i in before if not places[i].ends_epoch], list(before))
    # What the handlers of an epoch's end keep is missed only after a stop in a later epoch.
    beyond = everywhere[max(chosen, default=0) + 1 :]
    choose(within(beyond), list(beyond))
    while len(chosen) < min(count, len(places)):
        choose(list(everywhere))
    turn = dice.randrange(len(signals))
    return [
        _stop(places[index], signals[(turn + number) % len(signals)], dice)
        for number, index in enumerate(sorted(chosen))
    ]


def _stop(place: Place, signal: str, dice: random.Random) -> Stop:
    """A stop at ``place``; for a kill, with a checkpoint some iterations before, in its epoch."""
    if signal != "SIGKILL":
        return Stop(place.run, place.iteration, signal)
    redone = dice.randint(1, max(1, min(_MOST_REDONE, place.in_epoch - 1)))
    return Stop(place.run, place.iteration, signal, save_every=place.iteration - redone)
