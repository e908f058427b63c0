"""A module as a file of ONNX, which other runtimes take; checked in onnxruntime when it is made.

Synopsis::

    export_onnx(Path("model.onnx"), model, images)

This is the only import of ``onnxruntime``; ``onnx`` and ``onnxscript`` are what torch writes with.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from igniter import atomic
from igniter.errors import ExportFailed, UsageError
from igniter.tracing import Traced, check, quiet, trace

_NEEDED = ("onnx", "onnxscript", "onnxruntime")


def require_onnx() -> None:
    """See that what is needed is installed.

    Raises:
        UsageError: it is not.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"exporting to ONNX needs {', '.join(missing)}, not installed here: "
            "pip install 'torch-igniter[onnx]'"
        )


def export_onnx(
    path: Path | str,
    module: torch.nn.Module,
    example: torch.Tensor | Sequence[torch.Tensor],
    *,
    tolerance: float | None = None,
) -> None:
    """Write ``module``, in eval mode, to ``path``, for any number of samples.

    ``example`` is what it is called with, one tensor or several, each with samples as its first
    dimension. Before the file is put in its place onnxruntime is given 1, 2 and 5 of these samples:
    whole numbers have to be the module's, others may differ by ``tolerance`` times the largest
    number in its output; by default 1e-4, for float64 1e-8 and for types of 16 bits 2e-2.

    Raises:
        UsageError: what is needed is not installed.
        ExportFailed: the module cannot be exported, or the file gives other results.
        OSError: the file did not reach the disk; an earlier one stands.
    """
    require_onnx()
    given = (example,) if isinstance(example, torch.Tensor) else tuple(example)
    try:
        save_onnx(Path(path), trace(module, given), tolerance)
    except OSError:
        raise
    except Exception as error:  # of the user's code, too
        why = str(error).strip() or type(error).__name__
        raise ExportFailed(f"{path} was not written, the module cannot be exported: {why}") from (
            error
        )


def save_onnx(path: Path, traced: Traced, tolerance: float | None = None) -> None:
    """Write what was traced to ``path``, whole or not at all, if onnxruntime agrees with it.

    Raises:
        Exception: whatever torch or onnxruntime raises where they cannot.
        ValueError: the results are others.
        OSError: the file did not reach the disk.
    """
    with quiet():
        program = torch.onnx.export(traced.program, dynamo=True, verbose=False)
    assert program is not None
    atomic.make_directory(path.parent)
    part = atomic.part_name(path)
    try:
        program.save(str(part))
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        check(traced, _session(part), tolerance)
        part.replace(path)
        atomic.fsync_directory(path.parent)
    finally:
        atomic.remove_quietly(part)


def _session(path: Path) -> Any:
    """The file as a function of tensors that returns a list of tensors."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*given: torch.Tensor) -> list[torch.Tensor]:
        fed = {name: tensor.numpy() for name, tensor in zip(names, given, strict=True)}
        return [torch.from_numpy(result) for result in session.run(None, fed)]

    return run
