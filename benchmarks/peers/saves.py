"""One way of saving, in a process of its own: what it costs training, as JSON.

    python saves.py METHOD [--megabytes N] [--saves N] [--directory DIR]

A loop of steps of some milliseconds each, with a save now and then, seen from outside. Training
stands still from the end of one step to the start of the next: that gap where a save falls, less
the median of the others. It goes on until the save is durable: steps may be slower meanwhile than
those before the first save. Between two saves the same bytes are written and fsynced plainly.

The reference for the standstill is one copy of the same tensors into memory that was written to
before, on the same number of threads.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))
from machine import touch_page_cache, write_plainly

# Steps from one save to the next, which also tell the pace before the first.
EVERY = 60
_PARAMETERS = 36
# Saves that are not counted: what they use is allocated, and used for the first time.
_WARM = 2

State = dict[str, torch.Tensor]
Done = Callable[[], "float | None"]


class Steps:
    """Steps of the same work: when each began and ended, and the work of each."""

    def __init__(self) -> None:
        self._weights = torch.randn(256, 256) / 16
        self._inputs = torch.randn(64, 256)
        self.begun: list[float] = []
        self.ended: list[float] = []
        self.work: list[tuple[float, float]] = []

    def __call__(self, at_end: Callable[[int], None]) -> None:
        self.begun.append(time.time())
        self.go_on_working()
        at_end(len(self.begun))
        self.ended.append(time.time())

    def go_on_working(self) -> None:
        """The work of one step: when it began, and the seconds that it took."""
        begun, hidden = time.time(), self._inputs
        for _ in range(25):
            hidden = torch.relu(hidden @ self._weights)
        self.work.append((begun, time.time() - begun))

    def gap_after(self, number: int) -> float:
        """Seconds between the end of the ``number``-th step and the start of the next."""
        return self.begun[number] - self.ended[number - 1]


class Watch:
    """Follows the saves: awaits each, and writes the same bytes plainly in between."""

    def __init__(self, steps: Steps, state: State, directory: Path) -> None:
        self._steps, self._state, self._directory = steps, state, directory
        self.durable: dict[int, float] = {}
        self.plain: list[float] = []

    def await_save(self, number: int, done: Done) -> None:
        """Work until the save after step ``number`` is durable; ``done`` gives when it was."""
        while (when := done()) is None:
            self._steps.go_on_working()
        self.durable[number] = when
        self.plain.append(write_plainly(self._state.values(), self._directory / "plain"))

    def result(self, copy: float, extra_memory: int, size: int) -> dict[str, Any]:
        """What the counted saves took, in seconds, a value for each.

        ``first`` is the standstill of the first; ``slower`` the steps' time over the usual; memory
        is in multiples of the state.
        """
        steps = self._steps
        usual = statistics.median(steps.gap_after(n) for n in range(2, EVERY))
        pace = statistics.median(taken for _, taken in steps.work[5 : EVERY - 1])
        stood, slower, durable = [], [], []
        for number, when in self.durable.items():
            stood.append(steps.gap_after(number) - usual)
            since, until = steps.begun[number], when
            during = [taken for begun, taken in steps.work if since <= begun < until]
            slower.append(statistics.mean(during) / pace if during else 1.0)
            durable.append(when - steps.ended[number - 1])
        return {
            "copy": copy,
            "first": stood[0],
            "stood": stood[_WARM:],
            "slower": slower[_WARM:],
            "durable": durable[_WARM:],
            "plain": self.plain[_WARM:],
            "extra_memory": extra_memory / size,
        }


def state_of(megabytes: float) -> State:
    """Tensors of ``megabytes`` in all, each written to."""
    length = max(int(megabytes * 1e6 / 4 / _PARAMETERS), 1)
    return {f"parameter_{n}": torch.rand(length) for n in range(_PARAMETERS)}


def seconds_to_copy(state: State) -> float:
    """The median of copies into memory that was written to before."""
    into = [torch.ones_like(value) for value in state.values()]
    taken = []
    for _ in range(7):
        begun = time.perf_counter()
        for target, value in zip(into, state.values(), strict=True):
            target.copy_(value)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def fsynced(path: Path) -> float:
    """Bring a file to the disk; return the time."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    return time.time()


def at_once(when: float) -> Done:
    return lambda: when


def torch_save(state: State, target: Path) -> Done:
    torch.save(state, target)
    return at_once(time.time())


def torch_save_and_fsync(state: State, target: Path) -> Done:
    torch.save(state, target)
    return at_once(fsynced(target))


def safetensors(state: State, target: Path) -> Done:
    save_file(state, target)
    return at_once(time.time())


def safetensors_and_fsync(state: State, target: Path) -> Done:
    save_file(state, target)
    return at_once(fsynced(target))


def dcp_save(state: State, target: Path) -> Done:
    dcp.save(state, checkpoint_id=target, no_dist=True)
    return at_once(time.time())


def dcp_async_save(state: State, target: Path, stager: DefaultStager | None = None) -> Done:
    future: Any = dcp.async_save(state, checkpoint_id=target, async_stager=stager, no_dist=True)
    found: list[float] = []
    future.add_done_callback(lambda _: found.append(time.time()))

    def done() -> float | None:
        if future.done():
            future.result()
        return found[0] if found else None

    return done


class KeptStager:
    """``dcp.async_save`` with the stager's memory kept from one save to the next."""

    def __init__(self) -> None:
        # What async_save itself would make, anew each time.
        self._stager = DefaultStager(StagingOptions(False, False, False, False))

    def __call__(self, state: State, target: Path) -> Done:
        return dcp_async_save(state, target, self._stager)


def saved_by(save: Callable[[State, Path], Done]) -> Callable[..., None]:
    """A plain loop that calls ``save`` after every ``EVERY``-th step."""

    def loop(steps: Steps, watch: Watch, state: State, directory: Path, saves: int) -> None:
        done: Done = at_once(0.0)
        target = directory / "unused"

        def at_end(number: int) -> None:
            if number % EVERY == EVERY - 1 and number > EVERY:
                watch.await_save(number + 1 - EVERY, done)
                shutil.rmtree(target) if target.is_dir() else target.unlink()

        for number in range(1, (saves + 1) * EVERY):
            steps(at_end)
            if number % EVERY == 0:
                target = directory / f"save-{number}"
                done = save(state, target)

    return loop


def igniter(steps: Steps, watch: Watch, state: State, directory: Path, saves: int) -> None:
    """``train`` with ``save_every``: a checkpoint exists under its name when it is committed."""
    model = torch.nn.Module()
    for name, value in state.items():
        model.register_parameter(name, torch.nn.Parameter(value))
    checkpoints = directory / "run" / "checkpoints"

    def at_end(number: int) -> None:
        if number % EVERY == EVERY - 1 and number > EVERY:
            path = checkpoints / f"iteration-{number + 1 - EVERY:08d}"
            watch.await_save(number + 1 - EVERY, lambda: renamed(path))

    def step(engine: Any, batch: Any) -> dict[str, float]:
        steps(at_end)
        return {"loss": 0.5}

    train_with_igniter(model, step, directory / "run", (saves + 1) * EVERY - 1)


def train_with_igniter(model: Any, step: Any, directory: Path, iterations: int) -> None:
    from igniter import RunSpec, train

    train(
        to_save={"model": model},
        train_spec=RunSpec(step=step, loader=[torch.zeros(1)] * 10, metrics={"loss": "loss"}),
        output_dir=directory,
        max_epochs=None,
        max_iterations=iterations,
        save_every=f"{EVERY} iterations",
        keep_last=1,
        progress="none",
        device="cpu",
        mlflow=False,
        picture=False,
    )


def imported_igniter() -> Callable[..., None]:
    """As the others' libraries are, before memory is looked at."""
    with tempfile.TemporaryDirectory() as folder:
        train_with_igniter(torch.nn.Linear(1, 1), lambda *_: {"loss": 0.5}, Path(folder), 2 * EVERY)
    return igniter


def renamed(path: Path) -> float | None:
    """When a directory was given its name, which changes nothing else of it; None before."""
    try:
        return path.stat().st_ctime
    except FileNotFoundError:
        return None


# What is in the page cache alone when the call returns.
NOT_DURABLE = ("safetensors", "torch.save")

METHODS: dict[str, Callable[[], Callable[..., None]]] = {
    "igniter": imported_igniter,
    "dcp.async_save": lambda: saved_by(dcp_async_save),
    "dcp.async_save, stager kept": lambda: saved_by(KeptStager()),
    "safetensors": lambda: saved_by(safetensors),
    "safetensors + fsync": lambda: saved_by(safetensors_and_fsync),
    "torch.save": lambda: saved_by(torch_save),
    "torch.save + fsync": lambda: saved_by(torch_save_and_fsync),
    "dcp.save": lambda: saved_by(dcp_save),
}


class Memory:
    """The peak of resident memory over what is there now; Linux."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self._before = self._read("VmRSS")

    def extra(self) -> int:
        return max(self._read("VmHWM") - self._before, 0)

    @staticmethod
    def _read(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith(name))
        return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--megabytes", type=float, default=720)
    parser.add_argument("--saves", type=int, default=5, help="two of them to warm up")
    parser.add_argument("--threads", type=int, default=1, help="of the steps and of all copies")
    parser.add_argument("--directory", type=Path, help="where to write; on the disk that counts")
    args = parser.parse_args()
    if args.saves <= _WARM:
        parser.error(f"--saves {args.saves}: {_WARM} are to warm up, so there must be more")
    torch.set_num_threads(args.threads)
    state = state_of(args.megabytes)
    size = sum(value.nbytes for value in state.values())
    copy = seconds_to_copy(state)
    method = METHODS[args.method]()
    with tempfile.TemporaryDirectory(dir=args.directory) as folder:
        directory = Path(folder)
        touch_page_cache(state.values(), directory)
        steps, memory = Steps(), Memory()
        watch = Watch(steps, state, directory)
        method(steps, watch, state, directory, args.saves)
        print(json.dumps(watch.result(copy, memory.extra(), size)))


if __name__ == "__main__":
    main()
