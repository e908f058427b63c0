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

from igniter.atomic import fsync_directory, make_directory
from igniter.errors import SaveFailed
from igniter.tracking.records import Kind, line
from igniter.tracking.recovery import Awaited, Recovered, recover

# A pipe in the place of the file is refused: to open it would wait for a reader.
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK


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
        self._awaited: Awaited | None = recovered.awaited
        self._end = recovered.end
        self._last_time = recovered.last_time
        self._attempt = attempt
        self._clock = clock
        self._warn = warn
        self._offset = self._end
        self._look_at_offset()
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
            fd = os.open(path, _FLAGS, 0o666)
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
        :meth:`flush`; that is warned of once.
        """
        values = {name: float(value) for name, value in metrics.items()}
        if self._awaited is not None:
            held = self._awaited.values(iteration)
            self._look_at_offset()
            again = {name: values.pop(name) for name in held if name in values}
            if kind == "result":
                self._compare(iteration, epoch, held, again)
        if values:
            self._write(iteration, epoch, kind, values, repeat=False)

    def flush(self) -> int:
        """Let the file hold all that was logged; return :attr:`offset`, in bytes.

        Raises:
            SaveFailed: the disk did not take it.
        """
        try:
            self._stay_at_path()
            self._write_out()
        except OSError as error:
            raise self._failed(error) from error
        return self._offset

    def sync(self) -> None:
        """Make what the file holds durable, which another thread may do while more is logged.

        Raises:
            SaveFailed: the disk did not take it.
        """
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._fd >= 0:
            try:
                self._write_out()
            except OSError:
                pass  # warned of; the iterations since the last checkpoint log it again
            os.close(self._fd)
            self._fd = -1
            self._awaited = None

    def _stay_at_path(self) -> None:
        """Begin another file where somebody removed or moved this one while the run trains."""
        if self._path.exists() and os.path.samestat(os.fstat(self._fd), self._path.stat()):
            return
        make_directory(self._path.parent)
        fd = os.open(self._path, _FLAGS, 0o666)
        os.dup2(fd, self._fd, inheritable=False)
        os.close(fd)
        fsync_directory(self._path.parent)
        self._end, self._awaited = os.fstat(self._fd).st_size, None
        self._look_at_offset()
        self._warn(
            f"the journal {self._path} was removed or moved while the run trains; what is logged "
            "from here on is written to another one. What MLflow has not been sent yet of the "
            "first one is missing there"
        )

    def _look_at_offset(self) -> None:
        """Bring the offset up to date; what is awaited is forgotten when all of it has come."""
        awaited = None if self._awaited is None else self._awaited.offset
        if awaited is None:
            self._awaited = None
        self._offset = self._end if awaited is None else awaited

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
        # Before it is written: what a signal's handler raises after that, as torch's does when a
        # worker dies, must not have it written once more.
        self._unwritten = b""
        try:
            written = os.write(self._fd, data)
            if written != len(data):
                os.ftruncate(self._fd, self._end)
                raise OSError(errno.ENOSPC, f"only {written} of {len(data)} bytes were written")
        except OSError:
            self._unwritten = data
            raise
        self._warned = False
        self._end += written
        if self._awaited is None:
            self._offset = self._end

    def _failed(self, error: OSError) -> SaveFailed:
        return SaveFailed(f"the journal {self._path} cannot be written: {error.strerror}")
