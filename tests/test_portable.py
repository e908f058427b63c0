"""Any state as plain data and back, through real files."""

from __future__ import annotations

import datetime as dt
import enum
import io
import math
import pathlib
import random
import struct
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from igniter.checkpoint.portable import decode, encode
from igniter.errors import UsageError


def through_file(value: Any) -> Any:
    """``value`` saved and loaded as a checkpoint is."""
    buffer = io.BytesIO()
    torch.save(encode(value, "to_save"), buffer)
    buffer.seek(0)
    return decode(torch.load(buffer, weights_only=True, map_location="cpu"))


def same(a: Any, b: Any) -> bool:
    """Whether two values are of the same types and equal bit for bit, NaN included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float) and not isinstance(a, numpy.generic):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, complex) and not isinstance(a, numpy.generic):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, torch.Tensor):
        return (
            a.dtype == b.dtype
            and a.shape == b.shape
            and a.requires_grad == b.requires_grad
            and same(a.detach().numpy(), b.detach().numpy())
        )
    if isinstance(a, (numpy.ndarray, numpy.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return (
            len(a) == len(b)
            and all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
            and same(getattr(a, "__dict__", 0), getattr(b, "__dict__", 0))
        )
    if isinstance(a, (list, tuple, deque)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**3000), 2**3000)
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters())
    | st.binary()
    | st.dates()
    | st.times(timezones=st.none() | st.just(dt.timezone.utc))
    | st.datetimes(timezones=st.none() | st.just(dt.timezone.utc))
    | st.timedeltas()
)
KEYS = SCALARS.filter(lambda key: key == key) | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.lists(inner, max_size=4).map(lambda items: deque(items, maxlen=5))
        | st.dictionaries(KEYS | st.sampled_from(["__igniter__", "value"]), inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4).map(OrderedDict)
        | st.dictionaries(KEYS, inner, max_size=4).map(lambda items: defaultdict(list, items))
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=150)
@given(VALUES)
def test_any_nesting_comes_back(value: Any) -> None:
    """Types, order and bits survive, whatever is nested in what."""
    assert same(through_file(value), value)


def test_the_comparison_tells_apart() -> None:
    """The comparison that these tests rest on fails where a bit, a type or an order differs."""
    for a, b in [
        (0.0, -0.0),
        (1, True),
        ([1], (1,)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (numpy.float32(1), numpy.float64(1)),
        (OrderedDict(), {}),
    ]:
        assert not same(a, b)


@pytest.mark.parametrize(
    "value",
    [
        {1, "a", (2, 3)},
        frozenset({1.5, None}),
        set(),
        Counter("mississippi"),
        bytearray(b"\x00\xff"),
        b"",
        deque([1, 2], maxlen=2),
        defaultdict(dict, {1: {}}),
        defaultdict(None, {1: 2}),
        pathlib.Path("/data/x y"),
        torch.Size([2, 3]),
        torch.bfloat16,
        torch.device("cuda:1"),
        dt.timezone.utc,
        dt.timezone(dt.timedelta(hours=1), "CET"),
        dt.time(1, 2, 3, 4, fold=1),
        dt.datetime(2026, 10, 25, 2, 30, fold=1),
        {(1, "a"): 1, b"k": 2, frozenset({3}): 4},
        {"__igniter__": "set", "value": [1, 2]},
        OrderedDict([("__igniter__", 1)]),
        {"a": {"__igniter__": {"__igniter__": 0}}},
        "\ud800",
        2**63,
        -(2**63),
    ],
    ids=lambda value: type(value).__name__,  # a set's repr is in another order in each process
)
def test_each_type_comes_back(value: Any) -> None:
    """Each type of the closed set, at its edges; a key like igniter's own is no trap."""
    again = through_file(value)
    assert same(again, value)
    for attribute in ("maxlen", "default_factory", "fold"):
        assert getattr(again, attribute, None) == getattr(value, attribute, None)


@pytest.mark.parametrize(
    "value",
    [
        numpy.float64(math.nan),
        numpy.float32(-0.0),
        numpy.int8(-3),
        numpy.bool_(True),
        numpy.complex64(1j),
        numpy.str_("a\0"),
        numpy.bytes_(b"a\0"),
        numpy.datetime64("2026-11-21T10:00", "ns"),
        numpy.array(7),
        numpy.array([]),
        numpy.empty((0, 3), numpy.int16),
        numpy.arange(12).reshape(3, 4)[:, ::2],
        numpy.asfortranarray(numpy.arange(6.0).reshape(2, 3)),
        numpy.arange(3, dtype=">i4"),
        numpy.array(["ab", "c"]),
        numpy.array([b"", b"x"]),
        numpy.zeros(2, dtype=[("a", "i4"), ("b", "f8", (2,))]),
        numpy.array([True, False]),
        numpy.frombuffer(b"read-only", numpy.uint8),
    ],
    ids=lambda value: f"{type(value).__name__}-{value.dtype}",
)
def test_numpy_comes_back(value: Any) -> None:
    """Scalars and arrays keep dtype, shape and bits."""
    assert same(through_file(value), value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_come_back(dtype: torch.dtype) -> None:
    """Tensors of any dtype, empty ones and scalars too; parameters stay parameters."""
    for shape in [(), (0,), (2, 3)]:
        value = torch.ones(shape, dtype=dtype)
        again = through_file(value)
        assert again.dtype == dtype
        assert torch.equal(again, value)
    parameter = torch.nn.Parameter(torch.randn(3), requires_grad=False)
    assert same(through_file([parameter])[0], parameter)
    sparse = torch.eye(3).to_sparse()
    assert torch.equal(through_file(sparse).to_dense(), torch.eye(3))


def test_tensors_are_not_copied() -> None:
    """Encoding hands tensors on; shared storage is shared again after loading."""
    tensor = torch.zeros(4)
    assert encode({"a": [tensor]}, "x")["a"][0] is tensor
    again = through_file({"a": tensor, "view": tensor[1:]})
    again["a"][1] = 5.0
    assert again["view"][0] == 5.0


def test_the_states_that_training_has_come_back() -> None:
    """The generators' states, an optimizer's and a module's, versions in its metadata included."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    state = {
        "python": random.getstate(),
        "numpy": numpy.random.get_state(),
        "generator": numpy.random.default_rng(0).bit_generator.state,
        "torch": torch.get_rng_state(),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    again = through_file(state)
    assert same(again, state)
    assert again["model"]._metadata["1"] == {"version": 2}
    random.setstate(again["python"])
    numpy.random.set_state(again["numpy"])


def test_weights_can_be_read_without_igniter() -> None:
    """``torch.load`` alone gives a state_dict that a module takes."""
    model = torch.nn.Linear(2, 1)
    buffer = io.BytesIO()
    torch.save(encode({"model": model.state_dict()}, "to_save"), buffer)
    buffer.seek(0)
    torch.nn.Linear(2, 1).load_state_dict(torch.load(buffer, weights_only=True)["model"])


def test_a_named_tuple_becomes_a_tuple() -> None:
    """Its class is code, and is not kept."""
    point = namedtuple("point", "x y")
    assert same(through_file(point(1, 2)), (1, 2))


class Colour(enum.IntEnum):
    """A class of the user's."""

    RED = 1


class Tensor(torch.Tensor):
    """A tensor of the user's."""


def attributed() -> torch.Tensor:
    """A tensor with something hung on it."""
    tensor = torch.zeros(1)
    tensor.note = len  # type: ignore[attr-defined]
    return tensor


@pytest.mark.parametrize(
    "value",
    [
        lambda: 1,
        object(),
        Colour.RED,
        Colour,
        torch.zeros(1).as_subclass(Tensor),
        attributed(),
        numpy.array([object()]),
        defaultdict(lambda: 1),
        dt.datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")),
        slice(1),
        type("Text", (str,), {})("x"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_else_is_refused_by_its_place(value: Any) -> None:
    """What could not be loaded without running code is refused when it is saved, and named."""
    with pytest.raises(UsageError) as refusal:
        encode({"scheduler": {"fn": [0, value]}}, "to_save")
    assert 'to_save["scheduler"]["fn"][1]' in str(refusal.value)
    assert "state_dict()" in str(refusal.value)


def test_a_refused_key_and_set_item_are_named() -> None:
    """The place of what is refused is named in keys and sets too."""
    with pytest.raises(UsageError, match=r'x\["a"\], its key'):
        encode({"a": {object(): 1}}, "x")
    with pytest.raises(UsageError, match=r'x\["a"\]'):
        encode({"a": {object()}}, "x")


def test_what_contains_itself_is_refused() -> None:
    """A cycle ends in a message."""
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(UsageError, match="contains itself"):
        encode(loop, "to_save")


@pytest.mark.parametrize(
    "value",
    [
        {"__igniter__": "os.system", "value": "true"},
        {"__igniter__": "set"},
        {"__igniter__": [], "value": 1},
        {"__igniter__": "torch.dtype", "value": "load"},
        {"__igniter__": "complex", "value": "x"},
        {"__igniter__": "array", "value": ("<f8", (3,), torch.zeros(1, dtype=torch.uint8))},
        {"__igniter__": "defaultdict", "value": ([], "exec")},
        {"__igniter__": "torch.device", "value": "nowhere"},
    ],
    ids=str,
)
def test_a_forged_value_is_a_value_error(value: Any) -> None:
    """What encode never returns is refused, and nothing in it is called."""
    with pytest.raises(ValueError, match="not a value that igniter saved"):
        decode(value)
