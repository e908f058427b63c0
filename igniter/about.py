"""What a run is told by its user besides what it trains: how it is described, what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class About:
    """Functions of the user's that the run calls at their times.

    Args:
        banner: when the run begins, for lines to show.
        metadata: at each checkpoint, for plain data to put in its manifest.
        exported: when the run completes, for the modules or states of tensors to export, by name;
            None for the modules of ``to_save``.
        model: what is trained, as plain data for manifests and beside the exported weights.
    """

    banner: Callable[[], Sequence[str]] = tuple
    metadata: Callable[[], Mapping[str, Any]] = dict
    exported: Callable[[], Mapping[str, Any]] | None = None
    model: Mapping[str, Any] | None = None
