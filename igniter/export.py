"""The exported result: weights that any tool reads, and the parameters they came of.

Safetensors hold tensors and nothing else, so a file from anywhere can be opened without running
what is in it. This is the only import of ``safetensors``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from igniter import atomic, yamlfile
from igniter.checkpoint.keys import module_state
from igniter.errors import CheckpointDamaged
from igniter.signature import MODEL


def export(
    directory: Path,
    parts: Mapping[str, Any],
    record: Mapping[str, Any],
    model: Mapping[str, Any] | None = None,
) -> None:
    """Write ``<name>.safetensors`` for each module or state of ``parts``, and ``parameters.yaml``.

    ``model`` says what they are parts of; it becomes ``model.yaml``.

    Each file is whole or as it was before. A tensor that two names share is stored once, under
    the first. What a module's state holds besides tensors stays in the checkpoints.

    Raises:
        OSError: a file did not reach the disk.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_model

    atomic.make_directory(directory)
    parameters = directory / "parameters.yaml"
    atomic.write_text(parameters, yamlfile.dump(dict(record)))
    if model is not None:
        atomic.write_text(directory / MODEL, yamlfile.dump(dict(model)))
    tensors = {name: _tensors(part) for name, part in parts.items()}
    for name, held in tensors.items():
        if not held:
            continue  # such as a loss without weights
        path = file_of(directory, name)
        part = atomic.part_name(path)
        try:
            save_model(_module_of(held), str(part))
            shutil.copymode(parameters, part)  # safetensors lets the owner alone read it
            with part.open("rb+") as written:
                os.fsync(written.fileno())
            part.replace(path)
        except SafetensorError as error:  # its word for a full disk, too
            raise OSError(str(error)) from error
        finally:
            atomic.remove_quietly(part)
    atomic.fsync_directory(directory)


def file_of(directory: Path, name: str) -> Path:
    """Where the weights of the part ``name`` are."""
    return directory / f"{name.replace('/', '_')}.safetensors"


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """What :func:`export` wrote there, on the CPU.

    Raises:
        CheckpointDamaged: it is no such file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointDamaged(f"{path} cannot be read: {error}") from error


def _tensors(part: Any) -> dict[str, torch.Tensor]:
    """The tensors of a module, or of its state, under plain names."""
    state = module_state(part) if isinstance(part, torch.nn.Module) else part
    return {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}


def _module_of(tensors: Mapping[str, torch.Tensor]) -> Any:
    """What safetensors asks of a module: its state."""
    return SimpleNamespace(state_dict=lambda: tensors)
