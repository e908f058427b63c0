"""A module traced by torch.export, and what comes of it compared with the module itself."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

Run = Callable[..., Any]
# The time to export cannot be cut short and memory holds the weights twice meanwhile; a file of
# ONNX holds no more either.
_MOST_BYTES = 2 << 30
# How far a result may be from the module's, as a share of the largest number in that.
_TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 2e-2, torch.float64: 1e-8}
_OTHER_TOLERANCE = 1e-4
_SAMPLES = (1, 2, 5)


@dataclass(frozen=True)
class Traced:
    """A module as a program that takes any number of samples.

    ``module`` is a copy on the CPU in eval mode, ``example`` the tensors it is called with and
    ``output`` what it then returns.
    """

    module: torch.nn.Module
    example: tuple[torch.Tensor, ...]
    output: Any
    program: torch.export.ExportedProgram


def trace(module: torch.nn.Module, example: Sequence[torch.Tensor]) -> Traced:
    """Trace ``module``, which stays as it is, called with ``example``: batches of samples.

    Raises:
        Exception: tracing runs the user's code on what stands for tensors: anything can be raised
            in it.
    """
    tensors = (*module.parameters(), *module.buffers())
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if size > _MOST_BYTES:
        raise ValueError(f"it has {size / 2**30:.1f} GiB of weights, more than {_MOST_BYTES >> 30}")
    # Where a model is used there may be no accelerator.
    copied = copy.deepcopy(module).cpu().eval()
    # Of one sample alone torch would take it that there is never more.
    given = tuple(_of_length(each.detach().cpu(), max(2, len(each))) for each in example)
    any_length = tuple({0: torch.export.Dim.DYNAMIC} for _ in given)
    with torch.no_grad(), quiet():
        output = copied(*given)
        program = torch.export.export(copied, given, dynamic_shapes=any_length)
    return Traced(copied, given, output, program)


def check(traced: Traced, run: Run, tolerance: float | None = None) -> None:
    """See that ``run``, called as the module is, gives what the module gives.

    Both are called with 1, 2 and 5 samples, drawing the same random numbers. Whole numbers have to
    be equal; others may differ by ``tolerance`` times the largest in the module's result: by
    default 1e-4, for float64 1e-8 and for types of 16 bits 2e-2.

    Raises:
        ValueError: it gives something else.
    """
    for samples in _SAMPLES:
        given = tuple(_of_length(tensor, samples) for tensor in traced.example)
        expected, found = _results(traced.module, given), _results(run, given)
        problem = _difference(expected, found, tolerance)
        if problem is not None:
            raise ValueError(f"called with {samples} samples it {problem}")


def _results(function: Run, given: tuple[torch.Tensor, ...]) -> list[Any]:
    with torch.random.fork_rng(devices=()), torch.no_grad(), quiet():
        torch.manual_seed(0)
        return pytree.tree_leaves(function(*given))


def _difference(expected: list[Any], found: list[Any], tolerance: float | None) -> str | None:
    if len(found) != len(expected):
        return f"gives {len(found)} results and the module {len(expected)}"
    for ours, theirs in zip(expected, found, strict=True):
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            return (
                f"gives {theirs.dtype} of shape {tuple(theirs.shape)} and the module {ours.dtype} "
                f"of shape {tuple(ours.shape)}"
            )
        if not ours.numel() or torch.equal(ours, theirs):
            continue
        if not ours.is_floating_point():
            return "gives other whole numbers than the module"
        relative = _TOLERANCE.get(ours.dtype, _OTHER_TOLERANCE) if tolerance is None else tolerance
        largest = ours.double().nan_to_num(0, 0, 0).abs().max()
        allowed = float(largest) * relative
        if not torch.allclose(ours.double(), theirs.double(), 0, allowed, equal_nan=True):
            apart = float((ours.double() - theirs.double()).abs().max())
            return (
                f"is up to {apart:.3g} from what the module gives, with numbers of up to "
                f"{float(largest):.3g}; {allowed:.3g} is allowed"
            )
    return None


def _of_length(tensor: torch.Tensor, samples: int) -> torch.Tensor:
    repeated = torch.cat([tensor] * -(-samples // len(tensor)))
    return repeated[:samples].contiguous()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what torch has to say while it traces, which is for its own developers."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
