"""What a record of the journal costs, and how much memory a long journal takes.

Each operation runs in a process of its own, whose peak memory is given; the first line is that of
the imports alone. ``append`` is what the loop pays: composing the line and one write. ``resume`` is
an attempt that finds no checkpoint: the whole journal is read and then runs again, each record
compared as it comes.

    python benchmarks/journal.py [--records 10000000] [--directory DIR]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from igniter import journal
from igniter.tracking.curves import curves
from igniter.tracking.journal import Journal
from igniter.tracking.records import read
from igniter.tracking.state import count_unsent


def values(iteration: int) -> dict[str, float]:
    return {"train/loss": 1 / iteration}


def nothing(path: Path, records: int) -> int:
    return records


def append(path: Path, records: int) -> int:
    written = Journal.open(path, attempt=1, warn=print)
    for iteration in range(1, records + 1):
        written.log(iteration, 1, values(iteration))
    written.sync()
    return records


def read_records(path: Path, records: int) -> int:
    return sum(1 for _ in read(path))


def read_rows(path: Path, records: int) -> int:
    return sum(1 for _ in journal.read(path))


def count(path: Path, records: int) -> int:
    return count_unsent(path, 0)


def resume(path: Path, records: int) -> int:
    again = Journal.open(path, attempt=2, warn=print)
    for iteration in range(1, records + 1):
        again.log(iteration, 1, values(iteration))
    if again.divergence is not None:
        raise RuntimeError(str(again.divergence))
    return records


def thin(path: Path, records: int) -> int:
    found = curves(read(path))
    return sum(point.number for point in found.panels[0].lines[0].points)


OPERATIONS: dict[str, Callable[[Path, int], int]] = {
    "the imports alone": nothing,
    "append": append,
    "read as records": read_records,
    "read as rows": read_rows,
    "count what MLflow lacks": count,
    "resume without a checkpoint": resume,
    "thin out for the picture": thin,
}


def measured(operation: Callable[[Path, int], int], path: Path, records: int) -> tuple[float, int]:
    """Seconds of CPU and bytes of memory that the operation takes in a process of its own."""
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if operation(path, records) == records else 1)
    _, status, usage = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError(f"{operation.__name__} failed after {time.monotonic() - started:.0f} s")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--directory", type=Path, help="where the journal is put for the while")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        path = Path(directory) / "journal.jsonl"
        print(f"{args.records:,} records of one value")
        print(f"{'':30}{'µs a record':>12}{'memory':>12}")
        for name, operation in OPERATIONS.items():
            seconds, memory = measured(operation, path, args.records)
            print(
                f"{name:30}{seconds / args.records * 1e6:12.1f}{memory / 1e6:9.1f} MB", flush=True
            )
        print(f"the file: {path.stat().st_size / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
