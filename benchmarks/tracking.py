"""What tracking costs training: throughput with the MLflow server down, over tracking off.

python benchmarks/tracking.py [--pairs N] [--iterations N] [--uri URI]

Each pair trains the same run in two fresh processes, in an order that alternates. Measured are the
iterations of the second half: by the clock, and by the processor time of the training process,
which other processes disturb less. In the first half the process that sends starts: it takes about
2 s of processor time, at a low priority, once a run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

# Nothing listens on the discard port: every request is refused at once, and tried again.
DOWN = "http://127.0.0.1:9"


def train(folder: str, iterations: int, uri: str) -> None:
    """In a process of its own: train, and print seconds an iteration, by clock and processor."""
    import torch

    from igniter import RunSpec
    from igniter import train as igniter_train

    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = torch.utils.data.TensorDataset(torch.randn(6400, 64), torch.randint(10, (6400,)))
    first = iterations // 2
    times: dict[int, tuple[float, float]] = {}

    def step(engine, batch):
        if engine.state.iteration in (first, iterations):
            times[engine.state.iteration] = time.perf_counter(), time.process_time()
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return {"loss": loss}

    igniter_train(
        to_save={"model": model, "optimizer": optimizer},
        train_spec=RunSpec(
            step=step,
            loader=torch.utils.data.DataLoader(data, batch_size=8),
            metrics={"loss": "loss"},
        ),
        output_dir=folder,
        max_epochs=None,
        max_iterations=iterations,
        log_every=10,
        save_every=iterations,
        progress="none",
        picture=False,
        mlflow=uri != "off",
        mlflow_tracking_uri=None if uri == "off" else uri,
    )
    spent = zip(times[first], times[iterations], strict=True)
    print(json.dumps([(end - begin) / (iterations - first) for begin, end in spent]))


def measured(iterations: int, uri: str) -> tuple[float, float]:
    """Seconds an iteration in one fresh process, by clock and processor."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        done = subprocess.run(
            [sys.executable, __file__, "--train", folder, str(iterations), uri],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
    clock, processor = json.loads(done.stdout.splitlines()[-1])
    return clock, processor


def summary(costs: list[float]) -> str:
    """The median and the quartiles, in percent."""
    low, middle, high = statistics.quantiles(costs, n=4)
    return f"{middle:+.2f} % (quartiles {low:+.2f} to {high:+.2f})"


def main() -> None:
    """Print each pair, and the median of what tracking costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--iterations", type=int, default=40_000)
    parser.add_argument("--uri", default=DOWN, help="where to track (default: nothing is there)")
    parser.add_argument("--train", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        train(args.train[0], int(args.train[1]), args.train[2])
        return
    clock: list[float] = []
    processor: list[float] = []
    for pair in range(args.pairs):
        order = ["off", args.uri] if pair % 2 else [args.uri, "off"]
        spent = {uri: measured(args.iterations, uri) for uri in order}
        off, tracked = spent["off"], spent[args.uri]
        clock.append(100 * (tracked[0] / off[0] - 1))
        processor.append(100 * (tracked[1] / off[1] - 1))
        print(
            f"off {off[0] * 1e6:7.1f} µs   tracked {tracked[0] * 1e6:7.1f} µs an iteration   "
            f"cost {clock[-1]:+.2f} %, of processor time {processor[-1]:+.2f} %",
            flush=True,
        )
    print(f"median cost {summary(clock)}, of processor time {summary(processor)}")


if __name__ == "__main__":
    main()
