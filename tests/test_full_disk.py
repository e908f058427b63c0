"""A disk that takes no more while a run trains: said loudly, nothing lost, the same end after."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import Layer
from support import Small, assert_same_run, checkpoint, plain_step, save_at_once

from igniter.errors import RunRefused, SaveFailed, UsageError


def run_with(run_dir: Path, at: dict[int, Callable[[], object]]) -> Small:
    """A run during whose iterations something is done."""

    def step(engine: Any, batch: Any, model: Any, optimizer: Any) -> Any:
        at.get(engine.state.iteration, int)()
        return plain_step(engine, batch, model, optimizer)

    return Small(run_dir, step=step)


EACH = {"save_every": 2, "keep_last": 2}


@pytest.fixture(autouse=True)
def _one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk does at an iteration is met by the save of the next one that is due."""
    save_at_once(monkeypatch)


@pytest.fixture
def straight(tmp_path: Path) -> Path:
    """A run that nothing happened to."""
    Small(tmp_path / "straight").train(**EACH)
    return tmp_path / "straight"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB and 300 inodes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k,nr_inodes=300", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if not mounted or mounted.returncode:
        pytest.skip("needs root and mount: a small file system cannot be made here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Take all the space there is."""
    with (disk / "filler").open("wb", buffering=0) as file:
        for size in (4096, 1):
            with contextlib.suppress(OSError):  # that there is no space left
                while file.write(b"x" * size):
                    pass


def use_up_inodes(disk: Path) -> None:
    """Make files until no more can be."""
    (disk / "filler").mkdir()
    with contextlib.suppress(OSError):  # that there is no space left
        for number in range(10_000):
            (disk / "filler" / str(number)).touch()


def free(disk: Path) -> None:
    """Give it back."""
    filler = disk / "filler"
    shutil.rmtree(filler) if filler.is_dir() else filler.unlink()


@pytest.mark.parametrize("use_up", [fill, use_up_inodes], ids=["space", "inodes"])
def test_a_full_disk_in_mid_training(
    disk: Path, straight: Path, use_up: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each save that fails is warned of with its path and what stands; the next ones succeed."""
    run_dir = disk / "run"
    seen: list[str] = []
    run = run_with(
        run_dir,
        {
            4: lambda: use_up(disk),
            7: lambda: (seen.append(checkpoint(run_dir)[0]), free(disk)),
            11: lambda: seen.append(checkpoint(run_dir)[0]),
        },
    )
    assert run.train(**EACH).status == "completed"
    text = capsys.readouterr().err
    assert text.count("did not reach the disk") == 1  # of 4; that of 6 is told by nothing new
    assert "checkpoint of iteration 4 did not reach the disk" in text
    assert "No space left on device" in text
    assert f"The last good checkpoint is {run_dir}/checkpoints/iteration-00000002." in text
    assert "Training goes on; the next save tries again." in text
    assert seen == ["iteration-00000002", "iteration-00000010"]
    assert_same_run(straight, run_dir)
    assert not list(run_dir.rglob(".*"))


@pytest.mark.parametrize("use_up", [fill, use_up_inodes], ids=["space", "inodes"])
def test_a_disk_still_full_at_the_end(disk: Path, straight: Path, use_up: Any) -> None:
    """The run ends with exit code 3 and names the last good checkpoint; with room it goes on."""
    run_dir = disk / "run"
    with pytest.raises(SaveFailed, match=r"checkpoints/iteration-00000004\. Make room") as failed:
        run_with(run_dir, {5: lambda: use_up(disk)}).train(**EACH)
    assert failed.value.exit_code == 3
    assert checkpoint(run_dir)[0] == "iteration-00000004"
    assert not list((run_dir / "checkpoints").glob(".*"))
    with pytest.raises(RunRefused, match="No space left on device") as refused:
        Small(run_dir).train(**EACH)
    assert refused.value.exit_code == 3
    free(disk)
    assert Small(run_dir).train(**EACH).status == "completed"
    assert_same_run(straight, run_dir)


def test_a_read_only_file_system(disk: Path, straight: Path) -> None:
    """It is refused in one message before training, and the run stands."""
    run_dir = disk / "run"
    assert Small(run_dir).train(stop_at=5, **EACH).status == "interrupted"
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(UsageError, match=f"cannot write to the directory {run_dir}"):
        Small(run_dir).train(**EACH)
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    Small(run_dir).train(**EACH)
    assert_same_run(straight, run_dir)


CHANGES = {"create", "write", "fsync", "mkdir", "rename", "replace", "symlink", "unlink", "rmdir"}


@pytest.mark.parametrize("number", [errno.EROFS, errno.EDQUOT, errno.ENOSPC, errno.EIO])
def test_every_change_is_refused_for_a_while(
    tmp_path: Path, straight: Path, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file system that turns read-only, or a quota that is used up, and is mended later."""
    broken: list[bool] = []

    def meet(count: int, name: str, make: Callable[..., Any], args: Any) -> Any:
        if broken and (name in CHANGES or name == "ftruncate"):
            raise OSError(number, os.strerror(number))
        return make(*args)

    with Layer(tmp_path / "run", meet):
        run_with(
            tmp_path / "run", {3: lambda: broken.append(True), 9: broken.clear}
        ).train(**EACH)  # fmt: skip
    text = capsys.readouterr().err
    assert os.strerror(number) in text
    assert text.count("did not reach the disk") == 1
    assert_same_run(straight, tmp_path / "run")
    broken.append(True)
    with Layer(tmp_path / "run", meet), pytest.raises(RunRefused, match=os.strerror(number)):
        Small(tmp_path / "run").train(max_epochs=4)
    Small(tmp_path / "run").train(**EACH)
    assert_same_run(straight, tmp_path / "run")


def in_child(do: Callable[[], object]) -> tuple[int, str]:
    """The exit code and the stderr of ``do`` in a forked process."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.dup2(write, 2)
            os.close(read)
            sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
            do()
            code = 0
        except SaveFailed as error:
            print(error, file=sys.stderr)
            code = error.exit_code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as stream:
        text = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def test_a_limit_on_the_size_of_files(tmp_path: Path, straight: Path) -> None:
    """RLIMIT_FSIZE, such as ``ulimit -f``, is as a full disk: no death by SIGXFSZ."""
    run_dir = tmp_path / "run"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))

    code, text = in_child(lambda: run_with(run_dir, {5: limit}).train(**EACH))
    assert code == 3, text
    assert "did not reach the disk: [Errno 27] File too large" in text
    assert "iteration-00000004. Make room and run the same command again" in text
    assert checkpoint(run_dir)[0] == "iteration-00000004"
    Small(run_dir).train(**EACH)
    assert_same_run(straight, run_dir)


# What a user does to the directory of a run that trains


def test_the_checkpoints_are_deleted_while_training(tmp_path: Path, straight: Path) -> None:
    """The next save makes the directory anew, and the run can be resumed from there."""
    run_dir = tmp_path / "run"
    run = run_with(run_dir, {5: lambda: shutil.rmtree(run_dir / "checkpoints")})
    assert run.train(stop_at=8, **EACH).status == "interrupted"
    assert checkpoint(run_dir)[0] == "iteration-00000008"
    Small(run_dir).train(**EACH)
    assert_same_run(straight, run_dir)


@pytest.mark.parametrize("harm", ["removed", "moved"])
def test_the_run_is_taken_away_while_training(
    tmp_path: Path, straight: Path, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """That is said; what is saved after it resumes, and ends in the same state."""
    run_dir = tmp_path / "run"

    def take_away() -> None:
        if harm == "moved":
            run_dir.rename(tmp_path / "elsewhere")
        else:
            shutil.rmtree(run_dir)

    run = run_with(run_dir, {5: take_away})
    assert run.train(stop_at=8, log_every=1, **EACH).status == "interrupted"
    text = capsys.readouterr().err
    assert text.count("was removed or moved while the run trains") == 1
    Small(run_dir).train(log_every=1, **EACH)
    (name, state), (other, other_state) = checkpoint(straight), checkpoint(run_dir)
    assert name == other
    assert str(state["state"]) == str(other_state["state"])


def test_a_file_in_the_place_of_the_checkpoints(
    tmp_path: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Saves fail with a warning until it is gone."""
    run_dir, place = tmp_path / "run", tmp_path / "run" / "checkpoints"

    def put() -> None:
        shutil.rmtree(place)
        place.write_text("mine")

    run_with(run_dir, {5: put, 9: place.unlink}).train(**EACH)
    assert capsys.readouterr().err.count("did not reach the disk: [Errno 17] File exists") == 1
    assert_same_run(straight, run_dir)
    shutil.rmtree(place)
    place.write_text("mine")
    with pytest.raises(UsageError, match=f"cannot write to the directory {place}: File exists"):
        Small(run_dir).train(**EACH)


def test_one_checkpoint_is_deleted_by_hand(tmp_path: Path, straight: Path) -> None:
    """The one before it is used, while training as at a start."""
    run_dir = tmp_path / "run"
    last = run_dir / "checkpoints" / "iteration-00000004"
    run = run_with(run_dir, {5: lambda: shutil.rmtree(last)})
    run.train(stop_at=7, **EACH)
    assert checkpoint(run_dir)[0] == "iteration-00000007"
    shutil.rmtree(run_dir / "checkpoints" / "iteration-00000007")
    Small(run_dir).train(**EACH)
    assert_same_run(straight, run_dir)
