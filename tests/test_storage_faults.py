"""Every call of the file system fails, is cut short or is the last one; what was saved stands."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import KINDS, Disk, Fault, Layer, bytes_in, concerns
from support import Small, assert_same_run, plain_eval_step, points, save_at_once

from igniter.checkpoint import manifest as manifests
from igniter.checkpoint.store import CheckpointStore
from igniter.errors import CheckpointDamaged, IgniterError, RunRefused
from igniter.export import export
from igniter.rundir import RunRecord
from igniter.tracking.journal import Journal
from igniter.tracking.records import read
from igniter.tracking.state import State

Report = Callable[[Any], None]


class Checkpoints:
    """Two checkpoints are there; a third is committed, and the oldest pruned."""

    reached = (2, 3)

    def prepare(self, folder: Path) -> None:
        """What is there before."""
        for iteration in (1, 2):
            self.commit(folder, iteration)

    def act(self, folder: Path, report: Report) -> None:
        """What goes wrong; ``report`` is told what has reached the disk."""
        self.commit(folder, 3)
        report(3)

    def check(self, folder: Path, reported: Any) -> None:
        """What holds afterwards for a process that comes next."""
        warned: list[str] = []
        store = CheckpointStore(folder, keep_last=2, warn=warned.append)
        store.sweep()
        loaded = store.newest()
        assert loaded is not None
        assert warned == []
        iteration = loaded.checkpoint.iteration
        assert iteration in self.reached
        assert iteration >= (reported or 0)
        assert loaded.state["weight"].tolist() == [iteration] * 50
        assert loaded.rank_state == {"position": iteration}
        assert not [name for name, _ in bytes_in(folder) if name.startswith(".")]
        self.commit(folder, 4)
        assert [found.iteration for found in store.list()][-1] == 4
        assert len(store.list()) == 2
        assert {name.partition("/")[0] for name, _ in bytes_in(folder)} == {
            found.path.name for found in store.list()
        }

    def commit(self, folder: Path, iteration: int) -> None:
        """Commit a checkpoint."""
        CheckpointStore(folder, keep_last=2, warn=lambda text: None).commit(
            iteration,
            epoch=1,
            reason="test",
            final=False,
            state={"weight": torch.full((50,), float(iteration))},
            rank_state={"position": iteration},
            extra={"journal_offset": 0},
        )


class FirstCheckpoint(Checkpoints):
    """The directories themselves are made on the way."""

    reached = (0, 3)

    def prepare(self, folder: Path) -> None:
        """Nothing."""

    def act(self, folder: Path, report: Report) -> None:
        """Commit into a directory below one that is not there."""
        self.commit(folder / "run" / "checkpoints", 3)
        report(3)

    def check(self, folder: Path, reported: Any) -> None:
        """What was reported is there."""
        store = CheckpointStore(folder / "run" / "checkpoints")
        store.sweep()
        loaded = store.newest()
        assert (0 if loaded is None else loaded.checkpoint.iteration) in {0, 3, reported or 0}
        assert loaded is not None or reported is None


class Replaced(Checkpoints):
    """The newest is committed once more."""

    reached = (2,)

    def act(self, folder: Path, report: Report) -> None:
        """Commit the second again."""
        self.commit(folder, 2)


class SetAside(Checkpoints):
    """The newest is damaged, and is set aside for the one before."""

    reached = (2,)

    def prepare(self, folder: Path) -> None:
        """Three of them, the last with a hole."""
        store = CheckpointStore(folder, keep_last=2, warn=lambda text: None)
        for iteration in (1, 2, 3):
            self.commit(folder, iteration)
        (store.list()[-1].path / "rank-00000.pt").unlink()

    def act(self, folder: Path, report: Report) -> None:
        """Look for the newest."""
        store = CheckpointStore(folder, keep_last=2, warn=lambda text: None)
        store.sweep()
        loaded = store.newest()
        assert loaded is not None
        report(loaded.checkpoint.iteration)

    def check(self, folder: Path, reported: Any) -> None:
        """Nothing was deleted; the second is used."""
        store = CheckpointStore(folder, keep_last=2, warn=lambda text: None)
        store.sweep()
        loaded = store.newest()
        assert loaded is not None
        assert loaded.checkpoint.iteration == 2
        assert (folder / "damaged-iteration-00000003" / "state.pt").exists()


class Swept(Checkpoints):
    """What others left behind is swept."""

    reached = (2,)

    def prepare(self, folder: Path) -> None:
        """A half one, one that was being removed, one that was being replaced."""
        super().prepare(folder)
        whole = folder / "iteration-00000001"
        shutil.copytree(whole, folder / ".iteration-00000003.77.part")
        shutil.copytree(whole, folder / ".iteration-00000000.77.removed")
        (folder / "iteration-00000002").rename(folder / ".iteration-00000002.replaced")
        (folder / ".latest.77.part").symlink_to("iteration-00000001")

    def act(self, folder: Path, report: Report) -> None:
        """Sweep."""
        CheckpointStore(folder, warn=lambda text: None).sweep()


class Record:
    """``run.yaml`` is saved."""

    def prepare(self, folder: Path) -> None:
        """One that says 1."""
        self.record(1).save(folder / "run.yaml")

    def act(self, folder: Path, report: Report) -> None:
        """One that says 2."""
        self.record(2).save(folder / "run.yaml")
        report(2)

    def check(self, folder: Path, reported: Any) -> None:
        """It says 1 or 2."""
        assert RunRecord.load(folder / "run.yaml").iteration in {2, reported or 1}

    def record(self, iteration: int) -> RunRecord:
        """A record of ``iteration``."""
        return RunRecord("run", "", "", {}, {"text": "x" * 300}, iteration=iteration)


class Tracking:
    """``tracking.json`` is saved."""

    def prepare(self, folder: Path) -> None:
        """One that says 1."""
        State().at("uri").with_changes(offset=1).save(folder / "tracking.json")

    def act(self, folder: Path, report: Report) -> None:
        """One that says 2."""
        path = folder / "tracking.json"
        State.load(path).at("uri").with_changes(offset=2).save(path)
        report(2)

    def check(self, folder: Path, reported: Any) -> None:
        """It says 1 or 2."""
        assert State.load(folder / "tracking.json").destination.offset in {2, reported or 1}


class Logged:
    """Metrics are logged and synced, iteration by iteration."""

    def prepare(self, folder: Path) -> None:
        """A first attempt's."""
        journal = Journal.open(folder / "journal.jsonl", attempt=1, warn=print)
        journal.log(1, 1, {"loss": 1.0})
        journal.sync()
        journal.close()

    def act(self, folder: Path, report: Report) -> None:
        """Ten more; what fails is tried again by the next."""
        path = folder / "journal.jsonl"
        journal = Journal.open(path, attempt=1, offset=path.stat().st_size, warn=lambda text: None)
        try:
            for iteration in range(2, 12):
                journal.log(iteration, 1, {"loss": float(iteration)})
                if iteration % 3 == 0:
                    journal.flush()
                    journal.sync()
                    report(iteration)
        finally:
            journal.close()

    def check(self, folder: Path, reported: Any) -> None:
        """Each iteration that was synced is there once, in order, as it was."""
        path = folder / "journal.jsonl"
        Journal.open(path, attempt=2, warn=print).close()
        found = [(record.iteration, record.metrics["loss"]) for record in read(path)]
        assert found == [(i, float(i)) for i in range(1, len(found) + 1)]
        assert len(found) >= (reported or 1)


class Exported:
    """A model is exported over an earlier one."""

    def prepare(self, folder: Path) -> None:
        """One of ones."""
        self.act(folder, print, value=1.0)

    def act(self, folder: Path, report: Report, value: float = 2.0) -> None:
        """One of twos."""
        module = torch.nn.Linear(2, 1)
        torch.nn.init.constant_(module.weight, value)
        export(folder, {"model": module}, {"value": value})
        report(value)

    def check(self, folder: Path, reported: Any) -> None:
        """It is one of the two."""
        from safetensors.torch import load_file

        weight = load_file(folder / "model.safetensors")["weight"].unique().tolist()
        assert weight in ([2.0], [reported or 1.0])


def prepared(scenario: Any, tmp_path: Path) -> Path:
    """A folder as the scenario finds it."""
    folder = tmp_path / "prepared"
    folder.mkdir()
    scenario.prepare(folder)
    return folder


SCENARIOS = [
    Checkpoints, FirstCheckpoint, Replaced, SetAside, Swept, Record, Tracking, Logged, Exported
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_whichever_call_fails_what_was_saved_stands(
    scenario: Any, kind: str, tmp_path: Path
) -> None:
    """Each call goes wrong in turn, in each way: said as an error, and nothing is lost."""
    scenario = scenario()
    start = prepared(scenario, tmp_path)
    counted = shutil.copytree(start, tmp_path / "counted", symlinks=True)
    names: list[str] = []
    with Layer(counted, lambda number, name, make, args: (names.append(name), make(*args))[1]):
        scenario.act(counted, print)
    concerned = [at for at, name in enumerate(names, 1) if concerns(kind, name)]
    assert len(concerned) > 3 or kind != "EIO"
    for at in concerned:
        folder = tmp_path / str(at)
        shutil.copytree(start, folder, symlinks=True)
        fault = Fault(kind, at)
        reported: list[Any] = [None]
        with Layer(folder, fault):
            try:
                scenario.act(folder, reported.append)
            except (OSError, IgniterError):
                pass  # said; what stands is looked at below
        assert fault.met == names[at - 1]
        with Layer(folder):
            scenario.check(folder, reported[-1])
        shutil.rmtree(folder)


def recorded(scenario: Any, tmp_path: Path) -> Iterator[tuple[Disk, Any]]:
    """The disk after each call of the scenario, and what had been reported as saved by then."""
    start = prepared(scenario, tmp_path)
    disk = Disk(start)
    with Layer(start, record=True) as layer:
        scenario.act(start, lambda value: layer.log.append(("reported", value)))
    reported = None
    yield disk, reported
    for call, following in zip(layer.log, [*layer.log[1:], ("end",)], strict=True):
        if call[0] == "reported":
            reported = call[1]
        else:
            disk.after(call)
        if (call[0], following[0]) != ("write", "write"):  # torch writes a file in a hundred parts
            yield disk, reported


@pytest.mark.parametrize("scenario", SCENARIOS[:-1])
def test_a_death_between_any_two_calls_loses_nothing(scenario: Any, tmp_path: Path) -> None:
    """A process that dies after any call leaves the old or the new, never less than it said."""
    scenario = scenario()
    for number, (disk, reported) in enumerate(recorded(scenario, tmp_path)):
        folder = tmp_path / str(number)
        disk.put(folder)
        with Layer(folder):
            scenario.check(folder, reported)
        shutil.rmtree(folder)
    assert number > 3


def power_cuts(scenario: Any, tmp_path: Path, seed: int) -> None:
    """Cut the power after each call, a few times with other luck."""
    draw = random.Random(seed)
    for number, (disk, reported) in enumerate(recorded(scenario, tmp_path)):
        for luck in range(4):
            folder = tmp_path / f"{number}-{luck}"
            disk.put(folder, draw)
            with Layer(folder):
                scenario.check(folder, reported)
            shutil.rmtree(folder)


@pytest.mark.parametrize("scenario", SCENARIOS[:-1])
def test_a_power_cut_after_any_call_loses_nothing(scenario: Any, tmp_path: Path) -> None:
    """What was not fsynced is gone, cut or zeros, renames happened or not: the same holds."""
    seed = random.randrange(1 << 30)
    print("seed", seed)
    power_cuts(scenario(), tmp_path, seed)


@pytest.mark.parametrize("scenario", [Checkpoints, FirstCheckpoint, Record, Logged])
def test_power_cuts_find_a_missing_fsync(
    scenario: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: with no fsync at all something is lost."""
    after = Disk.after
    monkeypatch.setattr(Disk, "after", lambda self, call: call[0] != "fsync" and after(self, call))
    with pytest.raises((AssertionError, FileNotFoundError, RunRefused, UserWarning)):
        power_cuts(scenario(), tmp_path, 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["EIO", "full from here"])
def test_training_survives_whichever_call_fails(
    kind: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a whole training: an expected error or a warning, and the same command ends the same."""
    save_at_once(monkeypatch)  # so that the calls come in the same order each time
    settings: dict[str, Any] = {"save_every": 5, "keep_last": 1, "best_metric": "eval/loss"}

    def run(name: str) -> Small:
        return Small(tmp_path / name, eval_step=plain_eval_step)

    run("straight").train(**settings)
    with Layer(tmp_path / "count") as layer:
        run("count").train(**settings)
    draw = random.Random(0)
    start, end = range(1, 22), range(layer.count - 12, layer.count + 1)
    middle = draw.sample(range(22, layer.count - 12), 8)
    for at in (*start, *middle, *end):
        name, fault = str(at), Fault(kind, at)
        failure: Exception | None = None
        with Layer(tmp_path / name, fault):
            try:
                run(name).train(**settings)
            except IgniterError as error:
                failure = error
        assert fault.met
        assert failure is None or failure.exit_code in (2, 3)
        if kind == "full from here" and at < layer.count - 12:
            text = f"{failure} {capsys.readouterr().err}"
            assert "No space left on device" in text
        with Layer(tmp_path / name):
            assert run(name).train(**settings).status == "completed"
        assert_same_run(tmp_path / "straight", tmp_path / name)
        assert points(tmp_path / name) == points(tmp_path / "straight")
        assert not list((tmp_path / name).rglob(".*"))
        shutil.rmtree(tmp_path / name)


# File systems that another host writes to


def store_of_two(folder: Path, warned: list[str]) -> CheckpointStore:
    """A store of the checkpoints 1 and 2."""
    Checkpoints().prepare(folder)
    return CheckpointStore(folder, keep_last=2, warn=warned.append)


def test_a_removal_that_a_reader_holds_up_is_done_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS keeps a removed file that is still read as .nfs…: the directory goes after a later save.

    Its space comes back without a restart, and the new checkpoint stands meanwhile.
    """
    warned: list[str] = []
    store = store_of_two(tmp_path, warned)
    rmdir = os.rmdir

    def busy(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))

    monkeypatch.setattr(os, "rmdir", busy)
    Checkpoints().commit(tmp_path, 3)
    store.prune()
    assert len(warned) == 1
    assert "Directory not empty" in warned[0]
    assert [found.iteration for found in store.list()] == [2, 3]
    assert list(tmp_path.glob(".*.removed"))
    monkeypatch.setattr(os, "rmdir", rmdir)
    Checkpoints().commit(tmp_path, 4)
    assert not list(tmp_path.glob(".*"))


def test_a_listing_may_be_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name listed that is gone is no checkpoint; one not listed yet is replaced, not lost."""
    warned: list[str] = []
    store = store_of_two(tmp_path, warned)
    listdir = os.listdir
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", lambda path: [*listdir(path), "iteration-00000009"])
        loaded = store.newest()
        assert loaded is not None
        assert loaded.checkpoint.iteration == 2
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "listdir", lambda path: [n for n in listdir(path) if n != "iteration-00000002"]
        )
        loaded = store.newest()
        assert loaded is not None
        assert loaded.checkpoint.iteration == 1
        Checkpoints().commit(tmp_path, 2)
    Checkpoints().check(tmp_path, 2)
    assert warned == []


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ETIMEDOUT, errno.EACCES])
def test_what_may_pass_is_refused_and_not_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A stale handle, a server that is away, no permission: nothing is renamed, nothing chosen."""
    store = store_of_two(tmp_path, [])
    real = os.open

    def fail(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith("2/state.pt"):
            raise OSError(number, os.strerror(number))
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        with pytest.raises(RunRefused, match="cannot be read") as refusal:
            store.newest()
        assert not isinstance(refusal.value, CheckpointDamaged)
    with monkeypatch.context() as patch:

        def unlisted(path: Any) -> list[str]:
            raise OSError(number, os.strerror(number))

        patch.setattr(os, "listdir", unlisted)
        with pytest.raises(RunRefused, match="cannot be listed"):
            store.newest()
    Checkpoints().check(tmp_path, 2)


# Damage at rest


def harmed(file: Path, draw: random.Random) -> str:
    """Harm a file in one way; say which."""
    data = bytearray(file.read_bytes())
    place = draw.randrange(len(data))
    way = draw.choice(["bit", "bit", "byte", "cut", "longer", "zeros", "twice"])
    if way == "bit":
        data[place] ^= 1 << draw.randrange(8)
    elif way == "byte":
        data[place] = (data[place] + draw.randrange(1, 256)) % 256
    elif way == "cut":
        del data[place:]
    elif way == "longer":
        data += draw.randbytes(draw.randrange(1, 5000))
    elif way == "zeros":
        start = place // 512 * 512
        page = bytes(len(data[start : start + 512]))
        data[start : start + 512] = b"\1" * len(page) if data[start : start + 512] == page else page
    else:
        data = data * 2
    file.write_bytes(data)
    return f"{way} at {place} of {file.name}"


def test_any_damage_is_found_and_the_one_before_used(tmp_path: Path) -> None:
    """Hundreds of random harms in all files: found by verify, set aside, the one before loaded."""
    seed = random.randrange(1 << 30)
    print("seed", seed)
    draw = random.Random(seed)
    warned: list[str] = []
    store = store_of_two(tmp_path, warned)
    files = sorted(path.name for path in store.list()[-1].path.iterdir())
    assert files == ["manifest.json", "rank-00000.pt", "state.pt"]
    for number in range(240):
        newest = store.list()[-1]
        kept = shutil.copytree(newest.path, tmp_path / "kept")
        manifests.verify(newest)
        way = harmed(newest.path / files[number % 3], draw)
        with pytest.raises(CheckpointDamaged, match=files[number % 3]):
            manifests.verify(newest)
        loaded = store.newest()
        assert loaded is not None, way
        assert loaded.checkpoint.iteration == 1, way
        assert len(warned) == number + 1
        shutil.rmtree(tmp_path / "damaged-iteration-00000002")
        kept.rename(newest.path)


def test_files_of_other_checkpoints_are_found(tmp_path: Path) -> None:
    """Two files that changed places, and a whole checkpoint under another's name, are damage."""
    store = store_of_two(tmp_path, [])
    first, second = store.list()
    for file in ("state.pt", "manifest.json"):
        shutil.copy(second.path / file, tmp_path / "aside")
        shutil.copy(first.path / file, second.path / file)
        with pytest.raises(CheckpointDamaged):
            manifests.verify(second)
        shutil.copy(tmp_path / "aside", second.path / file)
    manifests.verify(second)
    state, rank = second.path / "state.pt", second.path / "rank-00000.pt"
    state.rename(tmp_path / "aside")
    rank.rename(state)
    (tmp_path / "aside").rename(rank)
    with pytest.raises(CheckpointDamaged):
        manifests.verify(second)


@pytest.mark.parametrize("file", ["state.pt", "rank-00000.pt", "manifest.json"])
def test_training_goes_on_from_the_checkpoint_before_a_damaged_one(
    tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole resume after damage ends bit for bit as if there had been none."""
    draw = random.Random(file)
    straight, stopped = Small(tmp_path / "straight"), Small(tmp_path / "stopped")
    straight.train()
    stopped.train(stop_at=7, save_every=2)
    harmed(stopped.run_dir / "checkpoints" / "iteration-00000007" / file, draw)
    stopped.train(save_every=2)
    assert "damaged-iteration-00000007" in capsys.readouterr().err
    assert_same_run(straight.run_dir, stopped.run_dir)
