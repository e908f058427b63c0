"""A saved model as it is read: from a checkpoint, a run, or an export."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from igniter import yamlfile
from igniter.checkpoint.files import Loaded
from igniter.checkpoint.keys import module_state
from igniter.checkpoint.manifest import MANIFEST
from igniter.checkpoint.store import load
from igniter.errors import NoUsableCheckpoint, RunRefused, UsageError
from igniter.export import file_of, read_tensors
from igniter.models.description import Description
from igniter.rundir import Paths
from igniter.selection import select
from igniter.signature import MODEL


@dataclass(frozen=True)
class SavedModel:
    """What is known of a saved model: where it is from, what it is made of, states by name.

    ``groups`` are the names of the parameters in each group of each optimizer. An ``exported`` one
    has a file for each module instead of states.
    """

    origin: str
    description: Description
    states: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Any] = field(default_factory=dict)
    exported: Path | None = None

    def called(self, origin: str) -> SavedModel:
        """It as from ``origin``."""
        return replace(self, origin=origin)

    def state_of(self, name: str, module: torch.nn.Module) -> Mapping[str, Any] | None:
        """The state of the module ``name``, None where there is none."""
        if self.exported is None:
            state: Mapping[str, Any] | None = self.states.get(name)
            return state
        file = file_of(self.exported, name)
        return _whole(read_tensors(file), module_state(module)) if file.exists() else None


def saved_at(path: Path) -> SavedModel:
    """The model in the directory ``path``: of a checkpoint, a run, or an export.

    Raises:
        UsageError: there is none, or it was not saved by a :class:`~igniter.Model`.
        RunRefused: it cannot be used.
    """
    if (path / MODEL).exists():
        return _exported(path)
    if (path / MANIFEST).exists():
        return _checkpoint(load(path))
    if not path.is_dir():
        raise UsageError(f"there is no directory {path}")
    paths = Paths(path)
    try:
        is_run = paths.run_yaml.exists() or paths.checkpoints.exists()
        return _checkpoint(select(None, paths, warnings.warn) if is_run else load(path))
    except NoUsableCheckpoint as error:
        raise NoUsableCheckpoint(
            f"there is no model in {path}: no checkpoint, no {MODEL}. Name a run's directory, one "
            "of its checkpoints, or an exported model"
        ) from error


def _checkpoint(loaded: Loaded) -> SavedModel:
    origin = str(loaded.checkpoint.path)
    described = _known(loaded.manifest.get("model"), origin)
    return SavedModel(origin, described, loaded.state, loaded.rank_state["groups"])


def _exported(path: Path) -> SavedModel:
    try:
        described = _known(yamlfile.load(path / MODEL), str(path))
    except OSError as error:
        raise RunRefused(f"{path / MODEL} cannot be read: {error.strerror}") from error
    return SavedModel(str(path), described, exported=path)


def _known(data: Any, origin: str) -> Description:
    described = Description.read(data)
    if described is None:
        raise UsageError(
            f"{origin} was not saved by an igniter.Model, so it does not say what it is made of. "
            "Build the objects, and give them and the checkpoint to igniter.evaluate"
        )
    return described


def _whole(tensors: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a module of which an export has the ``tensors``; ``own`` is its state now.

    A tensor that two names share is in the file once, and what is no tensor is not in it.
    """
    held = {_place(own[key]): value for key, value in tensors.items() if _is_tensor(own.get(key))}
    found = dict(tensors)
    for key, value in own.items():
        if key not in found and not _is_tensor(value):
            found[key] = value
        elif key not in found and _place(value) in held:
            found[key] = held[_place(value)]
    return found


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not torch.nn.parameter.is_lazy(value)


def _place(value: torch.Tensor) -> tuple[Any, ...]:
    return value.data_ptr(), tuple(value.shape), value.stride(), str(value.device)
