"""Randomness by address: generators are set from (seed, purpose, pass, number), never carried.

Before each sampler draw, batch load, training step and evaluation batch, the generators of
python, numpy and torch (every accelerator device too) are set from a hash of where the run
stands. So the draw at any position is the same whether the run came there straight, after a
stop, with other workers or with more evaluations on the way, and a checkpoint holds no
generator state at all.
"""

from __future__ import annotations

import functools
import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from igniter.mixing import mix
from igniter.twister import seed_python


class Address:
    """The seeds of one purpose: ``Address(seed, "step")(pass_, number)`` is a 64-bit integer.

    Different purposes, ranks, passes and numbers give unrelated seeds.
    """

    def __init__(self, seed: int, purpose: str, rank: int = 0) -> None:
        name = f"{seed}/{purpose}/{rank}".encode()
        self._base = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
        self._pass, self._in_pass = 0, mix(self._base)

    def __call__(self, pass_: int, number: int = 0) -> int:
        """The seed at ``number`` of ``pass_``."""
        if pass_ != self._pass:
            self._pass, self._in_pass = pass_, mix(self._base ^ pass_)
        return mix(self._in_pass ^ number)


def set_generators(seed: int) -> None:
    """Set python's, numpy's and torch's global generators from one 64-bit ``seed`` (about 5 µs).

    Each is set from 32 bits: torch's CPU generator uses the lower half of what it is given, numpy's
    is given the upper half, and python's what differs between the two. ``torch.manual_seed`` does
    the same for torch with an import and several look-ups, at 70 to 110 µs a call.
    """
    upper = seed >> 32
    seed_python((seed ^ upper) & 0xFFFFFFFF)
    np.random.seed(upper)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for generator in torch.cuda.default_generators:
            generator.manual_seed(seed)
    elif _mps_in_use():
        torch.mps.manual_seed(seed)


@functools.cache
def _mps_in_use() -> bool:
    return torch.backends.mps.is_built() and torch.backends.mps.is_available()


def seed_everything(seed: int, purpose: str = "process") -> None:
    """Seed python, numpy and torch on every device, so that a fresh process builds equal weights.

    Unlike :func:`set_generators` it reaches accelerators that are not in use yet.
    """
    address = Address(seed, purpose)(0)
    set_generators(address)
    torch.manual_seed(address)


@contextmanager
def kept_generators() -> Iterator[None]:
    """Leave python's, numpy's and torch's generators as they were found.

    What a script draws after a training would otherwise depend on whether that was run or had
    been complete before.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def make_deterministic() -> None:
    """Switch torch's deterministic kernels on; an operation that has none then raises."""
    # cuBLAS reads this at its first use: its default workspaces make results vary from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
