"""One process a run directory."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from igniter import lock
from igniter.errors import RunLocked
from igniter.lock import RunLock, holder

ROOT = str(Path(__file__).parent.parent)


def python(code: str, path: Path, **options: Any) -> subprocess.Popen[str]:
    """Another process that runs ``code`` with ``path`` at hand."""
    prelude = "import os, sys; from pathlib import Path; from igniter.lock import RunLock, holder\n"
    return subprocess.Popen(
        [sys.executable, "-c", f"{prelude}path = Path(sys.argv[1])\n{code}", str(path)],
        env={**os.environ, "PYTHONPATH": ROOT},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


@contextmanager
def another_holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A second process that holds the lock until it is told to end."""
    code = "held = RunLock.acquire(path); print('held', flush=True); sys.stdin.read()"
    with python(code, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def content(path: Path) -> str:
    """What the lock file says; read here, the lock would be lost (a property of POSIX locks)."""
    return subprocess.run(["cat", path], check=True, capture_output=True, text=True).stdout


def asked_elsewhere(path: Path) -> str:
    """What another process finds out of the lock's holder."""
    with python("found = holder(path); print(found and found.pid)", path) as process:
        return process.communicate()[0].strip()


class Clock:
    """Time that passes only while something sleeps; ``at`` is called at each sleep's end."""

    def __init__(self, at: Callable[[float], object] = lambda now: None) -> None:
        self.now = 0.0
        self.at = at

    def __call__(self) -> float:
        """The time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.at(self.now)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A lock file that is not there yet."""
    return tmp_path / "run.lock"


def no_wait(text: str) -> None:
    """Fail where the lock would be waited for."""
    raise AssertionError(text)


def test_a_free_lock_is_taken_and_given_back(path: Path) -> None:
    """The file names its holder while held, and nobody after."""
    with RunLock.acquire(path, notify=no_wait) as held:
        named = json.loads(content(path))
        assert (named["pid"], named["host"]) == (os.getpid(), socket.gethostname())
        assert asked_elsewhere(path) == str(os.getpid())
    assert path.read_text() == ""
    assert asked_elsewhere(path) == "None"
    held.release()
    RunLock.acquire(path, notify=no_wait).release()


def test_a_second_process_is_refused_by_name(path: Path) -> None:
    """The message names pid, host, start, directory and what to do; not even a flag breaks it."""
    with another_holder(path) as process:
        found = holder(path)
        assert found is not None
        assert found.pid == process.pid
        for break_lock in (False, True):
            with pytest.raises(RunLocked) as refusal:
                RunLock.acquire(path, break_lock=break_lock, notify=no_wait)
            for part in (str(process.pid), found.host, found.start, str(path.parent), "--output"):
                assert part in str(refusal.value)
        assert holder(path) == found


def test_a_second_lock_in_one_process_is_refused(path: Path) -> None:
    """And neither it nor a look at the holder loses the first one its lock."""
    with RunLock.acquire(path) as held:
        with pytest.raises(RunLocked, match=f"pid {os.getpid()}"):
            RunLock.acquire(path)
        assert holder(path) == held._holder
        link = path.with_name("link.lock")
        link.symlink_to(path)
        with pytest.raises(RunLocked):
            RunLock.acquire(link)
        assert asked_elsewhere(path) == str(os.getpid())


def test_a_killed_holder_is_gone_at_once(path: Path) -> None:
    """SIGKILL frees the lock; the next start on this host waits for nothing."""
    with another_holder(path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert path.read_text() != ""
    assert holder(path) is None
    RunLock.acquire(path, notify=no_wait).release()


def test_a_forked_child_leaves_the_lock_alone(path: Path) -> None:
    """A child's release, and its death, change nothing for the parent."""
    code = (
        "held = RunLock.acquire(path)\n"
        "if os.fork() == 0:\n"
        "    held.release(); os._exit(0)\n"
        "os.wait(); print('held', flush=True); sys.stdin.read()"
    )
    with python(code, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RunLocked, match=f"pid {process.pid}"):
            RunLock.acquire(path)
        process.kill()


def test_a_look_at_the_holder_does_not_refuse_a_start(path: Path) -> None:
    """``igniter runs`` holds the lock for an instant; a start tries again."""
    path.touch()
    code = (
        "import fcntl; fcntl.lockf(os.open(path, os.O_RDONLY), fcntl.LOCK_SH)\n"
        "print('looking', flush=True); sys.stdin.read()"
    )
    with python(code, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "looking\n"

        def end_looking(now: float) -> None:
            process.kill()
            process.wait()

        RunLock.acquire(path, sleep=Clock(end_looking).sleep, notify=no_wait).release()


def write_foreign(path: Path, beat: int = 0) -> None:
    """Have the file name a process on another host."""
    named = {"host": "node7", "pid": 99, "start": "2026-11-21T10:00:00+00:00", "beat": beat}
    path.write_text(json.dumps(named))


def test_a_silent_foreign_holder_is_waited_out(path: Path) -> None:
    """Another host's process whose beat stands still for the whole patience is taken for gone."""
    write_foreign(path)
    clock, notes = Clock(), list[str]()
    held = RunLock.acquire(path, clock=clock, sleep=clock.sleep, notify=notes.append)
    held.release()
    assert clock.now == pytest.approx(lock.PATIENCE, abs=2)
    assert len(notes) == 1
    for part in ("node7", "99", f"{lock.PATIENCE:.0f} s", "--break-lock"):
        assert part in notes[0]


def test_a_living_foreign_holder_refuses(path: Path) -> None:
    """As soon as its beat moves the start is refused, and its file is as it was."""
    write_foreign(path)
    clock = Clock(lambda now: write_foreign(path, beat=1) if now >= 15 else None)
    with pytest.raises(RunLocked, match="pid 99 on host node7"):
        RunLock.acquire(path, clock=clock, sleep=clock.sleep, notify=lambda text: None)
    assert clock.now < 20
    assert json.loads(path.read_text())["host"] == "node7"
    clock = Clock()
    RunLock.acquire(path, clock=clock, sleep=clock.sleep, notify=lambda text: None).release()


def test_a_foreign_holder_that_lets_go_is_not_waited_for(path: Path) -> None:
    """An emptied file ends the waiting."""
    write_foreign(path)
    clock = Clock(lambda now: path.write_text("") if now >= 3 else None)
    RunLock.acquire(path, clock=clock, sleep=clock.sleep, notify=lambda text: None).release()
    assert clock.now < 5


def test_break_lock_does_not_wait(path: Path) -> None:
    """The named flag takes a foreign holder's word away."""
    write_foreign(path)
    RunLock.acquire(path, break_lock=True, notify=no_wait).release()


@pytest.mark.parametrize("content", ["garbage", "[]", '{"host": "node7"}', "\0\0\0"])
def test_a_file_that_names_nobody_is_no_holder(path: Path, content: str) -> None:
    """What cannot be read as a holder's is passed over."""
    path.write_text(content)
    assert holder(path) is None
    RunLock.acquire(path, notify=no_wait).release()


def test_without_kernel_locks_the_file_decides(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system has no locks, even this host's process is watched by its beat."""

    def unsupported(*args: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    first = RunLock.acquire(path, notify=no_wait)
    left = content(path)
    first.release()
    path.write_text(left)  # as a killed process leaves it
    clock, notes = Clock(), list[str]()
    RunLock.acquire(path, clock=clock, sleep=clock.sleep, notify=notes.append).release()
    assert clock.now == pytest.approx(lock.PATIENCE, abs=2)
    assert len(notes) == 1


def test_the_beat_moves_every_15_seconds(path: Path) -> None:
    """It is written in place, at most every 15 s, and a full disk does not stop training."""
    clock = Clock()
    with RunLock.acquire(path, clock=clock) as held:
        inode = path.stat().st_ino
        beats = []
        for now in (0.0, 14.9, 15.0, 20.0, 29.9, 30.0, 1000.0):
            clock.now = now
            held.beat()
            beats.append(json.loads(content(path))["beat"])
        assert beats == [0, 0, 1, 1, 1, 2, 3]
        assert path.stat().st_ino == inode
        with pytest.MonkeyPatch.context() as patch:

            def full(*args: object) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            patch.setattr(os, "pwrite", full)
            clock.now = 2000.0
            held.beat()
        assert asked_elsewhere(path) == str(os.getpid())


def test_a_foreign_holder_is_shown_while_its_beat_is_young(path: Path) -> None:
    """Who cannot be probed is believed for as long as the file is written to."""
    write_foreign(path)
    found = holder(path)
    assert found is not None
    assert found.host == "node7"
    os.utime(path, (0, 0))
    assert holder(path) is None
    assert holder(path.with_name("absent")) is None


def test_a_directory_renamed_meanwhile_is_not_locked_in_its_place(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is taken on the file that has the name now, not on one that was set aside."""
    path.touch()
    real, moved = fcntl.lockf, path.with_name("moved")

    def rename_first(*args: Any) -> None:
        if not moved.exists():
            path.rename(moved)
        real(*args)

    monkeypatch.setattr(fcntl, "lockf", rename_first)
    with RunLock.acquire(path, sleep=Clock().sleep):
        assert json.loads(content(path))["pid"] == os.getpid()
        assert moved.read_text() == ""
