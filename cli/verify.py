"""``igniter verify``: does a script end the same when it is stopped and started again?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from igniter.argument_types import STOP_SIGNALS, whole_number
from igniter.errors import UsageError

_SIGNALS = (*STOP_SIGNALS, "SIGKILL")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of ``igniter``."""
    parser = subparsers.add_parser(
        "verify",
        help="stop and resume a script, and compare",
        usage="igniter verify [options] SCRIPT [-- ARGS]",
        description="Train by SCRIPT straight and with stops, in directories that are thrown\n"
        "away, and tell whether both end bit for bit alike; where not, what differs first\n"
        "and the likely cause. Its runs and its tracking are neither read nor written.",
        epilog="exit code: 0 equal, 1 not equal or the script fails, 2 usage\n\n"
        "examples:\n  igniter verify train.py\n"
        "  igniter verify --stops 5 --epoch-length 50 train.py -- --batch-size 8",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    count = whole_number(1)
    add = parser.add_argument
    add("--stops", type=count, default=3, metavar="N", help="how many stops (default: 3)")
    signals = "the signals, with commas between, used in turn (default: TERM,KILL)"
    default = ("SIGTERM", "SIGKILL")
    add("--signals", type=_signal_names, default=default, metavar="NAMES", help=signals)
    epochs = "train for N epochs at most (default: 2)"
    add("--max-epochs", type=count, default=2, metavar="N", help=epochs)
    iterations = "train for N iterations at most (default: no limit)"
    add("--max-iterations", type=count, metavar="N", help=iterations)
    length = "N iterations an epoch at most (default: no limit)"
    add("--epoch-length", type=count, metavar="N", help=length)
    seed = "of where the stops fall (default: drawn, and printed)"
    add("--seed", type=whole_number(0), metavar="N", help=seed)
    kernels = "use torch's deterministic kernels throughout"
    add("--deterministic", action="store_true", help=kernels)
    add("--keep", action="store_true", help="keep the directories, and print where they are")
    add("script", metavar="SCRIPT", type=Path, help="the script that trains")
    arguments = "its own arguments; all that follows SCRIPT"
    add("arguments", metavar="ARGS", nargs=argparse.REMAINDER, help=arguments)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Verify the script. Returns 0 where it ends the same, otherwise 1."""
    if not args.script.is_file():
        raise UsageError(f"there is no script {args.script}")
    from igniter.verify.driver import Options, drawn_seed, verify  # imports torch

    # Before Python 3.13 argparse leaves the dashes.
    arguments = args.arguments[1:] if args.arguments[:1] == ["--"] else args.arguments
    equal = verify(
        [sys.executable, str(args.script), *arguments],
        Options(
            seed=drawn_seed() if args.seed is None else args.seed,
            stops=args.stops,
            signals=args.signals,
            max_epochs=args.max_epochs,
            max_iterations=args.max_iterations,
            epoch_length=args.epoch_length,
            deterministic=args.deterministic,
            keep=args.keep,
        ),
    )
    return 0 if equal else 1


def _signal_names(text: str) -> tuple[str, ...]:
    names = []
    for part in text.split(","):
        name = f"SIG{part.strip().upper().removeprefix('SIG')}"
        if name not in _SIGNALS:
            raise argparse.ArgumentTypeError(f"'{part}' is not one of {', '.join(_SIGNALS)}")
        names.append(name)
    return tuple(dict.fromkeys(names))
