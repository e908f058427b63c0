"""Which arguments shape the result, their hash, and how two sets of them differ."""

from __future__ import annotations

import enum
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from igniter.intervals import Interval
from igniter.secrets import mask_mapping

FREE: frozenset[str] = frozenset(
    {
        "config",
        "print_config",
        "subcommand",
        "eval_only",
        "checkpoint",
        "stop_after",
        "output_dir",
        "checkpoint_dir",
        "model_dir",
        "resume",
        "strict",
        "override",
        "break_lock",
        "deterministic",
        "device",
        "compile",
        "workers",
        "max_epochs",
        "max_iterations",
        "on_nan",
        "stop_signals",
        "save_every",
        "keep_last",
        "keep_every",
        "keep_best",
        "best_metric",
        "best_mode",
        "eval_batch_size",
        "eval_every",
        "log_every",
        "print_every",
        "progress",
        "picture",
        "export",
        "tensorboard",
        "mlflow",
        "mlflow_offline",
        "mlflow_tracking_uri",
        "mlflow_experiment_name",
        "mlflow_run_name",
        "mlflow_tracking_username",
        "mlflow_system_metrics",
        "mlflow_log_model",
        "mlflow_register_model",
        "mlflow_log_checkpoints",
        "mlflow_log_git_diff",
        "mlflow_tags",
        "mlflow_description",
        "mlflow_parent_run_id",
    }
)
"""igniter's own arguments that do not shape the result: they may change from start to start."""

CAME_LATER: Mapping[str, Any] = {
    "limit_batches": None,
    "precision": "fp32",
    "accumulate": 1,
    "clip_norm": None,
    "clip_value": None,
}
"""igniter's own arguments that earlier versions lacked: at these values they count as absent, so
that a run begun with an earlier version is still found, and the same."""

ABSENT = "(absent)"
"""Stands for the value of an argument that one of two sets does not have."""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(frozen=True)
class Difference:
    """An argument with another value than before; :data:`ABSENT` where it was not there."""

    name: str
    old: Any
    new: Any

    def __str__(self) -> str:
        """The name with both values, for a message."""
        return f"{self.name}: {self.old} → {self.new}"


def plain(value: Any) -> Any:
    """``value`` in the types that YAML and JSON share.

    Paths, intervals and unknown objects become text, tuples and sets lists, enum members their
    values and numpy's scalars Python's.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum):
        return plain(value.value)
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)  # numpy.float64 is a float, and yaml refuses it
    if isinstance(value, (PurePath, Interval)):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=_canonical)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return plain(value.item())
    # An object's default text holds its address, which is another one in every process.
    return _ADDRESS.sub("", str(value))


def shaping(arguments: Mapping[str, Any], free: Iterable[str] = ()) -> dict[str, Any]:
    """The arguments that shape the result, plain, sorted by name, secrets masked.

    ``free`` names further arguments, of the user's own, that do not shape it.
    """
    left_out = FREE.union(free)
    kept = {name: plain(arguments[name]) for name in sorted(arguments) if name not in left_out}
    for name, value in CAME_LATER.items():
        if name in kept and kept[name] == value:
            del kept[name]
    return mask_mapping(kept)


def digest(shaping: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that name the set of arguments.

    The same in every process. Numbers count by value: ``1`` and ``1.0`` are the same, as they
    are after a round through YAML; ``True`` and ``1`` are not.
    """
    return hashlib.sha256(_canonical(shaping).encode()).hexdigest()[:8]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """Each argument whose value differs, sorted by name; equal by the rule of :func:`digest`."""
    return [
        Difference(name, old.get(name, ABSENT), new.get(name, ABSENT))
        for name in sorted({*old, *new})
        if name not in old or name not in new or _canonical(old[name]) != _canonical(new[name])
    ]


def _canonical(value: Any) -> str:
    return json.dumps(_whole_floats_as_int(plain(value)), sort_keys=True, separators=(",", ":"))


def _whole_floats_as_int(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole_floats_as_int(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole_floats_as_int(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
