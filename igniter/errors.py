"""What can go wrong, each with its message and the exit code it ends a program with.

Every error that igniter expects is an :class:`IgniterError`: its text says what happened, the
values, and what to do, so that ``igniter_main`` prints it alone, without a traceback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from igniter.result import Result


class IgniterError(Exception):
    """An expected failure. Its text is for the person at the terminal."""

    exit_code = 1


class UsageError(IgniterError):
    """A flag, a configuration file or a call that cannot be honoured as written."""

    exit_code = 2


class NonFiniteError(IgniterError):
    """Training produced NaN or infinity; the last good checkpoint stands."""

    exit_code = 1


class ExportFailed(IgniterError):
    """A module cannot be exported, or what was exported gives other results."""


class RunRefused(IgniterError):
    """The run cannot go on as asked."""

    exit_code = 3


class IdentityMismatch(RunRefused):
    """The run directory belongs to a run with other result-shaping arguments."""


class RunLocked(RunRefused):
    """Another process is at work in the run directory."""


class NoUsableCheckpoint(RunRefused):
    """A checkpoint was demanded and none can be loaded."""


class CheckpointDamaged(RunRefused):
    """A checkpoint's files are not what its manifest says."""


class CheckpointMismatch(RunRefused):
    """A sound checkpoint does not fit the objects it is to be loaded into."""


class SaveFailed(RunRefused):
    """The last save did not reach the disk."""


class Interrupted(BaseException):
    """A signal ended training at a safe point, with a checkpoint committed.

    A :class:`BaseException`, so that a script's ``except Exception`` round ``train`` does not
    swallow it; ``igniter_main`` turns it into exit code 128 + ``result.signal``.
    """

    def __init__(self, result: Result) -> None:
        super().__init__(f"stopped by signal {result.signal}")
        self.result = result
