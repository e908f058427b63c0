"""Memory that igniter's loop holds over the raw PyTorch loop on the same model and loader.

Two processes in turn: each imports torch and numpy, trains a small model with Adam for some
thousand iterations, and reads its resident memory (of the main process) at two of them. igniter
has everything on: tracking, the journal, the progress bar, saving; no save is under way when it is
read. A second reading far on shows whether it grows.

    python benchmarks/memory.py [--pairs 5] [--iterations 20000]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from machine import in_turn, machine, resident, spread
from torch.utils.data import DataLoader

from igniter import RunSpec, train

_EARLY = 2_000


class Training:
    """A small model, and a step that reads the memory early and late."""

    def __init__(self, iterations: int) -> None:
        torch.manual_seed(0)
        np.zeros(1)
        self.model = torch.nn.Linear(16, 1)
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.loader = DataLoader(torch.randn(10_000, 16), batch_size=16, shuffle=True)
        self.readings: list[float] = []
        self._count, self._at = 0, (_EARLY, iterations - 1)

    def step(self, engine: object, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        self.optimizer.zero_grad()
        loss = self.model(batch).square().mean()
        loss.backward()
        self.optimizer.step()
        self._count += 1
        if self._count in self._at:
            self.readings.append(resident())
        return {"loss": loss}


def raw(iterations: int) -> list[float]:
    training, done = Training(iterations), 0
    while done < iterations:
        for batch in training.loader:
            training.step(None, batch)
            done += 1
    return training.readings


def with_igniter(iterations: int) -> list[float]:
    training = Training(iterations)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        train(
            to_save={"model": training.model, "optimizer": training.optimizer},
            train_spec=RunSpec(
                step=training.step, loader=training.loader, metrics={"loss": "loss"}
            ),
            max_epochs=None,
            max_iterations=iterations,
            output_dir=Path(directory) / "run",
            mlflow_tracking_uri=f"sqlite:///{directory}/mlflow.db",
            mlflow_log_model=False,
            picture=False,
        )
    return training.readings


def in_process(which: str, iterations: int) -> list[float]:
    command = [sys.executable, __file__, "--as", which, "--iterations", str(iterations)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return list(map(float, json.loads(done.stdout.splitlines()[-1])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=20_000)
    parser.add_argument("--as", dest="role", choices=["raw", "igniter"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role is not None:
        print(json.dumps((raw if args.role == "raw" else with_igniter)(args.iterations)))
        return
    print(machine())
    theirs, ours = in_turn(
        args.pairs,
        lambda: in_process("raw", args.iterations),
        lambda: in_process("igniter", args.iterations),
    )
    for index, at in enumerate((_EARLY, args.iterations - 1)):
        a, b = ([found[index] for found in side] for side in (theirs, ours))
        added = [y - x for x, y in zip(a, b, strict=True)]
        print(f"iteration {at}: raw {spread(a)} MB, igniter {spread(b)}, added {spread(added)}")


if __name__ == "__main__":
    main()
