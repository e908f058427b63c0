"""What ``train`` hands back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Result:
    """The outcome of one call of ``train``.

    ``iteration`` and ``epoch`` count what is done over the whole run, not since the last start.
    ``metrics`` holds the latest value of every metric under the name it is logged by
    (``train/loss``, ``eval/accuracy``). ``signal`` is the signal's number when ``status`` is
    ``interrupted`` and a signal was the cause. ``history`` maps each name to its
    (iteration, value) pairs over all attempts; it is read from the journal when it is asked for.
    """

    status: Literal["completed", "interrupted"]
    iteration: int
    epoch: int
    metrics: Mapping[str, float]
    run_dir: Path
    best_checkpoint: Path | None = None
    mlflow_run_id: str | None = None
    signal: int | None = None
    history: Mapping[str, list[tuple[int, float]]] = field(
        default_factory=dict, repr=False, compare=False
    )
