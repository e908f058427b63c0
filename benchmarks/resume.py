"""From the start of a process to its first new iteration after a resume, over a bare script.

Real processes in turn, in pairs. The bare script imports torch, builds the model, an Adam and a
``DataLoader``, loads the same state by ``torch.load`` and ``load_state_dict`` and takes a batch;
igniter's does all that a run does besides: the command line, the lock, provenance, the checksum,
the comparison after loading, the tracking process. Both end at the first line of the step.

Then from batch 1 and from batch 1,000,000 of an epoch over 10^8 shuffled items, in processes forked
when the imports are made, whose times would hide the difference; and, for one start, when each part
of it began and how long it took.

    python benchmarks/resume.py [--pairs 7] [--only small large far timeline]
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from machine import in_turn, machine, spread

from igniter.checkpoint.portable import encode
from igniter.checkpoint.store import CheckpointStore, load

COMMON = """
import os, sys, time
import torch
from torch.utils.data import DataLoader

def first_step(*_):
    with open("first_step", "w") as file:
        print(time.monotonic(), time.process_time(), *sys.modules, file=file)
    os._exit(0)

def parts(layers, width, items):
    model = torch.nn.Sequential(*[torch.nn.Linear(width, width) for _ in range(layers)])
    optimizer = torch.optim.Adam(model.parameters())
    return model, optimizer, DataLoader(range(items), batch_size=16, shuffle=True)
"""

BARE = """
layers, width, items, path = map(eval, sys.argv[1:])
model, optimizer, loader = parts(layers, width, items)
state = torch.load(path, weights_only=True)
model.load_state_dict(state["model"])
optimizer.load_state_dict(state["optimizer"])
for batch in loader:
    first_step()
"""

OURS = """
from igniter import RunSpec, train
from igniter.args import train_kwargs
from igniter.main import igniter_main

def main(args):
    model, optimizer, loader = parts(args.layers, args.width, args.items)

    def make(engine, batch):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return {"loss": torch.zeros(())}

    train(
        to_save={"model": model, "optimizer": optimizer},
        train_spec=RunSpec(
            step=first_step if "RESUME" in os.environ else make,
            loader=loader,
            metrics={"loss": "loss"},
        ),
        **train_kwargs(args),
        parameters=vars(args),
    )

def arguments(parser):
    for name in ("layers", "width", "items"):
        parser.add_argument(f"--{name}", type=int)

if __name__ == "__main__":
    igniter_main(main, arguments=arguments)
"""

# Functions whose time the timeline shows, as module and name.
WATCHED = [
    ("igniter.args", "parse"),
    ("igniter.main", "_seed"),
    ("igniter.opening", "open_run"),
    ("igniter.provenance", "_git"),
    ("igniter.provenance", "_versions"),
    ("igniter.provenance", "_sources"),
    ("igniter.checkpoint.manifest", "_compare"),
    ("igniter.checkpoint.files", "load"),
    ("igniter.checkpoint.files", "_check_archive"),
    ("igniter.checkpoint.files", "_mapped"),
    ("igniter.assembly", "assemble"),
    ("igniter.checks", "before_training"),
    ("igniter.checks", "unsaved_state"),
    ("igniter.checkpoint.state", "SavedObjects.restore"),
    ("igniter.checkpoint.state", "SavedObjects.first_altered"),
    ("igniter.opening", "begin_attempt"),
    ("igniter.rundir", "RunRecord.save"),
    ("igniter.environment", "installed"),
    ("igniter.tracking.shipper", "start"),
    ("igniter.engine", "StepEngine.run"),
]

# Wraps each function when its module has been imported, and each import that igniter makes.
TIMELINE = """
import builtins, functools, importlib, json, os, sys, time
began = time.monotonic()
lines, depth = [], 0

def timed(label, function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        global depth
        line = [depth, label, time.monotonic(), 0.0]
        lines.append(line)
        depth += 1
        try:
            return function(*args, **kwargs)
        finally:
            depth -= 1
            line[3] = time.monotonic() - line[2]
    return call

def patch():
    for entry in list(watched):
        module, name = entry
        owner = sys.modules.get(module)
        *outer, last = name.split(".")
        for part in outer:
            owner = getattr(owner, part, None)
        if hasattr(owner, last):
            watched.remove(entry)
            setattr(owner, last, timed(f"{module}.{name}", getattr(owner, last)))

plain_import = builtins.__import__

def watched_import(name, globals=None, locals=None, fromlist=(), level=0):
    new = name not in sys.modules
    if new and name.partition(".")[0] in ("ignite", "igniter", "mlflow"):
        result = timed(f"import {name}", plain_import)(name, globals, locals, fromlist, level)
    else:
        result = plain_import(name, globals, locals, fromlist, level)
    if name.startswith("igniter"):
        patch()
    return result

builtins.__import__ = watched_import
watched = json.loads(os.environ["WATCHED"])
plain_exit = os._exit

def finish(code):
    with open(os.environ["TIMELINE"], "w") as file:
        json.dump([began, lines], file)
    plain_exit(code)

os._exit = finish
"""


@dataclass(frozen=True)
class Start:
    """A start to its first step: how long it took, also in time of the processor."""

    seconds: float
    processor: float
    modules: frozenset[str]


class Scripts:
    """The two scripts in a directory of their own, and a checkpoint to go on from."""

    def __init__(self, directory: Path, layers: int, width: int, items: int) -> None:
        self.directory = directory
        self.size = [layers, width, items]
        self.bare, self.ours = directory / "bare.py", directory / "train.py"
        self.bare.write_text(COMMON + BARE)
        self.ours.write_text(COMMON + OURS)
        self.run = directory / "run"
        sizes = zip(("--layers", "--width", "--items"), self.size, strict=True)
        self.arguments = [str(word) for pair in sizes for word in pair]
        self._start(self._ours("--max-iterations", "1", "--mlflow-log-model", "false"), {})

    def at(self, number: int) -> None:
        """Make the checkpoint to go on from that of ``number`` batches of the first epoch."""
        loaded = load(self.run)
        extra = {
            key: loaded.manifest[key]
            for key in ("arguments", "learning_rates", "epoch_length", "versions", "journal_offset")
        }
        loaded.rank_state["loader"] |= {"pass": 0, "number": number}
        CheckpointStore(self.run / "checkpoints", keep_last=9).commit(
            number,
            epoch=1,
            reason="benchmark",
            final=False,
            state=encode(loaded.state, "to_save"),
            rank_state=encode(loaded.rank_state, "rank_state"),
            extra=extra,
        )
        for other in (self.run / "checkpoints").glob("iteration-*"):
            if other.name != f"iteration-{number:08d}":
                other.rename(other.with_name(f"other-{other.name}"))

    @property
    def state(self) -> Path:
        """The file that both load."""
        (found,) = (self.run / "checkpoints").glob("iteration-*/state.pt")
        return found

    def start_bare(self) -> Start:
        sizes = [str(size) for size in self.size]
        return self._start([str(self.bare), *sizes, repr(str(self.state))], {})

    def start_ours(self) -> Start:
        found = self._start(self._ours("--max-epochs", "9"), {"RESUME": "1"})
        assert "mlflow" not in found.modules
        return found

    def start_in_fork(self) -> float:
        """Seconds to the first step in a process that has imported all, without tracking."""
        mark = self.directory / "first_step"
        sys.stdout.flush()
        began = time.monotonic()
        if (child := os.fork()) == 0:
            os.chdir(self.directory)
            os.environ["RESUME"] = "1"
            sys.argv = self._ours("--max-epochs", "9", "--no-mlflow", "--progress", "none")
            try:
                exec(
                    compile(self.ours.read_text(), str(self.ours), "exec"), {"__name__": "__main__"}
                )
            finally:
                os._exit(1)
        if os.waitpid(child, 0)[1] != 0:
            sys.exit("a start in a forked process failed")
        at = float(mark.read_text().split()[0])
        mark.unlink()
        return at - began

    def timeline(self) -> list[list[object]]:
        """Each part of one start: depth, what, when it began, how long it took."""
        (self.directory / "sitecustomize.py").write_text(TIMELINE)
        file = self.directory / "timeline.json"
        env = {"RESUME": "1", "WATCHED": json.dumps(WATCHED), "TIMELINE": str(file)}
        env["PYTHONPATH"] = os.pathsep.join([str(self.directory), os.environ.get("PYTHONPATH", "")])
        began = time.monotonic()
        first_step = self._start(self._ours("--max-epochs", "9"), env)
        (self.directory / "sitecustomize.py").unlink()
        lines = [[0, "interpreter", 0.0, json.loads(file.read_text())[0] - began]]
        lines += [[d, what, at - began, s] for d, what, at, s in json.loads(file.read_text())[1]]
        return [*lines, [0, "first step", first_step.seconds, 0.0]]

    def _ours(self, *more: str) -> list[str]:
        return [str(self.ours), *self.arguments, "--output-dir", str(self.run), *more]

    def _start(self, command: list[str], env: dict[str, str]) -> Start:
        """Run a script to its first step, and wait for what it leaves running."""
        mark = self.directory / "first_step"
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self.directory,
            env={
                **os.environ,
                "PYTHONPYCACHEPREFIX": str(self.directory.parent / "bytecode"),
                **env,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        _wait_for_all()
        if done.returncode != 0:
            sys.exit(f"{command} failed:\n{done.stdout}{done.stderr}")
        if not mark.exists():  # the attempt that made the checkpoint
            return Start(0.0, 0.0, frozenset())
        at, processor, *modules = mark.read_text().split()
        mark.unlink()
        return Start(float(at) - began, float(processor), frozenset(modules))


def _wait_for_all() -> None:
    """Wait for what ended processes have left running: the one that sends to MLflow."""
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass


def _adopt_orphans() -> None:
    pr_set_child_subreaper = 36
    ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def compare(name: str, scripts: Scripts, pairs: int) -> None:
    scripts.start_bare(), scripts.start_ours()  # the file cache
    bare, ours = in_turn(pairs, scripts.start_bare, scripts.start_ours)
    print(f"{name}, {scripts.state.stat().st_size / 1e9:.3f} GB")
    for field in ("seconds", "processor"):
        a, b = ([getattr(start, field) for start in found] for found in (bare, ours))
        ratios = [y / x for x, y in zip(a, b, strict=True)]
        print(
            f"{field:>12}: bare {spread(a, '.2f')}, igniter {spread(b, '.2f')}, "
            f"ratio {spread(ratios, '.2f')}",
            flush=True,
        )


def make_imports() -> None:
    """All that a start imports, what torch's first optimizer does among it."""
    for name in ("assembly", "attempt", "main", "opening", "training", "words"):
        importlib.import_module(f"igniter.{name}")
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.zeros(1)).backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())


def far(directory: Path, pairs: int) -> None:
    for name in ("near", "late"):
        (directory / name).mkdir()
    near, late = (Scripts(directory / name, 2, 64, 10**8) for name in ("near", "late"))
    near.at(1), late.at(1_000_000)
    make_imports()
    near.start_in_fork(), late.start_in_fork()
    first, millionth = in_turn(5 * pairs, near.start_in_fork, late.start_in_fork)
    added = [1e3 * (y - x) for x, y in zip(first, millionth, strict=True)]
    print(
        f"10^8 items, imports made: from batch 1 {spread(first, '.3f')} s, from batch 1,000,000 "
        f"{spread(millionth, '.3f')} s, added {spread(added, '+.1f')} ms",
        flush=True,
    )


def show_timeline(scripts: Scripts) -> None:
    scripts.start_ours()
    print(f"\none start, {scripts.state.stat().st_size / 1e9:.3f} GB:\n    at s  took ms")
    for depth, what, at, took in scripts.timeline():
        if took > 0.002 or depth == 0:
            print(f"{at:8.3f} {1e3 * took:8.1f}  {'  ' * depth}{what}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parts = ["small", "large", "far", "timeline"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    args = parser.parse_args()
    _adopt_orphans()
    # An installed igniter has its bytecode, as torch has; a checkout may be told to leave it out.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    print(machine())
    sizes = {"small": (2, 64, 1000), "large": (20, 2048, 1000)}
    made: dict[str, Scripts] = {}

    def scripts(name: str) -> Scripts:
        if name not in made:
            (directory / name).mkdir()
            made[name] = Scripts(directory / name, *sizes[name])
            made[name].at(1)
        return made[name]

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        directory = Path(root)
        for name in sizes:
            if name in args.only:
                compare(name, scripts(name), args.pairs)
        if "far" in args.only:
            far(directory, args.pairs)
        if "timeline" in args.only:
            for name in sizes:
                show_timeline(scripts(name))


if __name__ == "__main__":
    main()
