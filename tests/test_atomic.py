"""Files that are whole or absent."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from igniter import atomic


def names(directory: Path) -> list[str]:
    """What is in ``directory``."""
    return sorted(path.name for path in directory.iterdir())


def test_write_makes_and_replaces(tmp_path: Path) -> None:
    """A write makes the file, a second one replaces its content."""
    path = tmp_path / "file"
    atomic.write_bytes(path, b"first")
    atomic.write_text(path, "zweiter Ä")
    assert path.read_bytes() == "zweiter Ä".encode()
    assert names(tmp_path) == ["file"]


def test_a_short_write_is_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All bytes arrive where the system takes only a few at a time."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    atomic.write_bytes(tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Whichever call fails, the error is raised, the old content stands, no temporary stays."""
    path = tmp_path / "file"
    atomic.write_bytes(path, b"old")

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="No space left"):
            atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_everything_is_synced_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is fsynced before it takes its name, the directory after."""
    calls: list[str] = []
    sync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), sync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), rename(a, b))[1])
    atomic.write_bytes(tmp_path / "file", b"x")
    assert calls == ["fsync", "replace", "fsync"]


def test_a_file_system_without_directory_sync_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EINVAL from the directory's fsync is passed over; EIO is raised."""

    def answer(number: int) -> None:
        def fail(fd: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fail)

    answer(errno.EINVAL)
    atomic.fsync_directory(tmp_path)
    answer(errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        atomic.fsync_directory(tmp_path)


def test_remove_renames_before_it_deletes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A removal that fails has already taken the tree from its name; the next one ends it."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("x")

    def fail(path: object, *args: object, **kwargs: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", fail)
        atomic.hide(tree)
        for act in (atomic.empty, atomic.sweep):
            with pytest.raises(OSError, match="Input/output"):
                act(tmp_path)
    assert names(tmp_path) == [f".tree.{os.getpid()}.removed"]
    (tmp_path / ".mine.part").write_text("x")
    atomic.empty(tmp_path)
    assert names(tmp_path) == [".mine.part"]


def test_sweep_takes_leftovers_only(tmp_path: Path) -> None:
    """Leftover files, trees and links go; a user's file that ends alike stays."""
    (tmp_path / ".file.123.part").write_text("x")
    (tmp_path / ".tree.123.removed").mkdir()
    (tmp_path / ".tree.123.removed" / "inner").write_text("x")
    (tmp_path / ".link.123.part").symlink_to("nowhere")
    (tmp_path / "mine.part").write_text("x")
    (tmp_path / ".mine").write_text("x")
    atomic.sweep(tmp_path)
    assert names(tmp_path) == [".mine", "mine.part"]


def test_unused_counts_past_what_is_taken(tmp_path: Path) -> None:
    """A name is returned as it is while free, then counted up, dangling links included."""
    assert atomic.unused(tmp_path / "a").name == "a"
    (tmp_path / "a").mkdir()
    (tmp_path / "a-2").symlink_to("nowhere")
    assert atomic.unused(tmp_path / "a").name == "a-3"


def test_sweep_puts_right_what_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thing that cannot be removed, as on NFS while it is read, does not keep the rest."""
    for name in (".a.1.part", ".b.1.removed"):
        (tmp_path / name).mkdir()
    (tmp_path / ".z.replaced").write_text("x")
    (tmp_path / ".y.1.part").write_text("x")

    def busy(path: object, *args: object, **kwargs: object) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", busy)
        with pytest.raises(OSError, match="busy"):
            atomic.sweep(tmp_path)
    assert names(tmp_path) == [".a.1.part", ".b.1.removed", "z"]
    atomic.sweep(tmp_path)
    assert names(tmp_path) == ["z"]


def test_a_directory_is_made_durably(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each one that is missing, the name of each fsynced; those that are there are left alone."""
    synced: list[str] = []
    monkeypatch.setattr(atomic, "fsync_directory", lambda path: synced.append(path.name))
    for _ in range(2):
        atomic.make_directory(tmp_path / "a" / "b")
    assert synced == [tmp_path.name, "a"]
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "a"):
        with pytest.raises(OSError, match=r"File exists|Not a directory"):
            atomic.make_directory(path)


def test_only_a_regular_file_is_opened(tmp_path: Path) -> None:
    """A pipe, a link and a directory are refused at once; no descriptor is left open."""
    (tmp_path / "file").write_bytes(b"x")
    with atomic.open_regular(tmp_path / "file") as stream:
        assert stream.read() == b"x"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "folder").mkdir()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for name in ("pipe", "link", "folder"):
        with pytest.raises(OSError, match="not a regular file"):
            atomic.open_regular(tmp_path / name)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
