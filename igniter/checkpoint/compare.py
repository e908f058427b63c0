"""Two states compared: bit for bit, and whether they lie in the same memory."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from typing import Any

import torch

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


def first_difference(first: Any, second: Any, where: str) -> str | None:
    """Where, and how, two states differ first; None where they are equal bit for bit.

    Tensors may lie on different devices. Tuples and lists of equal parts are equal, and so are
    NaNs of equal bits.
    """
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return _tensors(first, second, where)
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        if list(first) != list(second) and set(first) != set(second):
            return f"{where}: other keys"
        parts = [(first[key], second[key], f"{where}[{key!r}]") for key in first]
    elif isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        if len(first) != len(second):
            return f"{where}: {len(first)} and {len(second)} items"
        pairs = zip(first, second, strict=True)
        parts = [(a, b, f"{where}[{index}]") for index, (a, b) in enumerate(pairs)]
    else:
        same = _identity(first) == _identity(second)
        return None if same else f"{where}: {first!r:.60} and {second!r:.60}"
    for part in parts:
        difference = first_difference(*part)
        if difference is not None:
            return difference
    return None


def _identity(value: Any) -> object:
    """What is equal for values that are equal bit for bit."""
    if isinstance(value, (set, frozenset)):  # the order that they show is their own affair
        return type(value), sorted(map(repr, value))
    if hasattr(value, "tobytes") and hasattr(value, "dtype"):  # repr leaves out much of an array
        return type(value), repr(value.dtype), value.shape, value.tobytes()
    return repr(value)  # tells -0.0 from 0.0, and lets NaN equal NaN


def _tensors(first: torch.Tensor, second: torch.Tensor, where: str) -> str | None:
    for name in ("dtype", "shape"):
        a, b = getattr(first, name), getattr(second, name)
        if a != b:
            return f"{where}: {name} {a} and {b}"
    a, b = bits(first), bits(second)
    if a.data_ptr() == b.data_ptr():
        return None
    # memcmp takes a twentieth of the time of torch.equal, and lets other threads run.
    if _memcmp(a.data_ptr(), b.data_ptr(), a.numel()) != 0:
        return f"{where}: other values"
    return None


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The values of ``tensor`` as bytes in one dimension, on the CPU."""
    tensor = tensor.detach().cpu()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    return tensor.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)


def share_memory(first: Any, second: Any) -> bool:
    """Whether a tensor of one state lies in the memory of one of the other."""
    return not _addresses(first).isdisjoint(_addresses(second))


def _addresses(state: Any) -> set[int]:
    strided = (tensor for tensor in _tensors_in(state) if tensor.layout is torch.strided)
    return {tensor.untyped_storage().data_ptr() for tensor in strided} - {0}


def _tensors_in(state: Any) -> Iterator[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from _tensors_in(value)
    elif isinstance(state, (list, tuple)):
        for value in state:
            yield from _tensors_in(value)
