"""Any value as a short text for each of its parts, equal where the parts are equal bit for bit.

Two processes compare what they hold by these, without keeping it.
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
import types
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from typing import Any

import numpy as np
import torch

from igniter.checkpoint.compare import bits

# How far to look into things: against those that lead everywhere, such as a logger.
_DEPTH, _DEPTH_OF_UNSAVED = 40, 4
_SHOWN = 40
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_SCALARS = (type(None), bool, int, float, complex, str, bytes, bytearray, np.generic)
# Of these only the type is told: what they hold is code, or of no run's doing.
_CODE = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    functools.partial,
)


def fingerprints(
    value: Any, where: str = "", *, skip: Collection[int] = (), limit: int | None = None
) -> dict[str, str]:
    """The fingerprint of each part of ``value`` by its path, which begins with ``where``.

    Numbers and short texts stand for themselves, so that a difference can be shown; the rest is
    hashed. An object is what its ``state_dict`` gives, or its attributes.

    Args:
        value: anything; what cannot be looked into counts by its type.
        where: what ``value`` is called.
        skip: ids of objects to leave out.
        limit: for what nobody promised to be state: of a tensor, array or container with more
            elements only the size is told; no more parts than this are looked at, and less deeply.
    """
    found: dict[str, str] = {}
    depth = _DEPTH if limit is None else _DEPTH_OF_UNSAVED
    _Walk(found, skip, limit).visit(value, where, depth)
    return found


def generators() -> dict[str, str]:
    """The fingerprints of python's, numpy's and torch's global generators."""
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state_all()
    # One text each: where in its state a generator differs says nothing.
    return {name: _hashed(*fingerprints(state).values()) for name, state in states.items()}


def is_generator(value: Any) -> bool:
    """Whether ``value`` is a random generator."""
    return isinstance(
        value, (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
    )


def is_data(value: Any) -> bool:
    """Whether ``value`` is data itself, rather than an object with attributes."""
    return isinstance(value, (*_SCALARS, torch.Tensor, np.ndarray, Mapping, Set)) or (
        _is_sequence(value)
    )


def saves_itself(value: Any) -> bool:
    """Whether ``value`` could be in ``to_save``."""
    try:
        return hasattr(value, "state_dict") and hasattr(value, "load_state_dict")
    except Exception:  # an attribute that is computed, by the user's code
        return False


class _Walk:
    def __init__(self, found: dict[str, str], skip: Collection[int], limit: int | None) -> None:
        self._found, self._skip, self._limit = found, skip, limit
        self._within: set[int] = set()

    def visit(self, value: Any, where: str, depth: int) -> None:
        if id(value) in self._skip or (self._limit is not None and len(self._found) >= self._limit):
            return
        if isinstance(value, _SCALARS):
            self._found[where] = _scalar(value)
        elif isinstance(value, (torch.Tensor, np.ndarray)):
            try:
                self._found[where] = self._array(value)
            except (RuntimeError, TypeError, ValueError):
                # One without values, such as a parameter that is not initialised yet.
                self._found[where] = type(value).__name__
        elif depth == 0 or id(value) in self._within:
            self._found[where] = type(value).__name__
        else:
            self._within.add(id(value))
            for path, part in self._parts(value, where):
                self.visit(part, path, depth - 1)
            self._within.discard(id(value))

    def _array(self, value: Any) -> str:
        size = value.numel() if isinstance(value, torch.Tensor) else value.size
        kind = f"{value.dtype} {tuple(value.shape)}"
        if self._limit is not None and size > self._limit:
            return kind
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                return f"{_hashed(*map(_scalar, value.reshape(-1)))} {kind}"
            return f"{_hashed(value.tobytes())} {kind}"
        if size == 1 and value.layout is torch.strided and not value.is_quantized:
            return f"{value.item()!r} {kind}"
        return f"{_hashed(bits(value).numpy().tobytes())} {kind}"

    def _parts(self, value: Any, where: str) -> Iterable[tuple[str, Any]]:
        kind = type(value).__name__
        if isinstance(value, (Mapping, Set)) or _is_sequence(value):
            return self._items(value, where)
        if isinstance(value, _CODE):
            self._found[where] = kind
            return ()
        if is_generator(value):
            self._found[where] = _hashed(*fingerprints(_state_of_generator(value)).values())
            return ()
        state = _state_of(value)
        if state is not None:
            return [(where, state)]
        attributes = getattr(value, "__dict__", None)
        if attributes is None:
            self._found[where] = _scalar(value)
            return ()
        return [(f"{where}.{name}", part) for name, part in attributes.items()]

    def _items(self, value: Any, where: str) -> Iterable[tuple[str, Any]]:
        self._found[where] = f"{len(value)} items"
        if self._limit is not None and len(value) > self._limit:
            return ()
        if isinstance(value, Mapping):
            return [(f"{where}[{_scalar(key)}]", part) for key, part in value.items()]
        if isinstance(value, Set):
            self._found[where] += f" {_hashed(*sorted(map(_scalar, value)))}"
            return ()
        if len(value) > 1 and all(isinstance(part, _SCALARS) for part in value):
            shown = repr(list(value))
            self._found[where] = shown if len(shown) <= _SHOWN else _hashed(*map(_scalar, value))
            return ()
        return [(f"{where}[{index}]", part) for index, part in enumerate(value)]


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or (
        # deque and its like, but no text and nothing whose items are made when asked for
        type(value).__module__ == "collections" and hasattr(value, "__getitem__")
    )


def _state_of(value: Any) -> Any:
    """What ``state_dict`` gives, None where there is none; the object is the user's."""
    if not saves_itself(value):
        return None
    try:
        return value.state_dict()
    except Exception:
        return None


def _state_of_generator(value: Any) -> Any:
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    return value.get_state()


def _scalar(value: Any) -> str:
    # repr tells -0.0 from 0.0 and lets NaN equal NaN; some tell an address instead of a value.
    text = repr(value)
    if _ADDRESS.search(text):
        text = type(value).__name__
    return text if len(text) <= _SHOWN else _hashed(text)


def _hashed(*texts: str | bytes) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for text in _as_bytes(texts):
        digest.update(len(text).to_bytes(8, "little"))
        digest.update(text)
    return digest.hexdigest()


def _as_bytes(texts: Iterable[str | bytes]) -> Iterator[bytes]:
    for text in texts:
        yield text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
