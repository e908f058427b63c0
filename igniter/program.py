"""A trained module as a program that runs without the user's code: torch's ``.pt2``, and ONNX."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from igniter import atomic
from igniter.onnx_export import save_onnx
from igniter.signature import PROGRAM, Signature
from igniter.tracing import Traced, check, quiet, trace

FORMATS = {"torch": PROGRAM, "onnx": ".onnx"}
"""The formats by name, with the ends of their files' names."""

_MOST_VALUES = 1_000_000


def export_programs(
    directory: Path,
    modules: Mapping[str, torch.nn.Module],
    examples: Mapping[str, torch.Tensor | str],
    iteration: int,
    formats: Collection[str] = ("torch",),
    *,
    signed: bool = True,
) -> dict[str, str]:
    """Write each module that there is an example for as a program, in each of ``formats``.

    ``<name>.pt2`` has its signature beside it where it is to be ``signed``, for MLflow. A program
    stands only where it gives the module's results. ``examples`` has by name an example, a batch on
    the CPU, or why there is none. What was exported at an earlier iteration is replaced or removed.
    Returns, by name, why a module was not exported; that there is no example of one, such as a
    loss, is told only where no other was exported.
    """
    problems, failed = {}, {}
    for name, example in examples.items():
        path = directory / name.replace("/", "_")
        try:
            _remove(path)
            if isinstance(example, str):
                problems[name] = example
                continue
            traced = trace(modules[name], (example,))
            signature = _signature(traced, iteration)
        # Tracing runs the user's code on what stands for tensors: anything can be raised in it.
        except Exception as error:
            failed[name] = _first_line(error)
            continue
        for kind in formats:
            try:
                _save(kind, path, traced, signature if signed else None)
            except Exception as error:  # of torch's, of ONNX's, of the disk
                failed[name] = f"as {kind}: {_first_line(error)}"
    exported = len(problems) + len(failed) < len(examples)
    return failed if exported else {**problems, **failed}


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _signature(traced: Traced, iteration: int) -> Signature:
    (example,), output = traced.example, traced.output
    if not isinstance(output, torch.Tensor) or output.shape[:1] != example.shape[:1]:
        raise ValueError("it does not return one tensor with a row for each sample")
    return Signature(
        iteration,
        _numpy_word(example),
        list(example.shape),
        _numpy_word(output),
        list(output.shape),
        example.tolist() if example.numel() <= _MOST_VALUES else None,
    )


def _save(kind: str, path: Path, traced: Traced, signature: Signature | None) -> None:
    file = path.with_name(f"{path.name}{FORMATS[kind]}")
    if kind == "onnx":
        save_onnx(file, traced)
        return
    atomic.make_directory(file.parent)
    part = atomic.part_name(file)
    try:
        with part.open("wb") as opened, quiet():
            torch.export.save(traced.program, opened)
            opened.flush()
            os.fsync(opened.fileno())
        with part.open("rb") as written, quiet():
            check(traced, torch.export.load(written).module())
        part.replace(file)
    finally:
        atomic.remove_quietly(part)
    # The last, so that a program without one is half an export.
    if signature is not None:
        signature.save(Signature.path_beside(file))


def _numpy_word(tensor: torch.Tensor) -> str:
    """Raises: TypeError where numpy has no such type."""
    return str(torch.empty(0, dtype=tensor.dtype).numpy().dtype)


def _remove(path: Path) -> None:
    for end in (".json", *FORMATS.values()):
        path.with_name(f"{path.name}{end}").unlink(missing_ok=True)
