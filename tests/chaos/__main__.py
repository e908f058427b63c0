"""``python -m chaos``: rounds from a seed, a line for each, and a report at the end."""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

import scripts.zygote  # noqa: F401  what every process forked below has imported

from chaos import report
from chaos.plans import MOMENTS, draw
from chaos.process import adopt_orphans
from chaos.rounds import Round, Straights, Tally


def main() -> int:
    """Run; return 0 where nothing differed."""
    args = _arguments()
    seed = args.seed if args.seed is not None else secrets.randbelow(1_000_000)
    numbers = [args.only] if args.only is not None else range(1, args.rounds + 1)
    print(f"chaos: seed {seed}, {len(numbers)} rounds", flush=True)
    adopt_orphans()
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir=args.folder))
    straights, tally = Straights(folder, args.broken), Tally()
    begun = time.monotonic()
    failed: list[int] = []
    for number in numbers:
        if args.seconds is not None and time.monotonic() - begun > args.seconds:
            break
        plan = draw(seed, number, mlflow=args.mlflow, moments=tuple(args.moments or MOMENTS))
        straight = straights.of(plan.shape)
        since = time.monotonic()
        a_round = Round(plan, folder / f"round-{number}", tally, args.broken)
        wrong = a_round.play(straight)
        tally.rounds += 1
        print(report.line(number, wrong, time.monotonic() - since), flush=True)
        if wrong:
            failed.append(number)
            print(report.details(seed, number, plan, a_round, wrong), flush=True)
            if args.exit_first:
                break
        else:
            shutil.rmtree(folder / f"round-{number}")
    print(report.summary(tally, failed, time.monotonic() - begun))
    tame = report.tame(tally)
    if tame:
        print(f"the chaos is tame, too few of: {', '.join(tame)}")
    if not failed:
        shutil.rmtree(folder)
    return int(bool(failed or tame))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="how many at most")
    parser.add_argument("--seconds", type=float, help="begin no round after so many")
    parser.add_argument("--seed", type=int, help="default: another one each time")
    parser.add_argument("-x", "--exit-first", action="store_true", help="end where one is wrong")
    parser.add_argument("--only", type=int, metavar="ROUND", help="this round alone")
    parser.add_argument("--folder", type=Path, help="where to keep the runs; default: /tmp")
    parser.add_argument("--no-mlflow", dest="mlflow", action="store_false")
    parser.add_argument("--moments", nargs="+", choices=MOMENTS, help="these alone")
    parser.add_argument("--broken", default="", help="plant a fault: scheduler or atomic")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
