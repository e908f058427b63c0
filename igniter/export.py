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


def export(
    directory: Path, modules: Mapping[str, torch.nn.Module], record: Mapping[str, Any]
) -> None:
    """Write ``<name>.safetensors`` for each module, and ``parameters.yaml``.

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
    for name, module in modules.items():
        path = directory / f"{name.replace('/', '_')}.safetensors"
        part = atomic.part_name(path)
        try:
            save_model(_tensors(module), str(part))
            shutil.copymode(parameters, part)  # safetensors lets the owner alone read it
            with part.open("rb+") as written:
                os.fsync(written.fileno())
            part.replace(path)
        except SafetensorError as error:  # its word for a full disk, too
            raise OSError(str(error)) from error
        finally:
            atomic.remove_quietly(part)
    atomic.fsync_directory(directory)


def _tensors(module: torch.nn.Module) -> Any:
    """What safetensors asks of a module: its state, here of tensors alone, under plain names."""
    state = {k: v for k, v in module_state(module).items() if isinstance(v, torch.Tensor)}
    return SimpleNamespace(state_dict=lambda: state)
