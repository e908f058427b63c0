"""The end of the process that trains, as its child learns of it.

It is known by the closing of the standard input, which the training process holds open. Its forked
loader workers hold it open too and may outlive it by seconds, so a change of the parent's id counts
as well.
"""

from __future__ import annotations

import os
import select
import time

POLL_SECONDS = 1.0
DRAIN_SECONDS = 30.0


class Parent:
    """The process that trains, watched from its child."""

    def __init__(self, pid: int, stdin: int, patience: float = DRAIN_SECONDS) -> None:
        """``pid`` is its process id, ``stdin`` the descriptor of the pipe it holds open.

        ``patience`` is how many seconds may pass after its end.
        """
        self._pid = pid
        self._stdin = stdin
        self._patience = patience
        self._deadline = float("inf")

    @property
    def gone(self) -> bool:
        """Whether its end was seen."""
        return self._deadline < float("inf")

    def wait(self, seconds: float) -> None:
        """Return when ``seconds`` are over or the process has ended, whichever comes first."""
        until = time.monotonic() + seconds
        while not self.gone:
            rest = max(0.0, until - time.monotonic())
            ready, _, _ = select.select([self._stdin], [], [], min(rest, POLL_SECONDS))
            ended = bool(ready) and os.read(self._stdin, 4096) == b""
            if ended or os.getppid() != self._pid:
                self._deadline = time.monotonic() + self._patience
            elif time.monotonic() >= until:
                return

    def time_left(self) -> float:
        """Return how many seconds the sending may still take; no end while the process lives."""
        self.wait(0.0)
        return self._deadline - time.monotonic()
