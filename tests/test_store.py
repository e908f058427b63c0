"""Checkpoints on disk: whole or absent, verified, fallen back from, pruned."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from igniter.checkpoint import manifest as manifests
from igniter.checkpoint.files import Loaded
from igniter.checkpoint.store import CheckpointStore, load
from igniter.errors import CheckpointDamaged, NoUsableCheckpoint, RunRefused, UsageError


def a_state(iteration: int) -> dict[str, Any]:
    """What a checkpoint of ``iteration`` holds in these tests."""
    return {"model": {"weight": torch.full((50,), float(iteration))}, "iteration": iteration}


def commit(store: CheckpointStore, iteration: int, *, final: bool = False, **fields: Any) -> Any:
    """Commit the checkpoint of ``iteration``."""
    return store.commit(
        iteration,
        **{
            "epoch": 1,
            "reason": "interval",
            "final": final,
            "state": a_state(iteration),
            "rank_state": {"position": iteration},
            "extra": {"journal_offset": 10 * iteration},
            **fields,
        },
    )


def newest(store: CheckpointStore) -> Loaded:
    """The newest checkpoint, which there is, seen to be whole."""
    loaded = store.newest()
    assert loaded is not None
    assert_whole(loaded)
    return loaded


def assert_whole(loaded: Loaded) -> None:
    """All of what was loaded is of one position."""
    iteration = loaded.checkpoint.iteration
    assert loaded.manifest["iteration"] == iteration
    assert loaded.state["iteration"] == iteration
    assert torch.equal(loaded.state["model"]["weight"], torch.full((50,), float(iteration)))
    assert loaded.rank_state == {"position": iteration}


def names(directory: Path) -> list[str]:
    """The checkpoint directories, and whatever else is no link."""
    return sorted(path.name for path in directory.iterdir() if not path.is_symlink())


@pytest.fixture
def warned() -> list[str]:
    """What the store warned of."""
    return []


@pytest.fixture
def store(tmp_path: Path, warned: list[str]) -> CheckpointStore:
    """An empty store that keeps two."""
    return CheckpointStore(tmp_path / "checkpoints", keep_last=2, warn=warned.append)


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def test_what_is_committed_is_loaded(store: CheckpointStore, warned: list[str]) -> None:
    """State, rank state and manifest come back; the newest position wins; links point to it."""
    assert store.newest() is None
    commit(store, 5)
    commit(store, 12)
    loaded = newest(store)
    assert loaded.checkpoint == store.list()[-1]
    assert loaded.manifest["journal_offset"] == 120
    assert loaded.manifest["format_version"] == 2
    assert (store.directory / "latest").resolve() == loaded.checkpoint.path
    assert names(store.directory) == ["iteration-00000005", "iteration-00000012"]
    assert warned == []


def test_the_final_one_follows_that_of_its_iteration(store: CheckpointStore) -> None:
    """At one iteration the final checkpoint is the newer."""
    commit(store, 9)
    commit(store, 9, final=True)
    assert newest(store).checkpoint.final
    assert [found.path.name for found in store.list()] == [
        "iteration-00000009",
        "iteration-00000009-final",
    ]


def test_positions_are_numbers(store: CheckpointStore) -> None:
    """Past eight digits the order is still that of the iterations."""
    commit(store, 99_999_999)
    commit(store, 100_000_000)
    assert newest(store).checkpoint.iteration == 100_000_000


def test_only_its_own_names_are_checkpoints(store: CheckpointStore) -> None:
    """Files, other directories and links beside the checkpoints are neither read nor removed."""
    commit(store, 1)
    (store.directory / "iteration-00000002").write_text("a file")
    (store.directory / "iteration-3").mkdir()
    (store.directory / "iteration-000000004").mkdir()
    (store.directory / "iteration-00000005.bak").mkdir()
    (store.directory / "iteration-00000006").symlink_to("iteration-00000001")
    before = names(store.directory)
    store.prune()
    assert newest(store).checkpoint.iteration == 1
    assert names(store.directory) == before


# Damage


@pytest.mark.parametrize("name", ["state.pt", "rank-00000.pt", "manifest.json"])
@pytest.mark.parametrize("harm", ["truncated", "empty", "gone", "longer"])
def test_a_damaged_newest_is_set_aside_for_the_one_before(
    store: CheckpointStore, warned: list[str], name: str, harm: str
) -> None:
    """The damaged file is named in a warning, its checkpoint renamed, the one before loaded."""
    commit(store, 1)
    file = commit(store, 2).path / name
    data = file.read_bytes()
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes({"truncated": data[:-100], "empty": b"", "longer": data + b"\0"}[harm])
    assert newest(store).checkpoint.iteration == 1
    assert len(warned) == 1
    assert str(file) in warned[0]
    assert names(store.directory) == ["damaged-iteration-00000002", "iteration-00000001"]
    assert newest(store).checkpoint.iteration == 1
    assert len(warned) == 1


def test_all_damaged_is_none(store: CheckpointStore, warned: list[str]) -> None:
    """Nothing is made up where nothing verifies, and nothing is deleted."""
    for iteration in (1, 2):
        (commit(store, iteration).path / "state.pt").unlink()
    assert store.newest() is None
    assert len(warned) == 2
    assert names(store.directory) == ["damaged-iteration-00000001", "damaged-iteration-00000002"]


def test_the_same_position_can_be_damaged_twice(store: CheckpointStore) -> None:
    """What was set aside first is not overwritten by the second."""
    for _ in range(2):
        commit(store, 1)
        flip(commit(store, 2).path / "state.pt", 100)
        assert newest(store).checkpoint.iteration == 1
    assert "damaged-iteration-00000002-2" in names(store.directory)


def test_a_damaged_one_that_cannot_be_renamed_is_refused(
    store: CheckpointStore, warned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under its name it would count as newer than what is saved next, which would be pruned."""
    commit(store, 1)
    path = commit(store, 2).path
    flip(path / "state.pt", 100)

    def fail(*args: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(RunRefused, match="damaged-iteration-00000002: Read-only"):
        store.newest()
    assert warned == []
    assert path.exists()


def test_damage_is_believed_when_it_is_seen_twice(
    store: CheckpointStore, warned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An input/output error that passes, as that of a busy server, costs no checkpoint."""
    commit(store, 1)
    commit(store, 2)
    real, failed = os.open, [0]

    def fail_once(path: object, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith("2/state.pt") and not failed[0]:
            failed[0] += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", fail_once)
    assert newest(store).checkpoint.iteration == 2
    assert (failed, warned) == ([1], [])


def test_files_of_two_saves_do_not_mix(store: CheckpointStore) -> None:
    """A file of one checkpoint put into another, or a directory renamed, is damage."""
    first, second = commit(store, 1), commit(store, 2)
    shutil.copy(first.path / "rank-00000.pt", second.path / "rank-00000.pt")
    with pytest.raises(CheckpointDamaged, match="rank-00000"):
        manifests.verify(second)
    first.path.rename(store.directory / "iteration-00000008")
    assert store.newest() is None


def test_another_spelling_of_a_manifest_is_damage(store: CheckpointStore) -> None:
    """The file is canonical: the same JSON written otherwise is not what was written."""
    file = commit(store, 1).manifest
    file.write_text(json.dumps(json.loads(file.read_text())))
    with pytest.raises(CheckpointDamaged, match="not what was written"):
        load(file.parent)


def rewrite_manifest(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest and give it its right checksum again, as a forger would."""
    manifest = manifests.read(path)
    change(manifest)
    (path / "manifest.json").write_bytes(manifests.serialise(manifest))


def test_a_newer_format_is_refused_not_set_aside(store: CheckpointStore) -> None:
    """A checkpoint of a later igniter is sound: the run is refused, and it stays."""
    commit(store, 1)
    path = commit(store, 2).path
    rewrite_manifest(path, lambda manifest: manifest.update(format_version=3))
    with pytest.raises(RunRefused, match="format version 3") as refusal:
        store.newest()
    assert not isinstance(refusal.value, CheckpointDamaged)
    assert path.exists()


def test_a_checkpoint_of_format_1_is_verified_and_loaded(store: CheckpointStore) -> None:
    """Its files have sha256, which still tells what was damaged."""
    path = commit(store, 1).path

    def as_before(manifest: dict[str, Any]) -> None:
        manifest["format_version"] = 1
        for name, entry in manifest["files"].items():
            entry.pop("xxh3_128")
            entry["sha256"] = hashlib.sha256((path / name).read_bytes()).hexdigest()

    rewrite_manifest(path, as_before)
    newest(store)
    flip(path / "state.pt", 300)
    with pytest.raises(CheckpointDamaged, match=r"state\.pt is damaged: its sha256 is"):
        load(path)


def test_manifest_extras_keep_their_values(store: CheckpointStore) -> None:
    """Extras of JSON's types come back, keys as strings, floats to the bit."""
    extra = {"arguments": {"lr": 0.1 + 0.2, 10: "x", 9: None}, "text": "\ud800ü"}
    commit(store, 1, extra=extra)
    manifest = newest(store).manifest
    assert manifest["arguments"] == {"lr": 0.1 + 0.2, "10": "x", "9": None}
    assert manifest["text"] == "\ud800ü"


# Loading by name


def test_a_checkpoint_is_loaded_by_its_run_its_directory_or_a_link(
    store: CheckpointStore,
) -> None:
    """Run directory, checkpoints directory, one checkpoint, and a link all serve."""
    first = commit(store, 1)
    commit(store, 2)
    for path in (store.directory.parent, store.directory, store.directory / "latest"):
        assert load(path).checkpoint.iteration == 2
    copy = shutil.copytree(first.path, store.directory.parent / "copy")
    for path in (first.path, copy):
        assert_whole(load(path))
        assert load(path).checkpoint.iteration == 1


def test_an_explicit_checkpoint_is_never_replaced_by_another(
    store: CheckpointStore, tmp_path: Path
) -> None:
    """A damaged one that was asked for raises and stays where it is; none at all says so."""
    commit(store, 1)
    damaged = commit(store, 2).path
    flip(damaged / "state.pt", 100)
    for path in (damaged, store.directory):
        with pytest.raises(CheckpointDamaged, match=r"state\.pt"):
            load(path)
    assert damaged.exists()
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(NoUsableCheckpoint, match="there is no checkpoint at"):
            load(path)


# Retention


def test_retention_survives_restarts(tmp_path: Path) -> None:
    """What is kept is counted from the directory, whichever process wrote it."""
    for iteration in range(1, 8):
        commit(CheckpointStore(tmp_path, keep_last=2), iteration)
    assert names(tmp_path) == ["iteration-00000006", "iteration-00000007"]


def test_every_mth_and_the_protected_are_kept(tmp_path: Path) -> None:
    """The last N, every M-th and the protected stay; the link to the best is one of them."""
    store = CheckpointStore(tmp_path, keep_last=1, keep_every=4)
    store.protected = {3}
    for iteration in range(1, 8):
        commit(store, iteration)
    assert [found.iteration for found in store.list()] == [3, 4, 7]
    store.link_best(3)
    store.link_best(99)
    assert (tmp_path / "best").resolve().name == "iteration-00000003"
    store.protected = {7}
    store.prune()
    assert [found.iteration for found in store.list()] == [4, 7]


def test_a_removal_that_fails_is_a_warning(
    store: CheckpointStore, warned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new checkpoint stands where an old one cannot be removed."""
    commit(store, 1)
    commit(store, 2)

    def fail(path: object, **kwargs: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", fail)
        commit(store, 3)
    assert "could not be removed" in warned[0]
    assert [found.iteration for found in store.list()] == [2, 3]
    store.sweep()
    assert names(store.directory) == ["iteration-00000002", "iteration-00000003"]


@pytest.mark.parametrize("fields", [{"keep_last": 0}, {"keep_every": 0}, {"keep_last": -1}])
def test_keeping_nothing_is_refused(tmp_path: Path, fields: dict[str, int]) -> None:
    """Retention that would remove the newest is a usage error."""
    with pytest.raises(UsageError, match="1 or more"):
        CheckpointStore(tmp_path, **fields)  # type: ignore[arg-type]


def test_links_are_a_convenience(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without links loses the links and nothing else."""

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "symlink", fail)
    commit(store, 1)
    store.link_best(1)
    assert [path.name for path in store.directory.iterdir()] == ["iteration-00000001"]


def test_find_gives_the_last_of_an_iteration(store: CheckpointStore) -> None:
    """The final checkpoint of an iteration is found before the ordinary one; none is None."""
    commit(store, 5)
    found = store.find(5)
    assert found is not None
    assert not found.final
    commit(store, 5, final=True)
    found = store.find(5)
    assert found is not None
    assert found.final
    assert store.find(4) is None


def test_going_back_keeps_what_came_later(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later checkpoints are renamed, newest first, and never deleted; a failure is refused."""
    store.keep_last = 9
    for iteration in (1, 2, 3):
        commit(store, iteration)
    commit(store, 3, final=True)
    with monkeypatch.context() as patch:

        def fail(*args: object) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        patch.setattr(os, "rename", fail)
        with pytest.raises(RunRefused, match="later-iteration-00000003-final: Read-only"):
            store.set_aside_after(store.list()[1])
    store.set_aside_after(store.list()[1])
    assert newest(store).checkpoint.iteration == 2
    commit(store, 3)
    store.set_aside_after(store.list()[1])
    assert names(store.directory) == [
        "iteration-00000001",
        "iteration-00000002",
        "later-iteration-00000003",
        "later-iteration-00000003-2",
        "later-iteration-00000003-final",
    ]


# Interrupted and failed commits


def test_the_same_position_is_replaced(store: CheckpointStore) -> None:
    """The second checkpoint of a position takes the first one's place."""
    commit(store, 3)
    commit(store, 3, rank_state="second")
    loaded = store.newest()
    assert loaded is not None
    assert loaded.rank_state == "second"
    assert names(store.directory) == ["iteration-00000003"]


def test_sweep_puts_back_what_was_being_replaced(store: CheckpointStore) -> None:
    """A kill between the two renames of a replacement loses nothing."""
    path = commit(store, 3).path
    path.rename(store.directory / ".iteration-00000003.replaced")
    (store.directory / ".iteration-00000003.99.part").mkdir()
    store.sweep()
    assert names(store.directory) == ["iteration-00000003"]
    assert newest(store).checkpoint.iteration == 3
    shutil.copytree(path, store.directory / ".iteration-00000003.replaced")
    store.sweep()
    assert names(store.directory) == ["iteration-00000003"]


def test_sweep_of_no_directory_is_nothing(store: CheckpointStore, warned: list[str]) -> None:
    """A run that never saved has nothing to tidy."""
    store.sweep()
    assert warned == []
    assert store.list() == []


def test_every_file_is_durable_before_its_name(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both files, the manifest and the directory are fsynced before the rename, the parent after.

    And the old checkpoint is removed after that.
    """
    commit(store, 1)
    commit(store, 2)
    log: list[str] = []
    sync, rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        log.append(f"fsync {name}")
        sync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        log.append(f"rename {Path(target).name}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", renamed)
    commit(store, 3)
    pid = os.getpid()
    part = f".iteration-00000003.{pid}.part"
    assert log == [
        "fsync state.pt",
        "fsync rank-00000.pt",
        f"fsync .manifest.json.{pid}.part",
        f"fsync {part}",
        "rename iteration-00000003",
        "fsync checkpoints",
        f"rename .iteration-00000001.{pid}.removed",
        "fsync checkpoints",
    ]


@pytest.mark.slow
def test_a_kill_anywhere_leaves_a_newest_that_loads(tmp_path: Path) -> None:
    """A process that commits without pause is killed again and again; each start goes on."""
    script = textwrap.dedent(
        """
        import os
        import sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        import torch
        from igniter.checkpoint.store import CheckpointStore
        store = CheckpointStore(Path(sys.argv[1]), keep_last=2)
        print("ready", flush=True)
        while sys.stdin.readline():
            if os.fork():
                os.wait()
                print("killed", flush=True)
                continue
            store.sweep()
            loaded = store.newest()
            iteration = 0 if loaded is None else loaded.checkpoint.iteration
            print(os.getpid(), flush=True)
            while True:
                iteration += 1
                store.commit(
                    iteration, epoch=1, reason="test", final=False,
                    state={
                        "model": {"weight": torch.full((50,), float(iteration))},
                        "iteration": iteration,
                    },
                    rank_state={"position": iteration}, extra={},
                )
        """
    )
    root = str(Path(__file__).parent.parent)
    directory = tmp_path / "checkpoints"
    warned: list[str] = []
    store = CheckpointStore(directory, keep_last=2, warn=warned.append)
    draw = random.Random(0)
    reached = 0
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, str(directory), root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        for _ in range(25):
            parent.stdin.write("go\n")
            parent.stdin.flush()
            child = int(parent.stdout.readline())
            time.sleep(draw.uniform(0.005, 0.06))  # anywhere in a commit
            os.kill(child, signal.SIGKILL)
            assert parent.stdout.readline() == "killed\n"
            loaded = store.newest()
            if loaded is not None:
                assert_whole(loaded)
                assert loaded.checkpoint.iteration >= reached
                reached = loaded.checkpoint.iteration
        parent.stdin.close()
    assert reached > 5
    assert warned == []
    store.sweep()
    assert all(name.startswith("iteration-0") for name in names(directory))
