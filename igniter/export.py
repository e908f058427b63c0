"""The exported result: weights that any tool reads, and the parameters they came of.

Safetensors hold tensors and nothing else, so a file from anywhere can be opened without running
what is in it. This is the only import of ``safetensors``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from igniter import atomic, yamlfile


def export(
    directory: Path, modules: Mapping[str, torch.nn.Module], record: Mapping[str, Any]
) -> None:
    """Write ``<name>.safetensors`` for each module, and ``parameters.yaml``.

    Each file is whole or as it was before. A tensor that two names share is stored once, under
    the first.

    Raises:
        OSError: a file did not reach the disk.
    """
    from safetensors.torch import save_model

    directory.mkdir(parents=True, exist_ok=True)
    parameters = directory / "parameters.yaml"
    atomic.write_text(parameters, yamlfile.dump(dict(record)))
    for name, module in modules.items():
        path = directory / f"{name.replace('/', '_')}.safetensors"
        part = atomic.part_name(path)
        try:
            save_model(module, str(part))
            shutil.copymode(parameters, part)  # safetensors lets the owner alone read it
            with part.open("rb+") as written:
                os.fsync(written.fileno())
            part.replace(path)
        finally:
            atomic.remove_quietly(part)
    atomic.fsync_directory(directory)
