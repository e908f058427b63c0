"""igniter beside other trainers and other ways of saving, in an environment of the benchmark's own.

    python benchmarks/peers [loops] [saves] [--rounds N]

The first start installs what requirements.txt pins, in the user's cache (1.9 GB, some minutes; the
directory is printed). ``loops``: CPU time an iteration costs over the raw loop. ``saves``: how long
training stands still for a checkpoint, and how fast it becomes durable. Each measurement is a
process of its own; the peers take turns in each round. See loops.py and saves.py for what is on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))

import environment  # noqa: E402 - its folder and the one above were just put on the path
import loops  # noqa: E402
import saves  # noqa: E402
from machine import machine, spread  # noqa: E402

_LIMIT_SECONDS = 600


def measured(python: Path, script: str, *arguments: str) -> dict[str, Any] | str:
    """What the script prints as JSON; or, where it failed, its last words."""
    command = [python, HERE / script, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer in {_LIMIT_SECONDS} s"
    if done.returncode:
        words = done.stderr.strip().splitlines()
        return words[-1] if words else f"exit code {done.returncode}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def rounds_of(
    python: Path, script: str, names: Sequence[str], count: int, *arguments: str
) -> dict[str, list[Any] | str]:
    """By name what each round gave, or why there is nothing; every other round goes backwards."""
    found: dict[str, list[Any] | str] = {name: [] for name in names}
    for number in range(count):
        for name in reversed(names) if number % 2 else names:
            so_far = found[name]
            if isinstance(so_far, str):
                continue
            print(f"{script}, round {number + 1} of {count}: {name}", file=sys.stderr, flush=True)
            result = measured(python, script, name, *arguments)
            if isinstance(result, str):
                found[name] = result
            else:
                so_far.append(result)
    return found


def print_loops(python: Path, args: argparse.Namespace) -> None:
    numbers = ["--iterations", str(args.iterations), "--workers", str(args.workers)]
    found = rounds_of(python, "loops.py", list(loops.LOOPS), args.rounds, *numbers)
    print(
        f"\nCPU time an iteration costs over the raw loop: {args.workers} workers, "
        f"{args.iterations} iterations, {args.rounds} rounds, median (min–max)\n"
    )
    print(f"| {'':24}| raw loop | added | × igniter |\n|---|---|---|---|")
    ours = _added(found["igniter"])
    for name, results in found.items():
        if isinstance(results, str):
            print(f"| {name:24}| not measured: {results} | | |")
            continue
        added = _added(results)
        ratio = f"{statistics.median(added) / statistics.median(ours):.1f}" if ours else "?"
        plain = statistics.median(result["raw"] for result in results)
        print(f"| {name:24}| {plain:.0f} µs | {spread(added, '.0f')} µs | {ratio} |")


def _added(results: list[Any] | str) -> list[float]:
    if isinstance(results, str):
        return []
    return [result["peer"] - result["raw"] for result in results]


def print_saves(python: Path, args: argparse.Namespace) -> None:
    numbers = ["--megabytes", str(args.megabytes), "--saves", str(args.saves)]
    if args.directory:
        numbers += ["--directory", str(args.directory)]
    found = rounds_of(python, "saves.py", list(saves.METHODS), args.rounds, *numbers)
    print(
        f"\nA checkpoint of {args.megabytes:.0f} MB, {args.rounds} rounds of {args.saves} saves, "
        "of which two warm up; medians (min–max)\n"
    )
    print(
        "| | stands still | × a warm copy | the first | steps meanwhile | durable after "
        "| its rate over a plain write's | extra memory |\n|---|---|---|---|---|---|---|---|"
    )
    for name, results in found.items():
        if isinstance(results, str):
            print(f"| {name} | not measured: {results} | | | | | | |")
        else:
            print(_line_of_saves(name, results))


def _line_of_saves(name: str, results: list[dict[str, Any]]) -> str:
    def each(key: str) -> list[float]:
        return [value for result in results for value in result[key]]

    def one(key: str) -> float:
        return statistics.median(result[key] for result in results)

    copies = [stood / result["copy"] for result in results for stood in result["stood"]]
    cells = [
        f"{statistics.median(each('stood')):.3f} s",
        f"{spread(copies)} ×",
        f"{one('first'):.3f} s",
        f"{statistics.median(each('slower')):.2f} ×",
    ]
    if name in saves.NOT_DURABLE:
        cells += ["it is not", "–"]
    else:
        # A save and the plain write that followed it: the disk may be slower by the next.
        rates = [
            plain / durable
            for result in results
            for plain, durable in zip(result["plain"], result["durable"], strict=True)
        ]
        cells += [f"{statistics.median(each('durable')):.2f} s", f"{spread(rates, '.2f')} ×"]
    return f"| {name} | {' | '.join(cells)} | {one('extra_memory'):.2f} × |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", nargs="*", help="loops, saves; both by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--megabytes", type=float, default=720)
    parser.add_argument("--saves", type=int, default=5, help="in a process, two of them to warm up")
    parser.add_argument("--directory", type=Path, help="where checkpoints are written")
    args = parser.parse_args()
    tables = {"loops": print_loops, "saves": print_saves}
    unknown = set(args.which) - set(tables)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: there are {', '.join(tables)}")
    python = environment.prepare()
    print(machine(), flush=True)
    for name in args.which or tables:
        tables[name](python, args)


if __name__ == "__main__":
    main()
