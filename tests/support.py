"""Run training scripts as real processes, and compare what two runs left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SCRIPTS = Path(__file__).parent / "scripts"
ROOT = Path(__file__).parent.parent
TIMEOUT = 60.0


@dataclass(frozen=True)
class Done:
    """A process that has ended; ``code`` is negative for a signal that killed it."""

    code: int
    out: str
    err: str

    def __str__(self) -> str:
        """Everything it said."""
        return f"exit {self.code}\n{self.out}\n{self.err}"


class Running:
    """A process that a :class:`Zygote` has started."""

    def __init__(self, zygote: Zygote, pid: int, out: Path, err: Path) -> None:
        self.pid = pid
        self._zygote, self._out, self._err = zygote, out, err

    def wait(self) -> Done:
        """Wait for its end."""
        code = int(self._zygote.answer())
        return Done(code, self.out, self._err.read_text(encoding="utf-8"))

    @property
    def out(self) -> str:
        """What it has written to stdout so far."""
        return self._out.read_text(encoding="utf-8") if self._out.exists() else ""


class Zygote:
    """A process with torch imported, of which training scripts are forked, one at a time."""

    def __enter__(self) -> Zygote:
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPTS / "zygote.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        assert self.answer() == "ready"
        self._count = 0
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(TIMEOUT)
        self._process.stdout.close()

    def answer(self) -> str:
        """The next line that it says."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def start(
        self, script: str, *argv: object, cwd: Path, env: Mapping[str, str] | None = None
    ) -> Running:
        """Start ``script`` of tests/scripts, or one at a path, in ``cwd``."""
        self._count += 1
        out, err = cwd / f".out-{self._count}", cwd / f".err-{self._count}"
        request = {
            "argv": [str(SCRIPTS / script), *map(str, argv)],
            "cwd": str(cwd),
            "env": dict(env or {}),
            "out": str(out),
            "err": str(err),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Running(self, int(self.answer()), out, err)

    def run(
        self, script: str, *argv: object, cwd: Path, env: Mapping[str, str] | None = None
    ) -> Done:
        """Start a script and wait for its end."""
        return self.start(script, *argv, cwd=cwd, env=env).wait()


def environment() -> dict[str, str]:
    """This process's environment, without what would steer igniter or MLflow."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("IGNITER_", "MLFLOW_", "TEST_STOP"))
    }
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
    }


def run_fresh(
    script: str, *argv: object, cwd: Path, env: Mapping[str, str] | None = None, **how: Any
) -> Done:
    """Run a script in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / script), *map(str, argv)],
        cwd=cwd,
        env={**environment(), **(env or {})},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        **how,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested dicts and lists by their paths."""
    if isinstance(value, Mapping):
        items = [(f"{path}.{key}", part) for key, part in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(f"{path}[{index}]", part) for index, part in enumerate(value)]
    else:
        return {path: value}
    leaves: dict[str, Any] = {f"{path}()": len(items)}
    for key, part in items:
        leaves |= flat(part, key)
    return leaves


def bits(value: Any) -> object:
    """What is equal only for values that are the same bit for bit."""
    if isinstance(value, torch.Tensor):
        held = value.detach().cpu().contiguous()
        return str(held.dtype), tuple(held.shape), held.numpy().tobytes()
    return type(value).__name__, repr(value)


def differing(a: Any, b: Any) -> list[str]:
    """The paths at which two states are not the same bit for bit."""
    a, b = flat(a), flat(b)
    return sorted(
        path for path in {*a, *b} if path not in a or path not in b or bits(a[path]) != bits(b[path])
    )


def checkpoint(run_dir: Path) -> tuple[str, dict[str, Any]]:
    """The name of a run's newest checkpoint, and all its state."""
    from igniter.checkpoint.store import load

    loaded = load(run_dir)
    return loaded.checkpoint.path.name, {"state": loaded.state, "rank": loaded.rank_state}


def points(run_dir: Path) -> list[tuple[int, str, str]]:
    """Every value of a run's journal as (iteration, name, value), in order of iteration."""
    found = []
    for line in (run_dir / "journal.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        assert not record.get("repeat"), f"the journal tells of a divergence: {record}"
        found += [(record["iteration"], name, repr(v)) for name, v in record["metrics"].items()]
    return sorted(found)


def assert_same_run(straight: Path, stopped: Path) -> None:
    """Two runs ended in the same state, bit for bit, and logged the same values."""
    (name, state), (other_name, other_state) = checkpoint(straight), checkpoint(stopped)
    assert other_name == name
    assert differing(state, other_state) == []
    assert points(stopped) == points(straight)


class Crash(BaseException):
    """Ends an attempt with nothing saved, as a kill does, within this process."""
