"""Fixtures shared by the tests of training."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `import support`

# One for all the processes that share the tests out, and what to set to see a failure again.
os.environ.setdefault("TEST_SEED", str(time.time_ns() % 1_000_000))

with warnings.catch_warnings():
    # Importing ignite uses what torch 2.13 has deprecated; pytest makes that an error.
    warnings.simplefilter("ignore", DeprecationWarning)
    import ignite.engine  # noqa: F401

import hypothesis
from support import Zygote
from tracked import Run, begun_run

from igniter import attempt

# How long an example takes says something of the machine alone.
hypothesis.settings.register_profile("igniter", deadline=None)
hypothesis.settings.load_profile("igniter")


def pytest_report_header() -> str:
    """The seed of what is drawn at random."""
    return f"TEST_SEED={os.environ['TEST_SEED']}"


@pytest.fixture(scope="session", autouse=True)
def drawing() -> Iterator[Callable[..., None]]:
    """Leaves out the picture at the end of each run, a second each; what draws it is given."""
    draw = attempt._draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempt, "_draw", lambda *_: None)
        yield draw


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Starts training scripts as real processes, without their imports' two seconds each."""
    with Zygote() as started:
        yield started


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow database for all tests: making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def run(
    tmp_path: Path, store: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """A tracked run that has begun, its experiment named for the test."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    return begun_run(tmp_path / "run", store, request.node.name)
