"""Fixtures shared by the tests of training."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `import support`

with warnings.catch_warnings():
    # Importing ignite uses what torch 2.13 has deprecated; pytest makes that an error.
    warnings.simplefilter("ignore", DeprecationWarning)
    import ignite.engine  # noqa: F401

from support import Zygote


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Starts training scripts as real processes, without their imports' two seconds each."""
    with Zygote() as started:
        yield started
