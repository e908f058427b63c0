"""``igniter sync``: send to MLflow what it lacks of runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from igniter.errors import UsageError
from igniter.tracking.state import Outcome
from igniter.tracking.sync import sync_run

from . import found


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of ``igniter``."""
    parser = subparsers.add_parser(
        "sync",
        help="send to MLflow what it lacks",
        description="Send to MLflow what it lacks of the runs found in directories: after an\n"
        "outage, or from a machine that could not reach it. Safe to run any number of\ntimes.",
        epilog="examples:\n  igniter sync\n"
        "  igniter sync output/train-1a2b3c4d --tracking-uri http://mlflow.example.org",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "directories",
        metavar="DIR",
        nargs="*",
        type=Path,
        help="where to look, three levels deep (default: output, or else the working directory)",
    )
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="send there instead of where each run was told to"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Send the runs, a line each. Returns 1 if one could not be sent wholly, otherwise 0."""
    places = found.directories(args.directories)
    runs = [path for place in places for path in found.run_directories(place)]
    if not runs:
        raise UsageError(f"no runs in {', '.join(str(place.absolute()) for place in places)}")
    code = 0
    for path in runs:
        outcome = sync_run(path, tracking_uri=args.tracking_uri, warn=_warn)
        print(f"{path}: {_said(outcome)}", flush=True)
        if outcome.problem is not None:
            _warn(f"{path}: {outcome.problem}")
            code = 1
    return code


def _said(outcome: Outcome) -> str:
    if not (outcome.sent or outcome.left or outcome.problem):
        return f"up to date (MLflow run {outcome.run_id})"
    run = "" if outcome.run_id is None else f", MLflow run {outcome.run_id}"
    return f"{outcome.sent} values sent, {outcome.left} left{run}"


def _warn(text: str) -> None:
    print(f"igniter: {text}", file=sys.stderr)
