"""Run training, in this process or as scripts, and compare what two runs left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

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
    """A process with torch imported, of which training scripts are forked, one at a time.

    Args:
        imported: further modules that it is to have imported.
    """

    def __init__(self, *imported: str) -> None:
        self._imported = imported

    def __enter__(self) -> Zygote:
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPTS / "zygote.py"), *self._imported],
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
        "IGNITER_PICTURE": "false",  # it takes a second; tests/test_pictures.py looks at it
        "IGNITER_MLFLOW_LOG_MODEL": "false",  # it takes some; see tests/test_mlflow_model.py
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
        raw = held.reshape(-1).view(torch.uint8).numpy().tobytes()
        return str(held.dtype), tuple(held.shape), raw
    if isinstance(value, (set, frozenset)):  # shown in any order
        return type(value).__name__, sorted(map(repr, value))
    if hasattr(value, "tobytes"):  # numpy's, of which repr leaves out much
        return repr(value.dtype), value.shape, value.tobytes()
    return type(value).__name__, repr(value)


def differing(a: Any, b: Any) -> list[str]:
    """The paths at which two states are not the same bit for bit."""
    a, b = flat(a), flat(b)
    return sorted(
        path
        for path in {*a, *b}
        if path not in a or path not in b or bits(a[path]) != bits(b[path])
    )


def checkpoint(run_dir: Path) -> tuple[str, dict[str, Any]]:
    """The name of a run's newest checkpoint, and all its state."""
    from igniter.checkpoint.store import load

    loaded = load(run_dir)
    return loaded.checkpoint.path.name, {"state": loaded.state, "rank": loaded.rank_state}


def points(run_dir: Path) -> list[tuple[int, str, str]]:
    """Every result in a run's journal as (iteration, name, value), in order of iteration."""
    found = []
    for line in (run_dir / "journal.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        assert not record.get("repeat"), f"the journal tells of a divergence: {record}"
        if record["kind"] == "measured":
            continue
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


def save_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each save be over before training goes on, so that a test knows what is on the disk."""
    from igniter.saving import Saver

    save = Saver.save

    def save_and_wait(saver: Saver, iteration: int, epoch: int) -> None:
        save(saver, iteration, epoch)
        saver.rest()

    monkeypatch.setattr(Saver, "save", save_and_wait)


class Small:
    """A run of 12 iterations in this process: 3 epochs of batches of 3, 3, 3 and 1 samples.

    Args:
        run_dir: its directory.
        attach: called with (trainer, evaluator, model) to add handlers; ``evaluator`` is None
            without an evaluation.
        step: the step, called with (engine, batch, model, optimizer).
        eval_step: called with (engine, batch, model); None for no evaluation.
        loader: of the training; batches of one tensor of shape N x 2.
        more_to_save: besides ``model`` and ``optimizer``.
        spec: called for each attempt, for more arguments of the training's RunSpec.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        attach: Any = None,
        step: Any = None,
        eval_step: Any = None,
        loader: Any = None,
        more_to_save: Mapping[str, Any] | None = None,
        spec: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self.run_dir, self.attach = run_dir, attach
        self.step, self.eval_step = step or plain_step, eval_step
        self.loader, self.more_to_save, self.spec = loader, more_to_save or {}, spec

    def train(self, stop_at: int | None = None, **settings: Any) -> Any:
        """One attempt, perhaps stopped by SIGTERM in the step of iteration ``stop_at``."""
        from igniter import RunSpec, train

        torch.manual_seed(0)
        self.model = torch.nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)

        def step(engine: Any, batch: Any) -> Any:
            output = self.step(engine, batch, self.model, self.optimizer)
            if engine.state.iteration == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return output

        def callback(engine: Any, trainer: Any) -> None:
            evaluator = None if engine is trainer else engine
            if self.attach is not None and (evaluator is not None) == (self.eval_step is not None):
                self.attach(trainer, evaluator, self.model)

        loader = points_loader() if self.loader is None else self.loader
        given = {
            "max_epochs": 3,
            "mlflow": False,
            "mlflow_log_model": False,
            "progress": "none",
            "save_every": "1 epoch",
            "output_dir": self.run_dir,
        }
        evaluation = None
        if self.eval_step is not None:
            evaluation = RunSpec(
                step=lambda engine, batch: self.eval_step(engine, batch, self.model),
                loader=points_loader(),
                metrics={"loss": "loss"},
                callback=callback,
            )
        return train(
            to_save={"model": self.model, "optimizer": self.optimizer, **self.more_to_save},
            train_spec=RunSpec(
                **{
                    "step": step,
                    "loader": loader,
                    "metrics": {"loss": "loss"},
                    "callback": callback,
                    **self.spec(),
                }
            ),
            eval_spec=evaluation,
            **{**given, **settings},
        )


def points_loader(**how: Any) -> DataLoader[Any]:
    """Ten points of a plane, shuffled, in batches of three."""
    data = TensorDataset(torch.linspace(-1, 1, 20).reshape(10, 2))
    return DataLoader(data, **{"batch_size": 3, "shuffle": True, **how})


def plain_step(engine: Any, batch: Any, model: Any, optimizer: Any) -> dict[str, Any]:
    """One update, with noise from torch."""
    optimizer.zero_grad()
    loss = (model(batch[0]) - torch.rand(())).square().mean()
    loss.backward()
    optimizer.step()
    return {"loss": loss}


def plain_eval_step(engine: Any, batch: Any, model: Any) -> dict[str, Any]:
    """The mean of the outputs."""
    return {"loss": model(batch[0]).mean()}


def assert_exact(folder: Path, stops: Sequence[int], **how: Any) -> None:
    """Training stopped at each of ``stops`` ends as training straight on does."""
    settings = how.pop("settings", {})
    straight, stopped = Small(folder / "straight", **how), Small(folder / "stopped", **how)
    assert straight.train(**settings).status == "completed"
    for stop in stops:
        assert stopped.train(stop_at=stop, **settings).status == "interrupted"
    assert stopped.train(**settings).status == "completed"
    assert_same_run(straight.run_dir, stopped.run_dir)
