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
    """A removal that fails half-way has already taken the tree from its name; sweep ends it."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("x")

    def fail(path: object, *args: object, **kwargs: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", fail)
        with pytest.raises(OSError, match="Input/output"):
            atomic.remove(tree)
    assert not tree.exists()
    assert len(names(tmp_path)) == 1
    atomic.sweep(tmp_path)
    assert names(tmp_path) == []


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
