"""What tracking costs training: throughput with the MLflow server down, over tracking off.

python benchmarks/tracking.py [--pairs N] [--window N] [--uri URI]

In the loop nothing differs: the journal is written either way, and another process sends it. So one
training is measured, in windows of iterations, while that process runs and while it is stopped
(SIGSTOP), in turn: on a shared machine two processes differ by more than what is looked for. Left
out is the sending process's start, about 2 s of processor time at a low priority, once a run.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path

# Nothing listens on the discard port: every request is refused at once, and tried again.
DOWN = "http://127.0.0.1:9"
WARM_UP_SECONDS = 15.0


class Windows:
    """Called after each iteration: times windows, the sending process at work in every other."""

    def __init__(self, pairs: int, window: int) -> None:
        self.seconds: dict[bool, list[float]] = {True: [], False: []}
        # On, off, off, on: what drifts falls on both alike.
        turns = ((True, False), (False, True))
        self._plan = [on for pair in range(pairs) for on in turns[pair % 2]]
        self._window = window
        self._begun = time.perf_counter()
        self._left = -1
        self._child = 0

    def __call__(self) -> bool:
        """Whether there is anything left to measure."""
        now = time.perf_counter()
        if self._left < 0:
            if now - self._begun < WARM_UP_SECONDS:
                return True
            pid = os.getpid()
            (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            self._child = int(child)
        elif self._left > 0:
            self._left -= 1
            return True
        else:
            self.seconds[self._plan.pop(0)].append(now - self._begun)
        if self._plan:
            os.kill(self._child, signal.SIGCONT if self._plan[0] else signal.SIGSTOP)
        else:
            os.kill(self._child, signal.SIGCONT)
            return False
        self._left, self._begun = self._window, time.perf_counter()
        return True


def train(windows: Windows, uri: str) -> None:
    """Train a small network, tracked at ``uri``, until all windows are measured."""
    import torch

    from igniter import RunSpec
    from igniter import train as igniter_train

    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = torch.utils.data.TensorDataset(torch.randn(6400, 64), torch.randint(10, (6400,)))

    def step(engine, batch):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        if not windows():
            engine.terminate()
        return {"loss": loss}

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        igniter_train(
            to_save={"model": model, "optimizer": optimizer},
            train_spec=RunSpec(
                step=step,
                loader=torch.utils.data.DataLoader(data, batch_size=8),
                metrics={"loss": "loss"},
            ),
            output_dir=folder,
            max_epochs=None,
            max_iterations=100_000_000,
            log_every=10,
            save_every="1000 epochs",
            progress="none",
            picture=False,
            mlflow_log_model=False,
            mlflow_tracking_uri=uri,
        )


def main() -> None:
    """Print the median of what tracking costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--window", type=int, default=1000, help="iterations")
    parser.add_argument("--uri", default=DOWN, help="where to track (default: nothing is there)")
    args = parser.parse_args()
    windows = Windows(args.pairs, args.window)
    train(windows, args.uri)
    tracked, off = windows.seconds[True], windows.seconds[False]
    costs = [100 * (a / b - 1) for a, b in zip(tracked, off, strict=True)]
    low, middle, high = statistics.quantiles(costs, n=4)
    each = [1e6 * statistics.median(found) / args.window for found in (off, tracked)]
    print(
        f"off {each[0]:.1f} µs, tracked {each[1]:.1f} µs an iteration (medians); cost of "
        f"{len(costs)} pairs: median {middle:+.2f} %, quartiles {low:+.2f} to {high:+.2f} %"
    )


if __name__ == "__main__":
    main()
