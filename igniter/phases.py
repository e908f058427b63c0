"""Training on one loader after another, each from an epoch on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from igniter.errors import CheckpointMismatch, UsageError


class Phases:
    """Loaders by the epoch that each begins with, counted from 1; the first has to be there.

    An epoch has as many batches in each of them as the loaders have; where these differ, as many
    as ``--epoch-length`` says.

    Raises:
        UsageError: it is not said which loader the first epoch has, or one is no loader.
    """

    def __init__(self, loaders: Mapping[int, Any]) -> None:
        for epoch, loader in loaders.items():
            if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 1:
                raise UsageError(f"a phase begins with epoch {epoch!r}; give a whole number from 1")
            if not hasattr(loader, "__iter__"):
                raise UsageError(
                    f"the phase from epoch {epoch} on has a {type(loader).__name__}; give a loader"
                )
        if 1 not in loaders:
            raise UsageError(
                f"the phases begin with epochs {sorted(loaders)}; one must begin with epoch 1"
            )
        self.loaders = dict(sorted(loaders.items()))
        self.dataset = getattr(self.loaders[1], "dataset", self.loaders[1])
        self.batch_size = getattr(self.loaders[1], "batch_size", None)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loaders[1])

    def __len__(self) -> int:
        """How many batches an epoch has, where all loaders agree.

        Raises:
            TypeError: they do not, or one cannot tell.
        """
        lengths = {len(loader) for loader in self.loaders.values()}
        if len(lengths) > 1:
            raise TypeError(f"the phases have {sorted(lengths)} batches")
        return lengths.pop()


def loaders_of(loader: Any) -> list[Any]:
    """The loaders of phases, or the one that ``loader`` is."""
    return list(loader.loaders.values()) if isinstance(loader, Phases) else [loader]


class PhasedBatches:
    """The batches of phases one after another, from a position on; as :class:`~.loader.Batches`.

    Args:
        begin: makes the batches of a loader, given it and the epoch that its phase begins with.
        length: of each of the loaders, None where they differ.
    """

    def __init__(
        self, phases: Phases, begin: Callable[[Any, int], Any], length: int | None
    ) -> None:
        self._batches = {epoch: begin(loader, epoch) for epoch, loader in phases.loaders.items()}
        self._starts: dict[int, int] = {}
        self.length = length
        self._phase, self._given, self._until = 1, 0, 0

    def set_epoch_length(self, epoch_length: int) -> None:
        """Let phases begin after so many batches an epoch."""
        self._starts = {epoch: (epoch - 1) * epoch_length for epoch in self._batches}
        self._go_to(1, 0)

    def _go_to(self, phase: int, given: int) -> None:
        self._phase, self._given = phase, given
        later = [start for epoch, start in self._starts.items() if epoch > phase]
        self._until = min(later, default=-1)

    def __next__(self) -> Any:
        if self._given == self._until:
            self._batches[self._phase].close()
            self._go_to(min(epoch for epoch in self._batches if epoch > self._phase), self._given)
        batch = next(self._batches[self._phase])
        self._given += 1
        return batch

    def enter(self, interrupted: Callable[[], bool]) -> bool:
        """As :meth:`igniter.loader.Batches.enter`."""
        entered: bool = self._batches[self._phase].enter(interrupted)
        return entered

    def state_dict(self) -> dict[str, Any]:
        """The phase, and the position in it."""
        own = self._batches[self._phase].state_dict()
        return {"phase": self._phase, "given": self._given, "own": own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to where :meth:`state_dict` was taken.

        Raises:
            CheckpointMismatch: there is no such phase.
        """
        if state.get("phase") not in self._batches:
            raise CheckpointMismatch(
                "the checkpoint was made in "
                + (f"a phase from epoch {state['phase']} on" if "phase" in state else "no phase")
                + f"; the loader has phases from epochs {sorted(self._batches)}. Build it as it was"
            )
        self._go_to(state["phase"], state["given"])
        self._batches[self._phase].load_state_dict(state["own"])

    def close(self) -> None:
        """End the workers of every phase."""
        for batches in self._batches.values():
            batches.close()
