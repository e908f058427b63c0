"""A signal stops training at the safe point, with nothing lost; a second one at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from support import Done, Small, Zygote, assert_same_run, checkpoint, run_fresh

from igniter.errors import Interrupted, UsageError
from igniter.rundir import RunRecord
from igniter.signals import (
    StopSignals,
    ignore_stop_signals,
    kept_from_children,
    signal_named,
)

FLAGS = ("--no-mlflow", "--output-dir", "run", "--max-epochs", "2", "--progress", "none",
         "--save-every", "1 epoch")  # fmt: skip


def script(zygote: Zygote, cwd: Path, *flags: object, do: str = "", **env: str) -> Done:
    """Start the small script."""
    return zygote.run("simple.py", *FLAGS, *flags, cwd=cwd, env={"TEST_DO": do, **env})


@pytest.fixture(scope="module")
def straight(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that was never stopped."""
    cwd = tmp_path_factory.mktemp("straight")
    assert script(zygote, cwd).code == 0
    return cwd / "run"


@pytest.mark.parametrize(
    ("flags", "name", "code"),
    [
        ((), "SIGINT", 130),
        ((), "SIGTERM", 143),
        ((), "SIGHUP", 129),
        ((), "SIGUSR1", -10),
        (("--stop-signals", "SIGUSR1"), "SIGUSR1", 138),
        (("--stop-signals", "usr2,term"), "SIGUSR2", 140),
        (("--stop-signals", "none"), "SIGTERM", -15),
    ],
)
def test_exit_codes(
    zygote: Zygote, straight: Path, tmp_path: Path, flags: Any, name: str, code: int
) -> None:
    """128+N after a stop, with that iteration's checkpoint; a signal not asked for does its own.

    Traps: exit 0 after an interrupt (PI); SIGTERM gives no checkpoint and exit 0 (LI).
    """
    done = script(zygote, tmp_path, *flags, do=f"signal {name}")
    assert done.code == code, done
    saved = "iteration-00000008" if code > 0 else "iteration-00000006"
    assert checkpoint(tmp_path / "run")[0] == saved
    assert script(zygote, tmp_path).code == 0
    assert_same_run(straight, tmp_path / "run")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_whole_group(zygote: Zygote, straight: Path, tmp_path: Path, name: str) -> None:
    """A signal to the process group, as Ctrl-C is, leaves the workers at work for the last save.

    Trap: forked workers inherit the handler, or die first and take the data away.
    """
    done = script(zygote, tmp_path, "--workers", 2, do=f"group {name}")
    assert done.code == 128 + signal.Signals[name], done
    assert "worker" not in done.err.lower()
    assert checkpoint(tmp_path / "run")[0] == "iteration-00000008"
    assert script(zygote, tmp_path).code == 0
    assert_same_run(straight, tmp_path / "run")


@pytest.mark.parametrize(
    "do", ["signal SIGINT SIGTERM", "signal SIGTERM SIGINT", "signal while saving SIGINT"]
)
def test_second_signal(zygote: Zygote, straight: Path, tmp_path: Path, do: str) -> None:
    """A second signal ends the process at once, and what was saved before can be loaded.

    Trap: a second signal during the save leaves no checkpoint (PI).
    """
    done = script(zygote, tmp_path, do=do)
    assert done.code == -signal.Signals[do.split()[-1]], done
    assert checkpoint(tmp_path / "run")[0] == "iteration-00000006"
    assert script(zygote, tmp_path).code == 0
    assert_same_run(straight, tmp_path / "run")


def test_same_signal_twice_at_once(zygote: Zygote, tmp_path: Path) -> None:
    """One Ctrl-C that arrives twice, from the terminal and a wrapper, is one request."""
    assert script(zygote, tmp_path, do="signal SIGINT SIGINT").code == 130
    assert checkpoint(tmp_path / "run")[0] == "iteration-00000008"


def test_signal_while_the_end_is_recorded(zygote: Zygote, tmp_path: Path) -> None:
    """A signal that comes when training is complete does not cut the record of it short.

    Found by the chaos run, by the second of two equal signals: run.yaml said "running" for ever.
    """
    assert script(zygote, tmp_path, do="signal while recording SIGTERM").code == 0
    assert RunRecord.load(tmp_path / "run/run.yaml").status == "completed"


@pytest.mark.parametrize("kept", [True, False])
def test_signal_to_a_worker_that_starts(kept: bool) -> None:
    """A worker that is started with signals kept from it outlives one before it ignores them."""
    with kept_from_children() if kept else nullcontext():
        pid = os.fork()
        if pid == 0:
            # As torch's worker, whose own handlers end it until it ignores what stops training.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            ignore_stop_signals()
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == (0 if kept else -signal.SIGTERM)


def test_nohup(zygote: Zygote, tmp_path: Path) -> None:
    """A signal that is ignored when training starts stays ignored.

    Trap: nohup is defeated (PI).
    """
    done = script(
        zygote, tmp_path, do="signal SIGHUP SIGINT", TEST_IGNORE="SIGHUP SIGINT"
    )  # fmt: skip
    assert done.code == 0, done
    assert checkpoint(tmp_path / "run")[0] == "iteration-00000012-final"


def test_killed_with_workers(zygote: Zygote, tmp_path: Path) -> None:
    """Workers end with a process that is killed, though they ignore what stops training."""
    started = zygote.start(
        "simple.py", *FLAGS, "--workers", 2, cwd=tmp_path, env={"TEST_DO": "wait"}
    )
    until(lambda: (tmp_path / "waiting").exists())
    workers = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    assert len(workers) == 2
    os.kill(started.pid, signal.SIGKILL)
    assert started.wait().code == -9
    until(lambda: not any(alive(int(worker)) for worker in workers))


def until(true: Any) -> None:
    """Wait until it is true, for ten seconds at most."""
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_fresh_interpreter(straight: Path, tmp_path: Path) -> None:
    """The same in an interpreter of its own, told on stderr, and without a traceback."""
    done = run_fresh("simple.py", *FLAGS, cwd=tmp_path, env={"TEST_DO": "signal SIGINT"})
    assert done.code == 130, done
    assert done.err.split("\n") == ["", "SIGINT received: stopping after this iteration", ""]
    assert run_fresh("simple.py", *FLAGS, cwd=tmp_path).code == 0
    assert_same_run(straight, tmp_path / "run")


def test_handlers_are_chained_and_put_back(tmp_path: Path) -> None:
    """A handler that was there is called too, and is there again afterwards."""
    called: list[int] = []

    def mine(number: int, frame: object) -> None:
        called.append(number)

    earlier = signal.signal(signal.SIGTERM, mine)
    interrupt, hangup = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGHUP)
    try:
        assert Small(tmp_path).train(stop_at=2).status == "interrupted"
        assert called == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.getsignal(signal.SIGINT) is interrupt
        assert signal.getsignal(signal.SIGHUP) is hangup
    finally:
        signal.signal(signal.SIGTERM, earlier)


def test_put_back_after_an_error() -> None:
    """An error inside leaves the handlers as they were."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="mine"), StopSignals(["SIGTERM"]):
        raise ValueError("mine")
    assert signal.getsignal(signal.SIGTERM) is before


def test_foreign_hangup_handler_is_left_alone() -> None:
    """SIGHUP is taken only where it would end the process; another's handler stays."""
    earlier = signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        with StopSignals():
            assert signal.getsignal(signal.SIGHUP).__name__ == "<lambda>"
    finally:
        signal.signal(signal.SIGHUP, earlier)


def test_not_the_main_thread(tmp_path: Path) -> None:
    """Training in another thread works, without handlers.

    Trap: it does not run outside the main thread (PI).
    """
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(Small(tmp_path).train()))
    thread.start()
    thread.join()
    assert results[0].status == "completed"


def test_interrupted_is_raised_on_request(tmp_path: Path) -> None:
    """train() returns after a stop; asked to, it raises what ``except Exception`` lets pass."""
    with pytest.raises(Interrupted) as caught:
        Small(tmp_path).train(stop_at=2, on_interrupt="raise")
    assert caught.value.result.signal == signal.SIGTERM
    assert not isinstance(caught.value, Exception)


def test_what_cannot_be_caught() -> None:
    """SIGKILL, SIGSTOP and unknown names are refused."""
    assert signal_named("term") is signal.SIGTERM
    for name in ("KILL", "SIGSTOP", "SIGNAL"):
        with pytest.raises(UsageError, match=name):
            signal_named(name)
