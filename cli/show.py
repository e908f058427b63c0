"""``igniter show RUN``: all that is known of one run."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from igniter.options import end_of_options
from igniter.provenance import without
from igniter.rundir import RunRecord
from igniter.secrets import MASK
from igniter.tracking.records import read
from igniter.tracking.state import State, count_unsent

from . import found, runs, text

# What is shown of a journal besides the metrics, and under which heading.
_GROUPS = {"lr": "rates", "perf": "speed"}
# How much of its end is read for that, in bytes.
_TAIL = 65_536


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of ``igniter``."""
    parser = subparsers.add_parser(
        "show",
        help="show one run: arguments, attempts, checkpoints, how to resume",
        description="Show all that is known of one run.",
        epilog="examples:\n  igniter show output/train-1a2b3c4d\n  igniter show 1a2b3c4d --verify",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="RUN", help="a run's directory, or a part of its name")
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
        "latest": _latest(run),
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
    lines += [f"  {group:<11} {text.metrics(values)}" for group, values in _latest(run).items()]
    if record.best:
        best = record.best
        value = text.metrics({best["metric"]: best["value"]})
        lines.append(f"  best        {value} at iteration {best['iteration']}")
    labels = itertools.chain(["mlflow"], itertools.repeat(""))
    lines += [f"  {label:<11} {line}" for label, line in zip(labels, _mlflow(run), strict=False)]
    lines += ["", "arguments that shape the result"]
    shown = {name: text.value(value) for name, value in record.arguments.items()}
    lines += [f"  {name} = {value}" for name, value in shown.items()] or ["  none"]
    lines += ["", "attempts", *text.table(_attempts(run), indent="  ")]
    lines += ["", f"checkpoints in {run.paths.checkpoints}"]
    lines += text.table(_checkpoints(checkpoints, record.best), indent="  ")
    if record.attempts and run.status != "running":
        lines += ["", *_how_to_go_on(record)]
    return lines


def _how_to_go_on(record: RunRecord) -> list[str]:
    command = record.attempts[-1].resume_command
    if record.status != "completed":
        lines = ["to resume it:", f"  {command}"]
    elif isinstance(record.parameters.get("max_epochs"), int):
        lines = ["to train it on:", f"  {_longer(command, record)}"]
    else:
        lines = ["to train it on, with more epochs than before:", f"  {command}"]
    if MASK in command:
        lines.append(f"  (put the values in for {MASK})")
    return lines


def _longer(command: str, record: RunRecord) -> str:
    """``command`` with one epoch more than the run was told to do, or did."""
    epochs = max(record.parameters["max_epochs"], record.epoch) + 1
    argv = without(shlex.split(command), valued=("--max-epochs", "--max-iterations"))
    end = end_of_options(argv)
    return shlex.join([*argv[:end], "--max-epochs", str(epochs), *argv[end:]])


def _latest(run: found.FoundRun) -> dict[str, dict[str, float]]:
    """The learning rates and the speed at the last log point, as the journal's end has them."""
    latest: dict[str, dict[str, float]] = {}
    journal = run.paths.journal
    start = max(0, journal.stat().st_size - _TAIL) if journal.exists() else 0
    for record in read(journal, start):
        for name, value in record.metrics.items():
            group, _, rest = name.partition("/")
            if group in _GROUPS and not record.repeat:
                latest.setdefault(_GROUPS[group], {})[rest or group] = value
    return latest


def _mlflow(run: found.FoundRun) -> list[str]:
    state = State.load(run.paths.tracking)
    destination = state.destination
    if state.current is None:
        if run.record.tracking is None:
            return ["off"]
        return [f"nothing sent yet; to send it: igniter sync {run.paths.root}"]
    lines = [f"run {destination.run_id or 'not made yet'} at {state.current}"]
    left = count_unsent(run.paths.journal, destination.offset)
    if left:
        how = "being sent" if run.live else f"not sent yet: igniter sync {run.paths.root}"
        lines.append(f"{left} values {how}")
    if destination.problem:
        lines.append(f"last problem: {destination.problem}")
    return lines


def _attempts(run: found.FoundRun) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("#", "START (UTC)", "END (UTC)", "ITERATIONS", "OUTCOME", "HOST", "REASON")
    ]
    attempts = run.record.attempts
    ends: list[int | None] = [attempt.from_iteration for attempt in attempts[1:]]
    if attempts:
        ends.append(None if run.status == "running" else run.record.iteration)
    for attempt, end in zip(attempts, ends, strict=True):
        killed = attempt.outcome == "running" and not run.live
        outcome = "killed" if killed else attempt.outcome
        rows.append(
            (
                str(attempt.number),
                attempt.start[:19],
                (attempt.end or "–")[:19],
                _span(attempt.from_iteration, end),
                outcome,
                attempt.host,
                attempt.reason or "",
            )
        )
    return rows


def _span(done: int, end: int | None) -> str:
    """The iterations of an attempt that began with ``done`` of them and of which ``end`` counted.

    Unknown is the end of one that is at work, or that was gone back behind later.
    """
    if end == done:
        return "none"
    return f"{done + 1}–" if end is None or end < done else f"{done + 1}–{end}"


def _checkpoints(
    checkpoints: Sequence[found.FoundCheckpoint], best: Mapping[str, Any] | None
) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("NAME", "EPOCH", "SIZE", "REASON", "")]
    # Of two of one iteration the last is the final one, which `best` points to.
    of_best = [each for each in checkpoints if best and each.iteration == best["iteration"]]
    for each in checkpoints:
        epoch = "–" if each.epoch is None else str(each.epoch)
        verdict = each.damage or ("verified" if each.verified else "")
        notes = "  ".join(filter(None, ("best" if each in of_best[-1:] else "", verdict)))
        rows.append((each.name, epoch, text.size(each.size), each.reason or "–", notes))
    return rows
