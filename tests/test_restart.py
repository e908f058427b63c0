"""Starting again: what is imported and read on the way, and what is kept of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Small, differing, environment, plain_step, run_fresh

from igniter.checkpoint import files, manifest
from igniter.checkpoint.compare import first_difference, share_memory
from igniter.checkpoint.portable import encode
from igniter.checkpoint.state import SavedObjects
from igniter.checkpoint.store import CheckpointStore, load
from igniter.errors import CheckpointDamaged

FLAGS = ("--mlflow-offline", "--output-dir", "run", "--max-epochs", "2", "--progress", "none")
# What takes long to import, and what a first iteration can do without.
LEFT_OUT = {
    *("mlflow", "matplotlib", "pandas", "PIL", "scipy", "sklearn", "tensorboard", "torchvision"),
    *("torch.distributed.optim", "safetensors"),
}


def state(size: int = 3) -> dict[str, Any]:
    """Tensors that share memory, lie odd in it, or are empty, and what else a state holds."""
    shared = torch.arange(2.0 * size)
    return {
        "half": shared[:size],
        "rest": shared[size:],
        "empty": torch.zeros(0),
        "nested": [{"step": torch.tensor(7)}, (torch.ones(2, dtype=torch.bool), "text")],
        "array": torch.arange(5).numpy(),
    }


def committed(store: CheckpointStore, held: Any, iteration: int = 1) -> Path:
    """Commit ``held`` as the state of a checkpoint; return its directory."""
    return store.commit(
        iteration,
        epoch=1,
        reason="test",
        final=False,
        state=encode(held, "to_save"),
        rank_state={},
        extra={},
    ).path


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """A store without checkpoints."""
    return CheckpointStore(tmp_path / "checkpoints")


def mapped_files() -> list[str]:
    """The files of checkpoints that this process has mapped."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    return [line for line in maps.splitlines() if "state.pt" in line]


# What is imported


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The modules that a real process has at the first step after a resume."""
    cwd = tmp_path_factory.mktemp("resumed")
    stopped = run_fresh("simple.py", *FLAGS, cwd=cwd, env={"TEST_DO": "signal SIGTERM"})
    assert stopped.code == 143, stopped
    done = run_fresh("simple.py", *FLAGS, cwd=cwd, env={"TEST_DO": "tell modules"})
    assert done.code == 0, done
    return set((cwd / "modules").read_text(encoding="utf-8").split())


def test_a_resume_imports_only_what_it_needs(resumed: set[str]) -> None:
    """Neither tracking nor drawing nor export is imported before the first iteration."""
    assert not resumed & LEFT_OUT
    assert {"torch", "ignite.engine", "igniter.run", "xxhash"} <= resumed  # the list is one


def test_ignite_alone_would_import_the_distributed_optimizers() -> None:
    """What igniter keeps ignite from importing is still what ignite imports."""
    code = "import ignite.engine, sys; print('torch.distributed.optim' in sys.modules)"
    assert _python(code) == ["True"]


def test_the_distributed_optimizers_are_left_as_they_are() -> None:
    """They can be imported afterwards, and ignite tells one of them from other objects."""
    code = """
import torch
import igniter.engine
from ignite.handlers import checkpoint
from torch.distributed.optim import ZeroRedundancyOptimizer as Real
part, other = object.__new__(Real), torch.optim.SGD([torch.zeros(1)])
stands = checkpoint.ZeroRedundancyOptimizer
print(Real.__module__, isinstance(other, stands), isinstance(part, stands))
"""
    package = "torch.distributed.optim.zero_redundancy_optimizer"
    assert _python(code) == [package, "False", "True"]


def _python(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    return done.stdout.split()


# What is read


def test_a_state_is_mapped_not_read(store: CheckpointStore) -> None:
    """Loading a state takes no memory for its tensors, and nothing of it reaches the file."""
    path = committed(store, state(1 << 20))
    before = (path / "state.pt").read_bytes()
    with torch.serialization.set_default_mmap_options(1):  # MAP_SHARED, were it asked for
        loaded = load(path)
    assert mapped_files()
    assert differing(loaded.state, state(1 << 20)) == []
    loaded.state["half"].fill_(-1)
    assert (path / "state.pt").read_bytes() == before
    del loaded
    assert not mapped_files()


@pytest.mark.parametrize("error", [RuntimeError, FileNotFoundError, PermissionError])
def test_a_state_is_read_where_it_cannot_be_mapped(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """A file system that maps nothing, or a system without /proc, gives the same state."""
    path = committed(store, state())
    whole = torch.load

    def unmapped(*args: Any, mmap: bool, **how: Any) -> Any:
        if mmap:
            raise error("no such device")
        return whole(*args, mmap=mmap, **how)

    monkeypatch.setattr(torch, "load", unmapped)
    assert differing(load(path).state, state()) == []
    assert not mapped_files()


def test_what_was_verified_is_what_is_loaded(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file put in the place of the verified one before it is loaded is not looked at."""
    path = committed(store, {"value": torch.ones(9)})
    other = committed(store, {"value": torch.zeros(9)}, iteration=2) / "state.pt"
    check, swapped = files._check_archive, []

    def swap(*args: Any) -> None:
        check(*args)
        if not swapped:
            swapped.append(other.replace(path / "state.pt"))

    monkeypatch.setattr(files, "_check_archive", swap)
    assert load(path).state["value"].tolist() == [1.0] * 9
    assert swapped
    with pytest.raises(CheckpointDamaged):  # by its name it is the other one
        load(path)


@pytest.mark.parametrize("at", [0, 1 << 20, (1 << 20) + 1, -1])
def test_damage_anywhere_is_seen(store: CheckpointStore, at: int) -> None:
    """A bit that flipped, in whichever of the pieces that a file is read in, is damage."""
    path = committed(store, state(1 << 19))
    manifest.verify(store.list()[0])
    data = bytearray((path / "state.pt").read_bytes())
    data[at] ^= 1
    (path / "state.pt").write_bytes(data)
    with pytest.raises(CheckpointDamaged, match=r"state\.pt"):
        load(path)


# What is kept


class Keeper:
    """Keeps the tensors that it is given."""

    def __init__(self, kept: Mapping[str, Any]) -> None:
        self.kept = kept

    def state_dict(self) -> Mapping[str, Any]:
        """What it keeps."""
        return self.kept

    def load_state_dict(self, kept: Mapping[str, Any]) -> None:
        """Keep it."""
        self.kept = kept


class KeepingModule(torch.nn.Module):
    """A module that assigns what it is given, as metrics do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(3))

    def _load_from_state_dict(self, state: Any, prefix: str, *args: Any) -> None:
        self.total = state[prefix + "total"]


def kept_by(name: str) -> Any:
    """An object that keeps what it is given."""
    if name == "object":
        return Keeper(state())
    if name == "module":
        return KeepingModule()
    weight = torch.nn.Parameter(torch.ones(3))
    if name == "adam":
        return torch.optim.Adam([weight], lr=0.1)
    return torch.optim.LBFGS([weight], lr=0.1)


@pytest.mark.parametrize("name", ["object", "module", "adam", "lbfgs"])
def test_nothing_of_the_file_is_kept(tmp_path: Path, name: str) -> None:
    """When training begins again no object holds memory of a file that pruning may delete."""
    mapped: list[list[str]] = []

    def step(engine: Any, batch: Any, model: Any, optimizer: Any) -> Any:
        mapped.append(mapped_files())
        if isinstance(kept, torch.optim.Optimizer):
            (weight,) = kept.param_groups[0]["params"]
            weight.grad = torch.ones(3)
            kept.step(lambda: weight.sum())
        return plain_step(engine, batch, model, optimizer)

    kept = kept_by(name)
    run = Small(tmp_path / "run", step=step, more_to_save={"kept": kept})
    assert run.train(stop_at=2).status == "interrupted"
    saved = encode(kept.state_dict(), "")
    mapped.clear()
    kept = kept_by(name)
    run.more_to_save = {"kept": kept}
    assert run.train(stop_at=3).status == "interrupted"
    assert mapped == [[]]
    assert name != "module" or differing(encode(kept.state_dict(), ""), saved) == []


def test_a_kept_state_would_hold_the_file(store: CheckpointStore) -> None:
    """The test above sees it: an object that is given the loaded tensors keeps the file mapped."""
    keeper = Keeper({})
    keeper.load_state_dict(load(committed(store, state())).state)
    assert mapped_files()
    SavedObjects({"kept": keeper}).restore({"kept": keeper.kept}, "here")
    assert not mapped_files()


def test_what_shares_memory_goes_on_to(store: CheckpointStore) -> None:
    """Objects that kept parts of one tensor keep parts of one again, in memory of their own."""
    whole = torch.ones(4)
    loaded = load(committed(store, {"one": {"part": whole[:2]}, "other": {"all": whole}}))
    one, other = Keeper({}), Keeper({})
    SavedObjects({"one": one, "other": other}).restore(loaded.state, "here")
    assert share_memory(one.kept, other.kept)
    assert not share_memory(one.kept, loaded.state)
    assert differing({"one": one.kept, "other": other.kept}, loaded.state) == []


def test_the_content_is_let_go(store: CheckpointStore) -> None:
    """What was put back is not held for the rest of the run."""
    loaded = load(committed(store, state()))
    loaded.release()
    assert (loaded.state, loaded.rank_state) == (None, None)
    assert loaded.manifest["iteration"] == 1


# What is compared


def odd_tensors() -> Iterator[tuple[torch.Tensor, int]]:
    """Tensors of odd lengths and offsets, each with the place of a byte in it."""
    for dtype in (torch.uint8, torch.bfloat16, torch.float32, torch.complex64):
        for length in (1, 7, 8, 9, 4097):
            tensor = torch.ones(length + 3).to(dtype)[3:]
            for at in {0, length // 2, length - 1}:
                yield tensor, at * tensor.itemsize


def test_one_bit_is_a_difference() -> None:
    """Two tensors that differ in one bit differ, wherever it is; equal ones do not."""
    for tensor, at in odd_tensors():
        other = tensor.clone()
        assert first_difference(tensor, other, "here") is None
        other.view(torch.uint8)[at] ^= 1
        assert first_difference(tensor, other, "here") == "here: other values"
    nothing = torch.zeros(0)
    assert first_difference(nothing, nothing.clone(), "here") is None
    assert first_difference(torch.zeros(1), -torch.zeros(1), "here") is not None
    assert first_difference(torch.full((2,), torch.nan), torch.full((2,), torch.nan), "") is None
