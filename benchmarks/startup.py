"""What ``--help`` costs over the imports that the script makes itself, in wall time.

Two processes in turn: the digits example with ``--help``, and a file that holds its imports of
other libraries alone.

    python benchmarks/startup.py [--pairs 7]
"""

from __future__ import annotations

import argparse
import ast
import statistics
import subprocess
import sys
import time
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent / "examples" / "digits" / "train.py"


def imports_alone() -> str:
    tree = ast.parse(EXAMPLE.read_text())
    lines = [
        ast.unparse(node)
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom)) and "igniter" not in ast.unparse(node)
    ]
    return "\n".join(lines)


def seconds(*command: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    pairs = parser.parse_args().pairs
    code = imports_alone()
    seconds("-c", code)  # the file cache
    measured = [(seconds("-c", code), seconds(str(EXAMPLE), "--help")) for _ in range(pairs)]
    added = [ours - theirs for theirs, ours in measured]
    print(f"imports alone {statistics.median(m[0] for m in measured):.2f} s, "
          f"--help {statistics.median(m[1] for m in measured):.2f} s, "
          f"added {statistics.median(added):.2f} s "
          f"({min(added):.2f}–{max(added):.2f}) over {pairs} pairs")  # fmt: skip


if __name__ == "__main__":
    main()
