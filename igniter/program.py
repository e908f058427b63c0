"""A trained module as a program that runs without the user's code: torch.export's ``.pt2``."""

from __future__ import annotations

import contextlib
import copy
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from igniter import atomic
from igniter.signature import PROGRAM, Signature

# The time to export cannot be cut short and memory holds the weights twice meanwhile.
_MOST_BYTES = 2 << 30
_MOST_VALUES = 1_000_000


def export_programs(
    directory: Path,
    modules: Mapping[str, torch.nn.Module],
    examples: Mapping[str, torch.Tensor | str],
    iteration: int,
) -> dict[str, str]:
    """Write ``<name>.pt2`` and its signature for each module that there is an example for.

    ``examples`` has by name an example, a batch on the CPU, or why there is none. What was exported
    at an earlier iteration is replaced or removed. Returns, by name, why a module was not exported;
    that there is no example of one, such as a loss, is told only where no other was exported.
    """
    problems = {}
    failed = {}
    for name, example in examples.items():
        path = directory / f"{name.replace('/', '_')}{PROGRAM}"
        try:
            _remove(path)
            if isinstance(example, str):
                problems[name] = example
            else:
                _export(path, modules[name], example, iteration)
        # Tracing runs the user's code on what stands for tensors: anything can be raised in it.
        except Exception as error:
            failed[name] = str(error).strip().partition("\n")[0] or type(error).__name__
    exported = len(problems) + len(failed) < len(examples)
    return failed if exported else {**problems, **failed}


def _export(path: Path, module: torch.nn.Module, example: torch.Tensor, iteration: int) -> None:
    tensors = (*module.parameters(), *module.buffers())
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if size > _MOST_BYTES:
        raise ValueError(f"it has {size / 2**30:.1f} GiB of weights, more than {_MOST_BYTES >> 30}")
    # Where a model is served there may be no accelerator; and the user's module stays as it is.
    copied = copy.deepcopy(module).cpu().eval()
    with torch.no_grad(), _quiet():
        output = copied(example)
        if not isinstance(output, torch.Tensor) or output.shape[:1] != example.shape[:1]:
            raise ValueError("it does not return one tensor with a row for each sample")
        signature = Signature(
            iteration,
            _numpy_word(example),
            list(example.shape),
            _numpy_word(output),
            list(output.shape),
            example.tolist() if example.numel() <= _MOST_VALUES else None,
        )
        any_length = {0: torch.export.Dim.DYNAMIC}
        program = torch.export.export(copied, (example,), dynamic_shapes=(any_length,))
        atomic.make_directory(path.parent)
        part = atomic.part_name(path)
        try:
            with part.open("wb") as file:
                torch.export.save(program, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            atomic.remove_quietly(part)
    # The last, so that a program without one is half an export.
    signature.save(Signature.path_beside(path))


def _numpy_word(tensor: torch.Tensor) -> str:
    """Raises: TypeError where numpy has no such type."""
    return str(torch.empty(0, dtype=tensor.dtype).numpy().dtype)


def _remove(program: Path) -> None:
    Signature.path_beside(program).unlink(missing_ok=True)
    program.unlink(missing_ok=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch has to say while it traces, which is for its own developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
