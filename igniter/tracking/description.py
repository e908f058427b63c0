"""What MLflow is told of a run besides its values: its key, its tags, how and when it ended."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from igniter.checkpoint import manifest
from igniter.checkpoint.manifest import Checkpoint
from igniter.errors import RunRefused
from igniter.rundir import Paths, RunRecord
from igniter.secrets import mask_uri

_STATUS = {
    "running": "KILLED",
    "completed": "FINISHED",
    "interrupted": "KILLED",
    "failed": "FAILED",
}


def creation_key(record: RunRecord) -> str:
    """Return what names the run among all others, wherever its directory is moved or copied to."""
    first = record.attempts[0]
    born = f"{record.identity}|{first.start}|{first.host}|{first.pid}"
    return hashlib.sha256(born.encode()).hexdigest()[:32]


def tags(record: RunRecord, root: Path) -> dict[str, str]:
    """Return the tags of the run in ``root``, as its last attempt has them."""
    attempt = record.attempts[-1]
    found = {
        "mlflow.source.name": record.script,
        "mlflow.source.type": "LOCAL",
        "igniter.identity": record.identity,
        "igniter.run_dir": str(root.absolute()),
        "igniter.host": attempt.host,
        "igniter.attempts": str(len(record.attempts)),
        "igniter.command": shlex.join(attempt.command),
        "igniter.resume_command": attempt.resume_command,
    }
    if attempt.git_commit:
        found["mlflow.source.git.commit"] = attempt.git_commit
    return found


def given_tags(record: RunRecord) -> dict[str, str]:
    """Return the tags and the description that the user gave the run."""
    tracking = record.tracking or {}
    given = {str(name): str(value) for name, value in (tracking.get("tags") or {}).items()}
    text = tracking.get("description")
    return given if text is None else {**given, "mlflow.note.content": str(text)}


def checkpoints(paths: Paths, record: RunRecord) -> dict[str, Checkpoint]:
    """Return the ``last`` checkpoint and the ``best``, as far as there are such now."""
    try:
        there = manifest.scan(paths.checkpoints)
    except RunRefused:
        return {}
    best = None if record.best is None else record.best.get("iteration")
    at_best = [checkpoint for checkpoint in there if checkpoint.iteration == best]
    found = {"last": there[-1:], "best": at_best[:1]}
    return {name: chosen[0] for name, chosen in found.items() if chosen}


def checkpoint_tags(paths: Paths, record: RunRecord) -> dict[str, str]:
    """Return the tags that lead from the run to its last and best checkpoints."""
    tags = {}
    for name, checkpoint in checkpoints(paths, record).items():
        tags[f"igniter.checkpoint.{name}"] = str(checkpoint.path.absolute())
        tags[f"igniter.checkpoint.{name}.iteration"] = str(checkpoint.iteration)
    return tags


@dataclass(frozen=True)
class DataSet:
    """A data set as MLflow has it: known by name and digest, ``context`` being what it is for.

    ``source`` and ``profile`` become JSON: where it is from, and what there is to say of it.
    """

    name: str
    context: str
    digest: str
    source: Mapping[str, Any]
    profile: Mapping[str, Any]


def data_sets(record: RunRecord) -> list[DataSet]:
    """Return what the run's loaders load, and the files and directories among its inputs.

    An input's digest is that of the names and sizes of its files.
    """
    found = [
        DataSet(f"{name} loader", name, _digest(what), {"class": what["class"]}, what)
        for name, what in record.datasets.items()
    ]
    for name, seen in record.attempts[-1].inputs.items():
        source = mask_uri(str(record.parameters.get(name, name)))
        known = seen or {}
        digest = known.get("digest") or _digest(source)
        found.append(DataSet(name, "input", digest, {"uri": source}, known))
    return found


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def final_status(record: RunRecord) -> str:
    """Return MLflow's word for how the run ended; one recorded as running was killed."""
    return _STATUS[record.status]


def begun(record: RunRecord) -> int:
    """Return when the run was first started, in ms since 1970."""
    return _milliseconds(record.attempts[0].start)


def ended(record: RunRecord, journal: Path) -> int:
    """Return when the run ended, in ms since 1970: where it was killed, the last sign of life."""
    end = record.attempts[-1].end
    if end is not None:
        time = _milliseconds(end)
    elif journal.exists():
        time = int(journal.stat().st_mtime * 1000)
    else:
        time = _milliseconds(record.attempts[-1].start)
    # The clock may have been set back in between.
    return max(time, begun(record))


def _milliseconds(time: str) -> int:
    return round(datetime.fromisoformat(time).timestamp() * 1000)
