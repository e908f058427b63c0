"""Any state as types that ``torch.load(weights_only=True)`` accepts, and back bit for bit.

A dict, an OrderedDict, a list, a tuple, a number, a string or a tensor stands for itself, so that
``torch.load`` alone reads a model's weights from a checkpoint. Every other type in the table below
becomes ``{"__igniter__": <name>, "value": <plain value>}``. What is in neither is refused when it
is saved, while its owner can still act on it.

Kept: types, values (NaN and -0.0 too), order, the sharing of storage between tensors, and the
``_metadata`` of a module's ``state_dict``. Not kept: the class of a named tuple (it comes back as
a tuple), the memory order of an array, and that two names held one and the same list or dict.
"""

from __future__ import annotations

import datetime
import json
import pathlib
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy
import torch
from numpy.lib.format import descr_to_dtype, dtype_to_descr

from igniter.errors import UsageError

_TAG = "__igniter__"
_VALUE = "value"

# What unpacking something that encode never returned may raise.
_UNPACK_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def encode(value: Any, where: str) -> Any:
    """``value`` as plain types. Tensors are handed on as they are, not copied.

    Args:
        value: made of None, bool, int, float, complex, str, bytes, bytearray, tensors and
            parameters, dict, OrderedDict, defaultdict, Counter, list, tuple, set, frozenset, deque,
            numpy scalars and arrays (not of objects), Path, datetime's types with no time zone or
            a fixed one, torch.Size, torch.dtype and torch.device.
        where: what ``value`` is called, for the message.

    Raises:
        UsageError: something in it is of another type; names its place, such as
            ``to_save["scheduler"]["fn"]``.
    """
    try:
        return _encode(value, where)
    except RecursionError:
        raise UsageError(
            f"{where} cannot be saved: it is nested too deeply, or contains itself.\n"
            "Leave the reference to itself out of its state_dict()."
        ) from None


def decode(value: Any) -> Any:
    """What :func:`encode` was given.

    Raises:
        ValueError: ``value`` is not something that :func:`encode` returned.
    """
    try:
        return _decode(value)
    except _UNPACK_ERRORS as error:
        raise ValueError(f"not a value that igniter saved: {error!r}") from error


def _encode(value: Any, where: str) -> Any:
    kind = type(value)
    if _stands_for_itself(value):
        return value
    if kind in (torch.Tensor, torch.nn.Parameter):
        if vars(value):
            raise _refused(f"a tensor with attributes ({', '.join(vars(value))})", where)
        return value
    if kind in (dict, OrderedDict, defaultdict, Counter):
        return _encode_mapping(value, where)
    if kind in (list, tuple) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        items = [
            item if _stands_for_itself(item) else _encode(item, f"{where}[{index}]")
            for index, item in enumerate(value)
        ]
        return items if kind is list else tuple(items)
    form = _FORMS.get(kind) or (_SCALAR if isinstance(value, numpy.generic) else None)
    if form is None:
        raise _refused(f"of type {kind.__module__}.{kind.__qualname__}", where)
    if isinstance(value, (numpy.ndarray, numpy.generic)) and value.dtype.hasobject:
        raise _refused(f"a numpy array of objects (dtype {value.dtype})", where)
    return {_TAG: form.name, _VALUE: _encode(form.pack(value), where)}


def _encode_mapping(value: dict[Any, Any], where: str) -> Any:
    kind = type(value)
    items = [
        (
            _encode(key, f"{where}, its key {key!r}"),
            _encode(item, f"{where}[{json.dumps(key) if isinstance(key, str) else repr(key)}]"),
        )
        for key, item in value.items()
    ]
    extra: Any = None
    if kind is OrderedDict:
        extra = _encode(vars(value), where)
    elif isinstance(value, defaultdict):
        factory = value.default_factory
        if factory not in _FACTORIES.values():
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
        return _UNPACK[value[_TAG]](_decode(value[_VALUE]))
    decoded = type(value)([(key, _decode(item)) for key, item in value.items()])
    if isinstance(value, OrderedDict):
        vars(decoded).update(_decode(vars(value)))
    return decoded


def _stands_for_itself(value: Any) -> bool:
    if type(value) is int:  # torch's reader of plain data takes no integer of arbitrary length
        return -(2**63) <= value < 2**63
    return type(value) in (str, float, bool, type(None))


def _refused(what: str, where: str) -> UsageError:
    return UsageError(
        f"{where} cannot be saved: it is {what}.\n"
        "A checkpoint holds numbers, strings, tensors, arrays and containers of them, so that "
        "loading it can run no code. Have state_dict() return its value as one of these, or leave "
        "it out and make it again when the script starts."
    )


class _Form(NamedTuple):
    """How one type is saved: ``pack`` gives encodable parts, ``unpack`` takes them decoded."""

    name: str
    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]


def _pack_array(array: Any) -> Any:
    raw = numpy.empty(0, numpy.uint8)
    if array.nbytes:
        raw = numpy.ascontiguousarray(array).reshape(-1).view(numpy.uint8)
    if not raw.flags.writeable:  # torch has no read-only tensors
        raw = raw.copy()
    return dtype_to_descr(array.dtype), array.shape, torch.from_numpy(raw)


def _unpack_array(parts: Any) -> Any:
    descr, shape, raw = parts
    dtype = descr_to_dtype(descr)
    if not raw.numel():
        return numpy.empty(shape, dtype)
    return raw.numpy().view(dtype).reshape(shape)


def _unpack_dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name.removeprefix("torch."))
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{name} is no dtype")
    return dtype


def _pack_time(time: datetime.time) -> Any:
    return time.hour, time.minute, time.second, time.microsecond, time.tzinfo, time.fold


def _unpack_time(parts: Any) -> datetime.time:
    return datetime.time(*parts[:-1], fold=parts[-1])


def _unpack_zone(parts: Any) -> datetime.timezone:
    offset, name = parts
    zone = datetime.timezone(offset)
    return zone if zone.tzname(None) == name else datetime.timezone(offset, name)


def _unpack_ordered(parts: Any) -> OrderedDict[Any, Any]:
    items, attributes = parts
    ordered = OrderedDict(items)
    vars(ordered).update(attributes)
    return ordered


_FACTORIES: dict[str | None, Any] = {
    None: None,
    **{kind.__name__: kind for kind in (bool, int, float, str, list, tuple, dict, set)},
}

_SCALAR = _Form("numpy scalar", lambda v: numpy.asarray(v), lambda array: array[()])
_FORMS: dict[type, _Form] = {
    int: _Form("int", hex, lambda text: int(text, 16)),
    complex: _Form("complex", lambda v: (v.real, v.imag), lambda parts: complex(*parts)),
    bytes: _Form("bytes", lambda v: v.decode("latin-1"), lambda text: text.encode("latin-1")),
    bytearray: _Form("bytearray", bytes, bytearray),
    set: _Form("set", list, set),
    frozenset: _Form("frozenset", list, frozenset),
    deque: _Form("deque", lambda v: (list(v), v.maxlen), lambda parts: deque(*parts)),
    numpy.ndarray: _Form("array", _pack_array, _unpack_array),
    # an array of these drops their trailing zeros
    numpy.str_: _Form("numpy str", str.__str__, numpy.str_),
    numpy.bytes_: _Form("numpy bytes", bytes, numpy.bytes_),
    torch.Size: _Form("torch.Size", tuple, torch.Size),
    torch.dtype: _Form("torch.dtype", str, _unpack_dtype),
    torch.device: _Form("torch.device", str, torch.device),
    type(pathlib.Path()): _Form("Path", str, pathlib.Path),
    datetime.date: _Form("date", datetime.date.toordinal, datetime.date.fromordinal),
    datetime.time: _Form("time", _pack_time, _unpack_time),
    datetime.datetime: _Form(
        "datetime",
        lambda v: (v.date(), v.timetz()),
        lambda parts: datetime.datetime.combine(*parts),
    ),
    datetime.timedelta: _Form(
        "timedelta",
        lambda v: (v.days, v.seconds, v.microseconds),
        lambda parts: datetime.timedelta(*parts),
    ),
    datetime.timezone: _Form(
        "timezone", lambda v: (v.utcoffset(None), v.tzname(None)), _unpack_zone
    ),
}
_UNPACK: dict[str, Callable[[Any], Any]] = {
    **{form.name: form.unpack for form in (*_FORMS.values(), _SCALAR)},
    # of the items and what else the mapping holds, as _encode_mapping packs them
    "dict": lambda parts: dict(parts[0]),
    "OrderedDict": _unpack_ordered,
    "Counter": lambda parts: Counter(dict(parts[0])),
    "defaultdict": lambda parts: defaultdict(_FACTORIES[parts[1]], parts[0]),
}
