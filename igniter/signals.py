"""A signal becomes a flag, read at the safe point; a second one ends the process at once."""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from types import FrameType
from typing import Any

from igniter.errors import UsageError

DEFAULT_STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_IGNORED_BY_CHILDREN = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP")
_PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>

# One Ctrl-C can arrive twice: from the terminal's process group and forwarded by a wrapper
# such as make or a container's init. Closer than this, the same signal is the same request.
_SAME_REQUEST_SECONDS = 0.3


def _write_to_stderr(text: str) -> None:
    """Write at once: a signal handler may interrupt a write to a buffered stream."""
    try:
        os.write(2, f"\n{text}\n".encode())
    except OSError:
        pass  # the terminal is gone, which may be what the signal was for


class StopSignals:
    """While entered, the first stop signal sets ``received`` and the second ends the process.

    With a time limit, in seconds from entering on, ``received`` is SIGTERM once it is over, as
    :meth:`look_at_clock` finds; a signal that arrives later is the first one all the same.

    Earlier handlers are called too, and put back on leaving. A signal that is ignored when
    training starts (``nohup``) stays ignored; SIGHUP is taken only from its default disposition.
    Outside the main thread, where Python cannot install handlers, nothing is changed and
    ``installed`` is false.
    """

    def __init__(
        self,
        names: Sequence[str] = DEFAULT_STOP_SIGNALS,
        *,
        time_limit: float | None = None,
        notify: Callable[[str], None] = _write_to_stderr,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._signals = [signal_named(name) for name in names]
        self._notify = notify
        self._clock = clock
        self._earlier: dict[signal.Signals, Any] = {}
        self._time_limit = time_limit
        self._deadline = math.inf
        self._received_at: float | None = None
        self.received: signal.Signals | None = None
        self.installed = False

    @property
    def reason(self) -> str | None:
        """What asks for the stop, in words: a signal's name, or the time limit."""
        if self.received is None:
            return None
        return "the time limit" if self._received_at is None else self.received.name

    def look_at_clock(self) -> None:
        """Take note of the end of the time limit."""
        if self.received is None and self._clock() >= self._deadline:
            self.received = signal.SIGTERM
            self._notify("the time limit is over: stopping after this iteration")

    def __enter__(self) -> StopSignals:
        if self._time_limit is not None:
            self._deadline = self._clock() + self._time_limit
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in self._signals:
            found = signal.getsignal(number)
            if found is signal.SIG_IGN or found is None:
                continue
            if number is signal.SIGHUP and found is not signal.SIG_DFL:
                continue
            self._earlier[number] = found
            signal.signal(number, self._on_signal)
        self.installed = True
        return self

    def __exit__(self, *_: object) -> None:
        for number, earlier in self._earlier.items():
            signal.signal(number, earlier)
        self._earlier.clear()
        self.installed = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = self._clock()
        if self._received_at is None:
            self._received_at = now
            self.received = signal.Signals(number)
            self._notify(f"{self.received.name} received: stopping after this iteration")
            self._call_earlier(number, frame)
        elif number == self.received and now - self._received_at < _SAME_REQUEST_SECONDS:
            return
        else:
            self._notify("a second signal: ending at once; the newest checkpoint stands")
            # Not sys.exit: no Python code may run between here and the end, least of all a save.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _call_earlier(self, number: int, frame: FrameType | None) -> None:
        earlier = self._earlier[signal.Signals(number)]
        # Python's own SIGINT handler raises KeyboardInterrupt at any bytecode: not before a save.
        if not callable(earlier) or earlier is signal.default_int_handler:
            return
        try:
            earlier(number, frame)
        except BaseException as error:
            # Such as SystemExit, which would end training here, without a checkpoint.
            self._notify(
                f"the script's own handler of {signal.Signals(number).name} raised "
                f"{type(error).__name__}: {error}; training stops after this iteration all the same"
            )


def signal_named(name: str) -> signal.Signals:
    """The signal called ``name``, with or without ``SIG``.

    Raises:
        UsageError: this system has no such signal, or it cannot be caught.
    """
    full = name.strip().upper()
    if not full.startswith("SIG"):
        full = f"SIG{full}"
    try:
        number = signal.Signals[full]
    except KeyError:
        raise UsageError(
            f"unknown signal {name!r}; give names such as SIGINT, SIGTERM, SIGUSR1"
        ) from None
    if full in ("SIGKILL", "SIGSTOP"):
        raise UsageError(f"{full} cannot be caught by any program; leave it out")
    return number


def send_to_self(name: str) -> None:
    """Send this process the signal called ``name``, such as ``SIGKILL``."""
    os.kill(os.getpid(), signal.Signals[name])


@contextmanager
def ended_by_exception() -> Iterator[None]:
    """Meanwhile SIGTERM and SIGHUP end the process by :class:`SystemExit`, after its clean-up.

    Outside the main thread, where Python cannot install handlers, nothing is changed.
    """

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {n: signal.signal(n, end) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def ignore_stop_signals() -> None:
    """Ignore what stops training: for a child process that is to outlast the signal."""
    numbers = [signal.Signals[name] for name in _IGNORED_BY_CHILDREN]
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def leave_to_main_thread() -> None:
    """Let every signal go to the other threads: for a thread that nothing may interrupt."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


@contextmanager
def kept_from_children() -> Iterator[None]:
    """Hold stop signals back within, so that one cannot end a child before it ignores them.

    A process that is started within inherits that: until :func:`ignore_stop_signals` it gets none.
    """
    # In other threads the mask is their own, and another one takes the signal: nothing is held.
    held = {signal.Signals[name] for name in _IGNORED_BY_CHILDREN}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent_alone() -> None:
    """Leave stopping to the parent, in a loader worker, which inherits its handlers when forked.

    A signal sent to the whole group must not take the data away before the safe point. A worker
    that ignores SIGTERM must still end with a parent that was killed: Linux sees to that, and
    torch's own watch after some seconds elsewhere.
    """
    ignore_stop_signals()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    process, parent = multiprocessing.current_process(), multiprocessing.parent_process()
    if parent is None or isinstance(process, ForkServerProcess):
        return  # its parent is the server, which ends with the process that asked it
    if os.getppid() != parent.pid:
        # Killed since the fork: Linux tells of deaths to come, and torch would watch who is
        # parent by now, so that the worker would wait for its next batch for ever.
        os._exit(1)
