"""Any state as types that ``torch.load(weights_only=True)`` accepts, and back bit for bit.

A dict, an OrderedDict, a list, a tuple, a number, a string or a tensor stands for itself, so that
``torch.load`` alone reads a model's weights from a checkpoint. Every other type in the table of
``forms`` becomes ``{"__igniter__": <name>, "value": <plain value>}``. What is in neither is refused
when it is saved, while its owner can still act on it.

Kept: types, values (NaN and -0.0 too), order, the sharing of storage between tensors, and the
``_metadata`` of a module's ``state_dict``. Not kept: the class of a named tuple (it comes back as
a tuple), the memory order of an array, and that two names held one and the same list or dict.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy
import torch

from igniter.checkpoint.forms import FACTORIES, FORMS, SCALAR, UNPACK
from igniter.errors import UsageError

_TAG = "__igniter__"
_VALUE = "value"

# What unpacking something that encode never returned may raise.
_UNPACK_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


OnTensor = Callable[[torch.Tensor], torch.Tensor]

# Where something is: what the whole is called, or (what it is inside, how that is said, its key).
# Put into words only for an error: a state has thousands of places.
_Place: TypeAlias = "str | tuple[_Place, str, Any]"


def as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself."""
    return tensor


def encode(value: Any, where: str, tensor: OnTensor = as_it_is) -> Any:
    """``value`` as plain types, in containers of its own.

    Args:
        value: made of None, bool, int, float, complex, str, bytes, bytearray, tensors and
            parameters, dict, OrderedDict, defaultdict, Counter, list, tuple, set, frozenset, deque,
            numpy scalars and arrays (not of objects), Path, datetime's types with no time zone or
            a fixed one, torch.Size, torch.dtype and torch.device.
        where: what ``value`` is called, for the message.
        tensor: gives what stands for each tensor; by default itself, not copied.

    Raises:
        UsageError: something in it is of another type; names its place, such as
            ``to_save["scheduler"]["fn"]``.
    """
    try:
        return _encode(value, where, tensor)
    except RecursionError:
        raise UsageError(
            f"{where} cannot be saved: it is nested too deeply, or contains itself.\n"
            "Leave the reference to itself out of its state_dict()."
        ) from None


def is_storable(value: Any) -> bool:
    """Whether :func:`encode` takes ``value``."""
    try:
        encode(value, "")
    except UsageError:
        return False
    return True


def decode(value: Any) -> Any:
    """What :func:`encode` was given.

    Raises:
        ValueError: ``value`` is not something that :func:`encode` returned.
    """
    try:
        return _decode(value)
    except _UNPACK_ERRORS as error:
        raise ValueError(f"not a value that igniter saved: {error!r}") from error


def _encode(value: Any, where: _Place, tensor: OnTensor) -> Any:
    kind = type(value)
    if _stands_for_itself(value):
        return value
    if kind in (torch.Tensor, torch.nn.Parameter):
        if vars(value):
            raise _refused(f"a tensor with attributes ({', '.join(vars(value))})", where)
        return tensor(value)
    if kind in (dict, OrderedDict, defaultdict, Counter):
        return _encode_mapping(value, where, tensor)
    if kind in (list, tuple) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        items = [
            item if _stands_for_itself(item) else _encode(item, (where, "[{}]", index), tensor)
            for index, item in enumerate(value)
        ]
        return items if kind is list else tuple(items)
    form = FORMS.get(kind) or (SCALAR if isinstance(value, numpy.generic) else None)
    if form is None:
        raise _refused(f"of type {kind.__module__}.{kind.__qualname__}", where)
    if isinstance(value, (numpy.ndarray, numpy.generic)) and value.dtype.hasobject:
        raise _refused(f"a numpy array of objects (dtype {value.dtype})", where)
    return {_TAG: form.name, _VALUE: _encode(form.pack(value), where, tensor)}


def _encode_mapping(value: dict[Any, Any], where: _Place, tensor: OnTensor) -> Any:
    kind = type(value)
    items = [
        (
            key if _stands_for_itself(key) else _encode(key, (where, ", its key {}", key), tensor),
            item if _stands_for_itself(item) else _encode(item, (where, "[{}]", key), tensor),
        )
        for key, item in value.items()
    ]
    extra: Any = None
    if kind is OrderedDict:
        extra = _encode(vars(value), where, tensor)
    elif isinstance(value, defaultdict):
        factory = value.default_factory
        if factory not in FACTORIES.values():
            raise _refused(f"a defaultdict whose factory is {factory!r}", where)
        extra = factory and factory.__name__
    if kind in (dict, OrderedDict) and _TAG not in value and all(map(_stands_for_itself, value)):
        plain = kind(items)
        if extra:
            vars(plain).update(extra)
        return plain
    return {_TAG: kind.__name__, _VALUE: (items, extra)}


def _decode(value: Any) -> Any:
    if type(value) in (list, tuple):
        return type(value)([_decode(item) for item in value])
    if not isinstance(value, dict):
        return value
    if _TAG in value:
        return UNPACK[value[_TAG]](_decode(value[_VALUE]))
    decoded = type(value)([(key, _decode(item)) for key, item in value.items()])
    if isinstance(value, OrderedDict):
        vars(decoded).update(_decode(vars(value)))
    return decoded


def _stands_for_itself(value: Any) -> bool:
    if type(value) is int:  # torch's reader of plain data takes no integer of arbitrary length
        return -(2**63) <= value < 2**63
    return type(value) in (str, float, bool, type(None))


def _in_words(place: _Place) -> str:
    """What a place is called, such as ``to_save["scheduler"]["fn"]``."""
    if isinstance(place, str):
        return place
    inside, how, key = place
    return _in_words(inside) + how.format(json.dumps(key) if isinstance(key, str) else repr(key))


def _refused(what: str, where: _Place) -> UsageError:
    return UsageError(
        f"{_in_words(where)} cannot be saved: it is {what}.\n"
        "A checkpoint holds numbers, strings, tensors, arrays and containers of them, so that "
        "loading it can run no code. Have state_dict() return its value as one of these, or leave "
        "it out and make it again when the script starts."
    )
