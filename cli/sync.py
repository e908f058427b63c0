"""``igniter sync``: send to MLflow what it lacks of runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from igniter.errors import RunRefused, UsageError
from igniter.rundir import Paths
from igniter.tracking.display import Display
from igniter.tracking.state import Outcome, State, count_unsent
from igniter.tracking.sync import sync_run
from igniter.tracking.uri import resolve

from . import found


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of ``igniter``."""
    parser = subparsers.add_parser(
        "sync",
        help="send to MLflow what it lacks",
        description="Send to MLflow what it lacks of the runs found in directories: after an\n"
        "outage, or from a machine that could not reach it. Safe to run any number of\n"
        "times, while runs train too.",
        epilog="exit codes:\n  0 all was sent\n  1 something could not be sent\n"
        "  2 no runs, or a usage error\n  3 the record of a run cannot be read\n\n"
        "examples:\n  igniter sync\n"
        "  igniter sync output/train-1a2b3c4d --tracking-uri http://mlflow.example.org",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "directories",
        metavar="DIR",
        nargs="*",
        type=Path,
        help="where to look, five levels deep (default: output, or else the working directory)",
    )
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="send there instead of where each run was told to"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Send the runs, a line each; see the exit codes above."""
    if args.tracking_uri is not None:
        resolve(args.tracking_uri, Path.cwd())
    places = found.directories(args.directories)
    runs = dict.fromkeys(path for place in places for path in found.run_directories(place))
    if not runs:
        raise UsageError(f"no runs in {', '.join(str(place.absolute()) for place in places)}")
    display = Display("auto")
    codes = [_sync(path, args.tracking_uri, display) for path in runs]
    return max(codes)


def _sync(path: Path, tracking_uri: str | None, display: Display) -> int:
    """Send one run and say how that went; return the exit code for it."""

    said: set[str] = set()

    def warn(text: str) -> None:
        if text not in said:
            said.add(text)
            display.warn(f"{path}: {text}")

    paths = Paths(path)
    # Where it is to be sent may not be where it was sent last: then all of it goes.
    offset = 0 if tracking_uri else State.load(paths.tracking).destination.offset
    total = count_unsent(paths.journal, offset)
    try:
        with display.counting(f"{path.name}: sent", total, "values") as progress:
            outcome = sync_run(path, tracking_uri=tracking_uri, warn=warn, progress=progress)
    except RunRefused as error:
        warn(str(error))
        return error.exit_code
    display.say(f"{path}: {_said(outcome)}")
    if outcome.problem is None:
        return 0
    warn(outcome.problem)
    return 1


def _said(outcome: Outcome) -> str:
    run = "" if outcome.run_id is None else f", MLflow run {outcome.run_id}"
    if outcome.by_another:
        return f"is being trained, and sent meanwhile: {outcome.left} values to go{run}"
    if not (outcome.sent or outcome.left or outcome.problem):
        return f"up to date (MLflow run {outcome.run_id})"
    return f"{outcome.sent} values sent, {outcome.left} left{run}"
