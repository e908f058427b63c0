"""Saving: checkpoints committed at once, or by a thread while training goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Literal

from igniter.checkpoint.buffers import Buffers
from igniter.checkpoint.manifest import Checkpoint
from igniter.committing import Committer, Written
from igniter.errors import NonFiniteError, SaveFailed
from igniter.holdings import Holdings, Snapshot
from igniter.pacing import Pace
from igniter.recording import Recorder

OnNan = Literal["stop", "warn"]

# What keeps a checkpoint from the disk: a warning in mid-training, an error at its end.
_NOT_SAVED = (OSError, SaveFailed)


class Saver:
    """Commits what a run holds.

    A save in mid-training copies the state; one thread writes the copy, one save at a time. What
    that came to is taken in at a later safe point, by :meth:`poll`.

    Args:
        behind: the thread, and the queue of what it is to do; closed with this.
        on_nan: whether a state that is not finite stops the run or is only left unsaved.
        last_good: the newest checkpoint there is, None before the first.
        pace: told what each save costs.
        copies: whether there is to be a copy at all; without, what is saved is saved at once.
        clock: gives seconds from any origin.
    """

    def __init__(
        self,
        committer: Committer,
        holdings: Holdings,
        recorder: Recorder,
        behind: Executor,
        *,
        on_nan: OnNan,
        warn: Callable[[str], None],
        last_good: Checkpoint | None = None,
        pace: Pace | None = None,
        copies: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._committer = committer
        self._holdings = holdings
        self._recorder = recorder
        self._behind = behind
        self._on_nan = on_nan
        self._warn = warn
        self._last_good = last_good
        self._pace = pace
        self._clock = clock
        self._buffers = Buffers() if copies else None
        self._reserved: Future[None] | None = None
        self._copy: Snapshot | None = None
        self._pending: Future[Written] | None = None
        self._stood_still = 0.0
        self._failing = False

    def save(self, iteration: int, epoch: int) -> None:
        """Commit what holds now while training goes on; the save before is waited for.

        What keeps it from the disk is warned of, and the next save tries again.

        Raises:
            NonFiniteError: the state of a save holds NaN or infinity, and the run is to stop for
                that.
        """
        self._settle()
        began = self._clock()
        try:
            copied = self._take_copy(iteration, epoch)
            if copied is None:
                snapshot = self._holdings.take(iteration, epoch)
                self._take_in(self._committer.write(snapshot, "scheduled"))
            else:
                self._pending = self._behind.submit(self._committer.write, copied, "scheduled")
        except (*_NOT_SAVED, NonFiniteError) as error:
            self._tell(error, iteration)
        self._stood_still = self._clock() - began

    def poll(self) -> None:
        """Take in what the thread has committed; a glance where it has nothing to tell.

        At the first call it is let have memory ready for the first copy.

        Raises:
            NonFiniteError: as :meth:`save`.
        """
        if self._buffers is not None and self._reserved is None:
            self._reserved = self._behind.submit(self._buffers.reserve, self._holdings.tensors())
        if self._pending is not None and self._pending.done():
            self._settle()

    def rest(self) -> None:
        """Wait until the thread has nothing to do: before a fork, which copies the locks it holds.

        Raises:
            NonFiniteError: as :meth:`save`.
        """
        self._settle()
        self._behind.submit(bool).result()

    def hold(self, iteration: int, epoch: int) -> None:
        """Have a copy of what holds now, for :meth:`finish_at_held`, unless it is saved already.

        Raises:
            NonFiniteError: as :meth:`save`.
        """
        if self._is_saved(iteration) or (self._copy and self._copy.iteration == iteration):
            return
        self._settle()
        try:
            self._take_copy(iteration, epoch)
        except _NOT_SAVED as error:
            self._tell(error, iteration)

    def finish(self, iteration: int, epoch: int, reason: str, *, final: bool = False) -> None:
        """Commit what holds now, as the last save of an attempt; ``final``: of the run.

        Raises:
            NonFiniteError: the state holds NaN or infinity and the run is to stop for that.
            SaveFailed: it did not reach the disk.
        """
        if self._buffers is not None:
            self._buffers.wanted = False
        self._settle()
        self._require(lambda: self._holdings.take(iteration, epoch), iteration, reason, final=final)

    def finish_at_held(self, iteration: int, reason: str) -> None:
        """Commit the copy that :meth:`hold` took, where it is not committed yet.

        Raises:
            NonFiniteError, SaveFailed: as :meth:`finish`.
        """
        self._settle()
        held = self._copy
        if held is not None and held.iteration == iteration and not self._is_saved(iteration):
            self._require(lambda: held, iteration, reason)

    def close(self) -> None:
        """Wait for what is being written; what became of it is told, not raised."""
        try:
            self._settle()
        except Exception as error:
            self._warn(str(error))
        self._behind.shutdown()

    def standing(self) -> str:
        """Which checkpoint there is to go back to, as a sentence."""
        if self._last_good is None:
            return "There is no earlier checkpoint."
        return f"The last good checkpoint is {self._last_good.path}."

    def _is_saved(self, iteration: int) -> bool:
        return self._last_good is not None and self._last_good.iteration == iteration

    def _take_copy(self, iteration: int, epoch: int) -> Snapshot | None:
        """What holds now, in the buffers; None where there is no memory for it."""
        self._copy = None
        if self._buffers is None:
            return None
        try:
            if self._reserved is not None:
                self._reserved.result()
            self._copy = self._holdings.take(iteration, epoch, self._buffers)
        except MemoryError as error:
            self._buffers = None
            self._warn(
                f"there is no memory for a copy of the state ({error}): from here on training "
                "stands still while it is saved"
            )
        return self._copy

    def _settle(self) -> None:
        """Wait for the thread, and take in what it committed."""
        if self._pending is None:
            return
        try:
            written = self._pending.result()
        except (*_NOT_SAVED, NonFiniteError) as error:
            assert self._copy is not None
            self._pending = None
            self._tell(error, self._copy.iteration)
            return
        self._pending = None
        if self._pace is not None:
            self._pace.measured(self._stood_still + written.seconds, written.took)
        self._take_in(written)

    def _take_in(self, written: Written) -> None:
        self._failing = False
        self._last_good = written.checkpoint
        self._recorder.committed(written.checkpoint, written.epoch)

    def _require(
        self, snapshot: Callable[[], Snapshot], iteration: int, reason: str, *, final: bool = False
    ) -> None:
        """Commit the last save of an attempt, or of the run."""
        try:
            self._take_in(self._committer.write(snapshot(), reason, final=final))
        except NonFiniteError as error:
            self._tell(error, iteration)
        except _NOT_SAVED as error:
            text = self._not_saved(error, iteration)
            raise SaveFailed(f"{text} Make room and run the same command again.") from error

    def _tell(self, error: Exception, iteration: int) -> None:
        """Warn of a save that failed, of the disk's part in it once until one succeeds."""
        if isinstance(error, NonFiniteError):
            text = f"{error} {self.standing()}"
            if self._on_nan == "stop":
                text += " Lower the learning rate, clip gradients, or go on with --on-nan warn."
                raise NonFiniteError(text) from error
            self._warn(text)
        elif not self._failing:
            self._failing = True
            text = self._not_saved(error, iteration)
            self._warn(f"{text} Training goes on; the next save tries again.")

    def _not_saved(self, error: Exception, iteration: int) -> str:
        return (
            f"the checkpoint of iteration {iteration} did not reach the disk: {error}. "
            f"{self.standing()}"
        )
