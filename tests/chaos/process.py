"""A training process as somebody else's machine may start it, and what is left when it ended.

It is forked from this process, which has imported everything, or an interpreter of its own; with a
terminal or without; under ``nohup``; with a parent that can die. This process adopts whatever is
orphaned below it, so that nothing can be left over unseen.
"""

from __future__ import annotations

import ctypes
import os
import pty
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36  # from <linux/prctl.h>


def adopt_orphans() -> None:
    """Make this process the parent of every orphan below it. Call it once, before all else."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


@dataclass(frozen=True)
class How:
    """How to start it.

    Args:
        fresh: in an interpreter of its own.
        terminal: with a controlling terminal for its input and output.
        nohup: with SIGHUP ignored.
        parent: as the child of a process that is not this one.
    """

    fresh: bool = False
    terminal: bool = False
    nohup: bool = False
    parent: bool = False


class Process:
    """A training script that was started; ``out`` is the file with what it wrote."""

    def __init__(self, argv: list[str], cwd: Path, env: dict[str, str], how: How, out: Path):
        self.out = out
        self.code: int | None = None
        self._parent: int | None = None
        self._master: int | None = None
        terminal = None
        if how.terminal:
            self._master, slave = pty.openpty()
            os.set_blocking(self._master, False)
            terminal = os.ttyname(slave)
        said, tell = os.pipe()
        first = os.fork()
        if first == 0:
            try:
                if how.parent and (child := os.fork()):
                    os.write(tell, str(child).encode())
                    os.close(tell)
                    while True:
                        signal.pause()
                if self._master is not None:
                    os.close(self._master)
                    os.close(slave)
                os.close(tell)
                os.close(said)
                _become(argv, cwd, env, how, terminal, out)
            finally:
                os._exit(71)
        os.close(tell)
        if how.terminal:
            os.close(slave)
        self.pid = first
        if how.parent:
            self._parent, self.pid = first, int(os.read(said, 20))
        os.close(said)

    def poll(self) -> int | None:
        """Its exit status as ``subprocess`` counts it, None while it runs."""
        if self.code is None:
            self._read_terminal()
            if self._parent is not None:
                if state(self.pid) != "Z":
                    return None
                self.kill_parent()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                self.hang_up()
        return self.code

    def wait(self, seconds: float) -> int | None:
        """:meth:`poll` until it has ended, or the time is over."""
        end = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        return self.code

    def kill_parent(self) -> None:
        """Kill the process that started it; this one takes its place."""
        if self._parent is not None:
            os.kill(self._parent, signal.SIGKILL)
            os.waitpid(self._parent, 0)
            self._parent = None

    def hang_up(self) -> None:
        """Close the terminal's other end."""
        self._read_terminal()
        if self._master is not None:
            os.close(self._master)
            self._master = None

    def children(self) -> list[int]:
        """The living processes that it has started itself."""
        return [child for child in _children(self.pid) if state(child) not in ("Z", "")]

    def _read_terminal(self) -> None:
        # Nobody reading, the terminal would be full, and the script would wait for ever.
        while self._master is not None:
            try:
                text = os.read(self._master, 65536)
            except OSError:  # nothing to read, or nobody is left who could write
                return
            with self.out.open("ab") as file:
                file.write(text)


def _become(
    argv: list[str], cwd: Path, env: dict[str, str], how: How, terminal: str | None, out: Path
) -> None:
    """Turn this forked process into the one asked for; does not return."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as before an interpreter has begun
    os.setsid()
    if terminal is None:
        inwards = os.open(os.devnull, os.O_RDONLY)
        outwards = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    else:
        inwards = outwards = os.open(terminal, os.O_RDWR)  # a session's first one controls it
    for number, descriptor in enumerate((inwards, outwards, outwards)):
        os.dup2(descriptor, number)
    signal.signal(signal.SIGHUP, signal.SIG_IGN if how.nohup else signal.SIG_DFL)
    os.chdir(cwd)
    if how.fresh:
        os.execve(sys.executable, [sys.executable, *argv], env)
    os.environ.clear()
    os.environ.update(env)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        # As an interpreter opens them: by line for a terminal, by block for a file.
        buffering = 1 if name == "stderr" or (mode == "w" and os.isatty(number)) else -1
        setattr(sys, name, os.fdopen(number, mode, buffering, closefd=False))
    from scripts import zygote  # whoever starts the first process imports it before

    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = zygote.run(argv)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    zygote.end(code)


def state(pid: int) -> str:
    """The letter of the process's state, ``Z`` for one that has ended; empty for none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def command(pid: int) -> str:
    """What the process was started as."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def descendants() -> list[int]:
    """Every living process below this one; those that have ended are let go of."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            break
    found, todo = [], [os.getpid()]
    while todo:
        below = _children(todo.pop())
        todo += below
        found += [pid for pid in below if state(pid) not in ("Z", "")]
    return found


def _children(pid: int) -> list[int]:
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
