"""How each type that is not plain data is saved as plain data, and made again."""

from __future__ import annotations

import datetime
import pathlib
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy
import torch
from numpy.lib.format import descr_to_dtype, dtype_to_descr


class Form(NamedTuple):
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
    if not dtype.itemsize:  # no view has it
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


FACTORIES: dict[str | None, Any] = {
    None: None,
    **{kind.__name__: kind for kind in (bool, int, float, str, list, tuple, dict, set)},
}

SCALAR = Form("numpy scalar", lambda v: numpy.asarray(v), lambda array: array[()])
FORMS: dict[type, Form] = {
    int: Form("int", hex, lambda text: int(text, 16)),
    complex: Form("complex", lambda v: (v.real, v.imag), lambda parts: complex(*parts)),
    bytes: Form("bytes", lambda v: v.decode("latin-1"), lambda text: text.encode("latin-1")),
    bytearray: Form("bytearray", bytes, bytearray),
    set: Form("set", list, set),
    frozenset: Form("frozenset", list, frozenset),
    deque: Form("deque", lambda v: (list(v), v.maxlen), lambda parts: deque(*parts)),
    numpy.ndarray: Form("array", _pack_array, _unpack_array),
    # an array of these drops their trailing zeros
    numpy.str_: Form("numpy str", str.__str__, numpy.str_),
    numpy.bytes_: Form("numpy bytes", bytes, numpy.bytes_),
    torch.Size: Form("torch.Size", tuple, torch.Size),
    torch.dtype: Form("torch.dtype", str, _unpack_dtype),
    torch.device: Form("torch.device", str, torch.device),
    type(pathlib.Path()): Form("Path", str, pathlib.Path),
    datetime.date: Form("date", datetime.date.toordinal, datetime.date.fromordinal),
    datetime.time: Form("time", _pack_time, _unpack_time),
    datetime.datetime: Form(
        "datetime",
        lambda v: (v.date(), v.timetz()),
        lambda parts: datetime.datetime.combine(*parts),
    ),
    datetime.timedelta: Form(
        "timedelta",
        lambda v: (v.days, v.seconds, v.microseconds),
        lambda parts: datetime.timedelta(*parts),
    ),
    datetime.timezone: Form(
        "timezone", lambda v: (v.utcoffset(None), v.tzname(None)), _unpack_zone
    ),
}
UNPACK: dict[str, Callable[[Any], Any]] = {
    **{form.name: form.unpack for form in (*FORMS.values(), SCALAR)},
    # of the items and what else the mapping holds, as _encode_mapping packs them
    "dict": lambda parts: dict(parts[0]),
    "OrderedDict": _unpack_ordered,
    "Counter": lambda parts: Counter(dict(parts[0])),
    "defaultdict": lambda parts: defaultdict(FACTORIES[parts[1]], parts[0]),
}
