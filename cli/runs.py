"""``igniter runs``: the runs in a directory, a line each."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from igniter.rundir import RunRecord

from . import found, text


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of ``igniter``."""
    parser = subparsers.add_parser(
        "runs",
        help="list runs: status, progress, a metric",
        description="List the runs found in directories, newest first: status, progress, a metric.",
        epilog="examples:\n  igniter runs\n  igniter runs output /scratch/me --json",
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
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the list. Returns 3 if the record of a run could not be read, otherwise 0."""
    runs, problems = found.find_runs(args.directories)
    if args.json:
        print(text.as_json([summary(each) for each in runs]))
    elif runs:
        print("\n".join(text.table([_HEADING, *(_row(each, time.time()) for each in runs)])))
    elif not problems:
        places = ", ".join(str(place.absolute()) for place in found.directories(args.directories))
        print(f"no runs in {places}")
    for problem in problems:
        print(f"igniter: {problem}", file=sys.stderr)
    return 3 if problems else 0


def summary(run: found.FoundRun) -> dict[str, Any]:
    """Return what the list says of a run, as JSON has it."""
    record = run.record
    return {
        "directory": str(run.paths.root),
        "name": record.name,
        "status": run.status,
        "iteration": record.iteration,
        "total_iterations": record.total_iterations,
        "epoch": record.epoch,
        "metrics": record.metrics,
        "attempts": len(record.attempts),
        "checkpoints": len(found.checkpoints(run.paths.checkpoints)),
        "last_activity": run.last_activity,
    }


_HEADING = ("RUN", "STATUS", "ITERATION", "EPOCH", "ATTEMPTS", "CKPTS", "ACTIVE", "METRIC")


def _row(run: found.FoundRun, now: float) -> tuple[str, ...]:
    record = run.record
    return (
        str(run.paths.root),
        run.status,
        text.progress(record.iteration, record.total_iterations),
        str(record.epoch),
        str(len(record.attempts)),
        str(len(found.checkpoints(run.paths.checkpoints))),
        text.ago(now - run.last_activity),
        text.metrics(_telling(record)),
    )


def _telling(record: RunRecord) -> dict[str, float]:
    """The one metric to judge the run by: the best so far, else an evaluation's, else the loss."""
    if record.best:
        return {f"best {record.best['metric']}": record.best["value"]}
    followed = record.parameters.get("best_metric")
    evaluated = [name for name in record.metrics if not name.startswith("train/")]
    names = (followed, *evaluated, "train/loss", *record.metrics)
    return next(({name: record.metrics[name]} for name in names if name in record.metrics), {})
