"""Which checkpoint of a run to look at: the best, the latest, or one that is named.

The run is left as it is, and may be trained by another process meanwhile: what is looked at may be
removed for something newer at any moment.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from igniter.checkpoint import files
from igniter.checkpoint.files import Loaded
from igniter.checkpoint.manifest import Checkpoint, scan
from igniter.checkpoint.store import load
from igniter.errors import CheckpointDamaged, NoUsableCheckpoint
from igniter.rundir import Paths, RunRecord


def select(which: Path | str | None, paths: Paths, warn: Callable[[str], None]) -> Loaded:
    """The checkpoint that ``which`` says: ``best``, ``latest``, or a path.

    With None it is the best where the run has one, else the latest.

    Raises:
        NoUsableCheckpoint: there is none.
        CheckpointDamaged: the best, or the one named, does not verify.
        RunRefused: it cannot be read for a reason that may pass, or a newer igniter wrote it.
    """
    if which not in (None, "best", "latest"):
        return load(Path(which))
    if which != "latest":
        best = _best(paths)
        if best is not None:
            return best
    if which == "best":
        raise NoUsableCheckpoint(
            f"the run in {paths.root} has no best checkpoint: train it with --best-metric, such as "
            "eval/loss, or take the newest with --checkpoint latest"
        )
    latest = _latest(paths, warn)
    if latest is None:
        raise NoUsableCheckpoint(
            f"there is no usable checkpoint in {paths.checkpoints}. Train first, with the same "
            "arguments; or name the run with --output-dir, or a checkpoint with --checkpoint PATH"
        )
    return latest


def _best(paths: Paths) -> Loaded | None:
    """The best by ``run.yaml``; the link beside the checkpoints is for people."""
    before = None
    while (best := _ranked_first(paths)) is not None and best != before:
        before = best
        for checkpoint in scan(paths.checkpoints):
            if checkpoint.iteration != best["iteration"]:
                continue
            # The first is the one whose value it was, before what the run's end brings.
            try:
                return files.load_at_position(checkpoint)
            except CheckpointDamaged as error:
                if checkpoint.path.exists():
                    raise CheckpointDamaged(
                        f"{error}\nIt is the best by {best['metric']}; the newest is taken with "
                        "--checkpoint latest."
                    ) from error
        # It is gone: training has found a better one, or somebody took it away.
    return None


def _ranked_first(paths: Paths) -> dict[str, Any] | None:
    return RunRecord.load(paths.run_yaml).best if paths.run_yaml.exists() else None


def _latest(paths: Paths, warn: Callable[[str], None]) -> Loaded | None:
    gone = True

    def pass_over(checkpoint: Checkpoint, error: CheckpointDamaged) -> None:
        nonlocal gone
        if checkpoint.path.exists():
            warn(f"{error}\nThe checkpoint before it is used.")
        else:
            gone = True  # removed since it was listed, for a newer one

    loaded = None
    while gone:
        gone = False
        loaded = files.newest_in(paths.checkpoints, pass_over)
    return loaded
