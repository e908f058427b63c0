"""The examples, and the script of the manual that igniter keeps running, as real processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
DIGITS = EXAMPLES / "digits" / "train.py"
MINIMAL = EXAMPLES / "minimal" / "train.py"
SEARCH = EXAMPLES / "search" / "train.py"

# "Basic Usage" of pytorch-igniter, with the package's name changed and its "..." filled in.
BASIC_USAGE = """
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

from igniter import train, RunSpec
from igniter.args import train_kwargs
from igniter.main import igniter_main


def main(args):
    dataset = TensorDataset(torch.randn(20, 4), torch.arange(20) % 3)
    train_loader = DataLoader(dataset, batch_size=args.batch_size, shuffle=True)
    eval_loader = DataLoader(dataset, batch_size=args.batch_size)

    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate)
    criteria = nn.CrossEntropyLoss()

    def train_step(engine, batch):
        model.train()
        model.zero_grad()
        inputs, labels = batch
        outputs = model(inputs)
        loss = criteria(input=outputs, target=labels)
        loss.backward()
        optimizer.step()
        return {"loss": loss}

    def eval_step(engine, batch):
        model.eval()
        inputs, labels = batch
        outputs = model(inputs)
        loss = criteria(input=outputs, target=labels)
        return {"loss": loss}

    metrics = {"loss": "loss"}
    to_save = {"model": model, "optimizer": optimizer}

    train(
        to_save=to_save,
        train_spec=RunSpec(step=train_step, loader=train_loader, metrics=metrics),
        eval_spec=RunSpec(step=eval_step, loader=eval_loader, metrics=metrics),
        **train_kwargs(args),
        parameters=vars(args)
    )


if __name__ == "__main__":
    igniter_main(main=main, inputs={"data": "data"})
"""


def start(
    script: Path, place: Path, *argv: str, python: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run ``script`` in ``place``, with no setting from outside, to a good end."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("IGNITER_", "MLFLOW_"))
    }
    done = subprocess.run(
        [sys.executable, *python, str(script), *argv],
        cwd=place,
        env={**environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def last_event(done: subprocess.CompletedProcess[str], event: str = "end") -> dict[str, Any]:
    """The last event of this kind that a script run with ``--progress json`` printed."""
    events = [json.loads(line) for line in done.stdout.splitlines()]
    found: dict[str, Any] = [line for line in events if line["event"] == event][-1]
    return found


@pytest.mark.slow
def test_digits_to_the_end(tmp_path: Path) -> None:
    """With its defaults the digits example gets 97 % of the test images right, seen in MLflow."""
    end = last_event(start(DIGITS, tmp_path, "--progress", "json"))
    assert end["status"] == "completed"
    assert end["metrics"]["eval/accuracy"] >= 0.97
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        runs = store.execute(
            "select run_uuid, status, experiments.name from runs join experiments using "
            "(experiment_id)"
        ).fetchall()
    assert runs == [(end["mlflow_run_id"], "FINISHED", "digits")]


@pytest.mark.slow
def test_digits_are_trained_further(tmp_path: Path) -> None:
    """A finished run of the digits example goes on under a larger ``--max-epochs``."""
    flags = ("--no-mlflow", "--progress", "json", "--max-iterations", "22")
    first = last_event(start(DIGITS, tmp_path, *flags))
    again = start(DIGITS, tmp_path, *flags[:-1], "33")
    second = last_event(again)
    assert (first["iteration"], second["iteration"]) == (22, 33)
    assert last_event(again, "start")["iteration"] == 22
    assert first["directory"] == second["directory"]


def test_minimal(tmp_path: Path) -> None:
    """The minimal example trains to its end, in 40 lines at most."""
    assert len(MINIMAL.read_text(encoding="utf-8").splitlines()) <= 40
    done = start(MINIMAL, tmp_path, "--no-mlflow", "--progress", "json", "--learning-rate", "0.01")
    end = last_event(done)
    assert end["status"] == "completed"
    assert end["metrics"]["train/loss"] < 0.1


def test_search(tmp_path: Path) -> None:
    """The search finds a good rate and width, in under 50 lines; started again, it is complete."""
    pytest.importorskip("optuna")
    assert len(SEARCH.read_text(encoding="utf-8").splitlines()) < 50
    flags = ("--no-mlflow", "--no-picture", "--max-epochs", "5", "--progress", "none")
    found = start(SEARCH, tmp_path, *flags).stdout.splitlines()[-1]
    assert float(found.rpartition(" ")[2]) < 0.05
    assert len(list(tmp_path.glob("output/*/trial-*"))) == 12
    assert start(SEARCH, tmp_path, *flags).stdout.splitlines()[-1] == found


def test_the_script_of_the_manual(tmp_path: Path) -> None:
    """pytorch-igniter's own first script runs with nothing but the package's name changed."""
    script = tmp_path / "basic_usage.py"
    script.write_text(BASIC_USAGE, encoding="utf-8")
    flags = ("--no-mlflow", "--progress", "json", "--max-epochs", "2", "--batch-size", "8")
    end = last_event(start(script, tmp_path, *flags, "--data", str(tmp_path)))
    assert (end["status"], end["iteration"]) == ("completed", 6)
    assert {"train/loss", "eval/loss"} <= set(end["metrics"])


def test_the_help_of_a_script(tmp_path: Path) -> None:
    """``--help`` shows the flags in groups, and waits for neither ignite nor MLflow."""
    done = start(DIGITS, tmp_path, "--help", python=("-X", "importtime"))
    groups = re.findall(r"^(\w[\w ]*):$", done.stdout, flags=re.MULTILINE)
    assert groups == [
        "options",
        "Training",
        "Updates of the weights",
        "Run and files",
        "Saving",
        "Evaluation and output",
        "Tracking",
        "Configuration",
        "Digits",
    ]
    imported = set(re.findall(r"\| +(\w+)$", done.stderr, flags=re.MULTILINE))
    assert imported & {"torch", "igniter", "ignite", "mlflow"} == {"torch", "igniter"}
    assert not list(tmp_path.iterdir())
