"""``igniter show RUN``: all that is known of one run."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from igniter.tracking.state import State, count_unsent

from . import found, runs, text


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of ``igniter``."""
    parser = subparsers.add_parser(
        "show",
        help="show one run: arguments, attempts, checkpoints, how to resume",
        description="Show all that is known of one run.",
        epilog="examples:\n  igniter show output/train-1a2b3c4d\n"
        "  igniter show train-1a2b3c4d --verify",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="RUN", help="a run's directory, or its name in output")
    parser.add_argument("--verify", action="store_true", help="check every checkpoint's files")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the run. Returns 3 if a checkpoint was found damaged, otherwise 0."""
    run = found.named_run(args.name)
    checkpoints = found.checkpoints(run.paths.checkpoints, verify=args.verify)
    if args.json:
        print(text.as_json(_as_json(run, checkpoints)))
    else:
        print("\n".join(_lines(run, checkpoints)))
    return 3 if any(checkpoint.damage for checkpoint in checkpoints) else 0


def _as_json(run: found.FoundRun, checkpoints: Sequence[found.FoundCheckpoint]) -> dict[str, Any]:
    return {
        **dataclasses.asdict(run.record),
        **runs.summary(run),
        "attempts": [dataclasses.asdict(attempt) for attempt in run.record.attempts],
        "checkpoints": [dataclasses.asdict(checkpoint) for checkpoint in checkpoints],
        "mlflow": dataclasses.asdict(State.load(run.paths.tracking)),
    }


def _lines(run: found.FoundRun, checkpoints: Sequence[found.FoundCheckpoint]) -> list[str]:
    record = run.record
    lines = [
        f"{run.paths.root}: {run.status}",
        f"  identity    {record.identity}",
        f"  script      {record.script}",
        f"  iteration   {text.progress(record.iteration, record.total_iterations)}"
        f" (epoch {record.epoch})",
    ]
    if record.metrics:
        lines.append(f"  metrics     {text.metrics(record.metrics)}")
    if record.best:
        best = record.best
        lines.append(
            f"  best        {best.get('metric')} {best.get('value')} "
            f"at iteration {best.get('iteration')}"
        )
    lines += [f"  mlflow      {line}" for line in _mlflow(run)]
    lines += ["", "arguments that shape the result"]
    lines += [f"  {name} = {value}" for name, value in record.arguments.items()] or ["  none"]
    lines += ["", "attempts"]
    lines += [f"  {line}" for line in text.table(_attempts(run))]
    lines += ["", f"checkpoints in {run.paths.checkpoints}"]
    lines += [f"  {line}" for line in text.table(_checkpoints(checkpoints))]
    if record.attempts:
        verb = "train it on" if record.status == "completed" else "resume it"
        lines += ["", f"to {verb}:", f"  {record.attempts[-1].resume_command}"]
    return lines


def _mlflow(run: found.FoundRun) -> list[str]:
    state = State.load(run.paths.tracking)
    destination = state.destination
    if state.current is None:
        return ["off" if run.record.tracking is None else "nothing sent yet"]
    lines = [f"run {destination.run_id or 'not made yet'} at {state.current}"]
    left = count_unsent(run.paths.journal, destination.offset)
    if left:
        lines.append(f"{left} values not sent yet: igniter sync {run.paths.root}")
    if destination.problem:
        lines.append(f"last problem: {destination.problem}")
    return lines


def _attempts(run: found.FoundRun) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("#", "START", "END", "FROM", "OUTCOME", "HOST", "REASON")]
    for attempt in run.record.attempts:
        killed = attempt.outcome == "running" and not run.live
        outcome = "killed" if killed else attempt.outcome
        rows.append(
            (
                str(attempt.number),
                attempt.start[:19],
                (attempt.end or "-")[:19],
                str(attempt.from_iteration),
                outcome,
                attempt.host,
                attempt.reason or "",
            )
        )
    return rows


def _checkpoints(checkpoints: Sequence[found.FoundCheckpoint]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("NAME", "EPOCH", "SIZE", "REASON", "")]
    for each in checkpoints:
        epoch = "-" if each.epoch is None else str(each.epoch)
        verdict = each.damage or ("verified" if each.verified else "")
        rows.append((each.name, epoch, text.size(each.size), each.reason or "-", verdict))
    return rows
