"""The journal: every logged metric of a run once, in order, in a file of JSON lines.

After a rude stop the iterations since the last checkpoint run again. What the journal already holds
of them is compared with what they log now: an equal value is not written a second time; a different
one is reported, and written in a record marked ``"repeat":true`` that never reaches MLflow.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from igniter.atomic import fsync_directory
from igniter.errors import SaveFailed
from igniter.tracking.records import Kind, line
from igniter.tracking.recovery import Recovered, recover


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first metric that came out different when its iteration ran again."""

    iteration: int
    name: str
    first: float
    again: float

    def __str__(self) -> str:
        """Say what differs, why it may, and what becomes of the values."""
        return (
            f"{self.name} at iteration {self.iteration} is {self.again!r}, but was {self.first!r} "
            "before the run was stopped, so from here on the run is not the one it would have "
            "been. Likely causes: nondeterministic kernels (try --deterministic), changed code, "
            "data, library versions or hardware, or randomness and state that igniter cannot see. "
            "The first value stays in MLflow; the journal holds both."
        )


class Journal:
    """The journal of a run, open for the one process that trains it.

    Iterations are logged in ascending order within an attempt. The file is opened so that forked
    loader workers may inherit it; they must not write to it.
    """

    def __init__(
        self,
        path: Path,
        fd: int,
        recovered: Recovered,
        *,
        attempt: int,
        clock: Callable[[], float],
        warn: Callable[[str], None],
    ) -> None:
        """Use :meth:`open`."""
        self._path = path
        self._fd = fd
        self._held = recovered.held
        self._end = recovered.end
        self._last_time = recovered.last_time
        self._attempt = attempt
        self._clock = clock
        self._warn = warn
        self._offset = self._held[0].offset if self._held else self._end
        self._unwritten = b""
        self._warned = False
        self.divergence: Divergence | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        attempt: int,
        offset: int = 0,
        clock: Callable[[], float] = time.time,
        warn: Callable[[str], None],
    ) -> Journal:
        """Open the journal at ``path``, making it if it is missing.

        ``offset`` is what :attr:`offset` was at the checkpoint resumed from, in bytes: the records
        before it are settled, those after it are what the iterations to come are compared with.
        ``clock`` gives seconds since 1970; ``warn`` takes what the user should know.

        Raises:
            SaveFailed: the file cannot be opened, read or mended.
        """
        try:
            created = not path.exists()
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            if created:
                fsync_directory(path.parent)
            recovered = recover(path, offset, warn)
        except OSError as error:
            raise SaveFailed(f"the journal {path} cannot be opened: {error.strerror}") from error
        return cls(path, fd, recovered, attempt=attempt, clock=clock, warn=warn)

    @property
    def offset(self) -> int:
        """What a checkpoint taken now must remember of the journal, in bytes.

        Less than the file's size while iterations that the journal already holds are still to
        run again: they must be found by the attempt after this one, too.
        """
        return self._offset

    def log(
        self, iteration: int, epoch: int, metrics: Mapping[str, float], kind: Kind = "result"
    ) -> None:
        """Write the values of ``metrics`` at ``iteration`` that the journal does not hold yet.

        A ``"result"`` is a function of the run and is compared with what the journal holds; a
        ``"measured"`` value (throughput, a time) is not, and the first one stays.

        A line that the disk does not take is kept and tried again with the next one, and by
        :meth:`sync`; that is warned of once.
        """
        values = {name: float(value) for name, value in metrics.items()}
        held = self._values_held(iteration)
        if held:
            again = {name: values.pop(name) for name in held if name in values}
            if kind == "result":
                self._compare(iteration, epoch, held, again)
        if values:
            self._write(iteration, epoch, kind, values, repeat=False)

    def sync(self) -> int:
        """Bring what was logged to the disk; return :attr:`offset` as it was on entry, in bytes.

        Raises:
            SaveFailed: the disk did not take it.
        """
        offset = self._offset
        try:
            self._write_out()
            os.fsync(self._fd)
        except OSError as error:
            raise self._failed(error) from error
        return offset

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._fd >= 0:
            try:
                self._write_out()
            except OSError:
                pass  # warned of; the iterations since the last checkpoint log it again
            os.close(self._fd)
            self._fd = -1

    def _values_held(self, iteration: int) -> dict[str, float] | None:
        held = self._held
        if not held:
            return None
        while held and held[0].iteration < iteration:
            held.popleft()
        self._offset = held[0].offset if held else self._end
        return held[0].values if held and held[0].iteration == iteration else None

    def _compare(
        self, iteration: int, epoch: int, held: Mapping[str, float], again: Mapping[str, float]
    ) -> None:
        # repr tells -0.0 from 0.0 and lets NaN equal NaN, which == does not.
        different = {name: v for name, v in again.items() if repr(v) != repr(held[name])}
        if not different:
            return
        if self.divergence is None:
            name, value = next(iter(different.items()))
            self.divergence = Divergence(iteration, name, first=held[name], again=value)
            self._warn(str(self.divergence))
        self._write(iteration, epoch, "result", different, repeat=True)

    def _write(
        self, iteration: int, epoch: int, kind: Kind, values: dict[str, float], *, repeat: bool
    ) -> None:
        # A clock that is set back must not put a later point before an earlier one.
        self._last_time = max(self._last_time, int(self._clock() * 1000))
        # One write of whole lines: what was logged outlives the process, and no reader or
        # forked process ever sees half of it or writes it again.
        self._unwritten += line(
            self._last_time, self._attempt, iteration, epoch, kind, values, repeat=repeat
        )
        try:
            self._write_out()
        except OSError as error:
            if not self._warned:
                self._warned = True
                self._warn(
                    f"the journal {self._path} cannot be written: {error}. Training goes on; what "
                    "is logged is kept in memory until there is room"
                )

    def _write_out(self) -> None:
        data = self._unwritten
        if not data:
            return
        written = os.write(self._fd, data)
        if written != len(data):
            os.ftruncate(self._fd, self._end)
            raise OSError(errno.ENOSPC, f"only {written} of {len(data)} bytes were written")
        self._unwritten, self._warned = b"", False
        self._end += written
        if not self._held:
            self._offset = self._end

    def _failed(self, error: OSError) -> SaveFailed:
        return SaveFailed(
            f"the journal {self._path} cannot be written: {error.strerror}. The last checkpoint "
            "stands; make room and run the same command again"
        )
