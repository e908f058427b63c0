"""NaNGuard: what it fails at, when it looks, and that all processes agree."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from handled import Part, attempt
from support import Zygote, checkpoint

from igniter.errors import NonFiniteError, UsageError
from igniter.handlers import NaNGuard

NAN = math.nan


def failing(folder: Path, value: Any, at: int, *keys: str, every: int | None = None) -> str:
    """The error of a run whose step returns ``value`` as ``extra`` in iteration ``at``."""

    def spoil(iteration: int, output: dict[str, Any]) -> None:
        output["extra"] = value if iteration == at else 1.0
        output["count"], output["done"] = iteration, True

    guard = NaNGuard(*keys, every=every)
    with pytest.raises(NonFiniteError) as caught:
        attempt(folder, lambda: Part([guard]), spoil=spoil, save_every=1)
    return str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        NAN,
        math.inf,
        torch.tensor(NAN),
        torch.tensor([1.0, -math.inf]),
        torch.tensor([1.0, NAN], dtype=torch.bfloat16),
        torch.tensor(NAN, requires_grad=True),
    ],
    ids=repr,
)
def test_training_fails(value: Any, tmp_path: Path) -> None:
    """The run fails at once, names the key and the iteration, and no checkpoint has it.

    Trap: NaN passes silently (AR).
    """
    text = failing(tmp_path, value, 5)
    assert text.startswith("extra of the step's output is NaN or infinite at iteration 5.")
    assert checkpoint(tmp_path)[0] == "iteration-00000004"
    result = attempt(tmp_path, lambda: Part([NaNGuard()]))
    assert result is not None
    assert result.status == "completed"


@pytest.mark.parametrize(("every", "at", "read"), [(4, 5, 8), (8, 11, 12), (100, 1, 12)])
def test_read_seldom(every: int, at: int, read: int, tmp_path: Path) -> None:
    """What is read after more iterations, or at the run's end, names the first one all the same."""
    assert "at iteration 5." in failing(tmp_path, NAN, 5, every=4)
    text = failing(tmp_path / "b", torch.tensor(NAN), at, every=every)
    assert f"extra of the step's output is NaN or infinite at iteration {at}." in text
    assert checkpoint(tmp_path / "b")[0] == f"iteration-{read - 1:08}"


def test_chosen_keys(tmp_path: Path) -> None:
    """Only the keys that were given are looked at; one that is not there is an error."""

    def spoil(iteration: int, output: dict[str, Any]) -> None:
        output["scores"] = torch.tensor([0.0, -math.inf])  # as a mask makes them

    result = attempt(tmp_path, lambda: Part([NaNGuard("loss")]), spoil=spoil)
    assert result is not None
    assert result.status == "completed"
    with pytest.raises(UsageError, match=r"returned no lose; it returned loss, scores"):
        attempt(tmp_path / "b", lambda: Part([NaNGuard("lose")]), spoil=spoil)
    assert failing(tmp_path / "c", NAN, 3, "loss", "extra").startswith("extra of")


def test_reading_waits_for_the_device_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a step returned is read every so many iterations, and on a CPU after each."""
    from types import SimpleNamespace

    reads = []
    monkeypatch.setattr(NaNGuard, "_read", lambda self, device: reads.append(device))
    for device, every in (("cpu", None), ("meta", None), ("meta", 30)):
        guard = NaNGuard(every=every)
        state = SimpleNamespace(iteration=0)
        trainer: Any = SimpleNamespace(device=torch.device(device), length=None, state=state)
        for iteration in range(1, 101):
            state.iteration = iteration
            guard.on_batch_end(trainer, None, {"loss": torch.tensor(1.0, device=device)})
    kinds = [device.type for device in reads]
    assert (kinds.count("cpu"), kinds.count("meta")) == (100, 2 + 3)


def test_every_below_one() -> None:
    """A wrong interval is refused."""
    with pytest.raises(UsageError, match="at least 1"):
        NaNGuard(every=0)


def test_all_processes_agree(zygote: Zygote, tmp_path: Path) -> None:
    """Where one of two processes has NaN both fail, in the same iteration.

    Trap: one rank stops and the others wait (PA).
    """
    done = zygote.run("guarded_ranks.py", cwd=tmp_path)
    assert done.code == 0, done
    told = sorted(line for line in done.out.splitlines() if line.startswith("rank"))
    assert told[0].startswith("rank 0 at 6: another process's output is NaN or infinite at iter")
    assert told[1].startswith("rank 1 at 6: loss of the step's output is NaN or infinite at iter")
    assert all("at iteration 4." in line for line in told)
