"""A state copied into memory that is kept: equal to the bit, apart from what training does next."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from igniter.checkpoint import buffers as module
from igniter.checkpoint.buffers import Buffers
from igniter.checkpoint.compare import first_difference
from igniter.checkpoint.portable import decode, encode


def odd_tensors() -> dict[str, Any]:
    """Tensors of every kind that a state may hold."""
    base = torch.arange(24.0).reshape(4, 6)
    return {
        "plain": torch.randn(5, 3),
        "transposed": base.t(),
        "part": base[1:3, ::2],
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.empty(0, 4),
        "half": torch.randn(7).half(),
        "bfloat16": torch.randn(7).bfloat16(),
        "float8": torch.randn(8).to(torch.float8_e4m3fn),
        "bool": torch.tensor([True, False]),
        "complex": torch.randn(3, dtype=torch.complex64),
        "conjugate": torch.randn(3, dtype=torch.complex64).conj(),
        "sparse": torch.eye(3).to_sparse(),
        "quantized": torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8),
        "wanting gradient": torch.randn(2, requires_grad=True),
        "result": torch.randn(2, requires_grad=True) * 2,
        "parameter": nn.Parameter(torch.randn(2)),
        "frozen": nn.Parameter(torch.randn(2), requires_grad=False),
        "expanded": torch.randn(1, 3).expand(4, 3),
    }


def copied(state: Any, buffers: Buffers) -> Any:
    """A copy as a snapshot has it."""
    buffers.begin()
    made = encode(state, "state", buffers.copy)
    buffers.finish()()
    return made


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*quantiz.*")
def test_a_copy_is_equal_to_the_bit() -> None:
    """Of every kind of tensor: values, type, shape, strides, and whether it wants a gradient."""
    state = odd_tensors()
    made = decode(copied(state, Buffers()))
    assert first_difference(state, made, "state") is None
    for name, tensor in state.items():
        assert type(made[name]) is type(tensor), name
        assert made[name].requires_grad == tensor.requires_grad, name
        if tensor.layout is torch.strided:
            assert made[name].stride() == tensor.stride(), name


def test_a_copy_is_apart_from_the_state() -> None:
    """What is done to the state afterwards, tensors or not, is not in the copy."""
    array = nn.Linear(2, 2).weight.detach().numpy().copy()
    state = {"weights": torch.ones(3), "list": [1, {"a": torch.zeros(2)}], "array": array}
    before = array.copy()
    made = copied(state, Buffers())
    state["weights"].add_(1)
    state["list"][1]["a"].fill_(7)
    state["list"].append(2)
    array += 1
    made = decode(made)
    assert torch.equal(made["weights"], torch.ones(3))
    assert made["list"][0] == 1
    assert len(made["list"]) == 2
    assert torch.equal(made["list"][1]["a"], torch.zeros(2))
    assert (made["array"] == before).all()


def test_what_shares_memory_still_does() -> None:
    """Tied weights and views are copied once, and are tied in the copy."""
    weight = nn.Parameter(torch.randn(3, 3))
    made = copied({"a": weight, "b": weight, "row": weight.detach()[1]}, Buffers())
    made["a"].data[1] = 5.0
    assert torch.equal(made["b"], made["a"])
    assert torch.equal(made["row"], torch.full((3,), 5.0))


def test_memory_is_kept_for_the_next_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second state of the same size asks for none; a larger one asks only for what is missing."""
    asked: list[int] = []
    memory = module._memory
    monkeypatch.setattr(module, "_BLOCK", 1 << 16)
    monkeypatch.setattr(
        module, "_memory", lambda size, pinned: asked.append(size) or memory(size, pinned=pinned)
    )
    buffers = Buffers()
    state = {str(n): torch.randn(5000) for n in range(6)}
    first = copied(state, buffers)
    once = len(asked)
    assert sum(asked) <= 2 * 6 * 20_000
    addresses = [tensor.data_ptr() for tensor in first.values()]
    second = copied(state, buffers)
    assert [tensor.data_ptr() for tensor in second.values()] == addresses
    assert len(asked) == once
    copied({**state, "more": torch.randn(50_000)}, buffers)
    assert asked[once:] == [200_000]


@pytest.mark.skipif(sys.platform != "linux", reason="how memory is mapped is read from /proc")
def test_forked_workers_do_not_keep_the_copy() -> None:
    """The memory is not inherited: a worker would hold its pages, and the next copy be slow."""
    made = copied({"a": torch.ones(1 << 20)}, Buffers())
    address = made["a"].data_ptr()

    def is_mapped() -> bool:
        lines = Path("/proc/self/maps").read_text().splitlines()
        ranges = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines]
        return any(start <= address < end for start, end in ranges)

    assert is_mapped()
    if (child := os.fork()) == 0:
        os._exit(is_mapped())
    assert os.waitpid(child, 0)[1] == 0


def test_memory_is_touched_before_the_first_copy() -> None:
    """What is reserved is what the copy is made in; who does not want it any more waits less."""
    state = {str(n): torch.randn(5000) for n in range(6)}
    buffers = Buffers()
    buffers.reserve(state.values())
    (region,) = buffers._regions.values()
    (block,) = region._blocks
    start = torch.frombuffer(block, dtype=torch.uint8).data_ptr()
    assert copied(state, buffers)["0"].data_ptr() == start
    assert len(region._blocks) == 1
    unwanted = Buffers()
    unwanted.wanted = False
    unwanted.reserve(state.values())
    assert first_difference(state, copied(state, unwanted), "state") is None


def test_too_little_memory_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system cannot give is a MemoryError, which the saver has a way round."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(MemoryError, match="Cannot allocate memory"):
        copied({"a": torch.ones(3)}, Buffers())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a GPU")
def test_a_copy_from_a_gpu_is_what_held_when_it_was_asked_for() -> None:
    """Steps that are queued after the copy do not reach it, though nothing waits in between."""
    state = {"weights": torch.zeros(1 << 24, device="cuda")}
    buffers = Buffers()
    buffers.begin()
    made = encode(state, "state", buffers.copy)
    wait = buffers.finish()
    for _ in range(50):
        state["weights"].add_(1)
    wait()
    assert made["weights"].device.type == "cpu"
    assert made["weights"].is_pinned()
    assert not made["weights"].any()
