"""Objects by their import path, and what is said where there is none."""

from __future__ import annotations

import collections.abc
import sys
from pathlib import Path

import pytest
import torch

from igniter.errors import UsageError
from igniter.imports import named, path_of


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("torch.optim.AdamW", torch.optim.AdamW),
        ("torch.optim:AdamW", torch.optim.AdamW),
        ("torch.nn.Linear.forward", torch.nn.Linear.forward),
        ("torch.nn.functional", torch.nn.functional),
        ("collections.abc:Mapping.get", collections.abc.Mapping.get),
        ("builtins.len", len),
    ],
)
def test_found(path: str, value: object) -> None:
    """A path leads to a module, to what is in one, and to what is in a class there."""
    assert named(path) is value


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("trch.optim.AdamW", "this Python has no 'trch'; the nearest is 'torch'"),
        ("torch.optm.AdamW", "the package torch has no 'optm'; the nearest is 'optim'"),
        ("torch.optm:AdamW", "the package torch has no 'optm'; the nearest is 'optim'"),
        ("torch.optim.AdmW", "the package torch.optim has no 'AdmW'; the nearest is 'AdamW'"),
        ("torch.optim.AdamW.stp", "AdamW has no 'stp'; the nearest is 'step'"),
        ("torch.optim.sgd.SGDD", "the module torch.optim.sgd has no 'SGDD'; the nearest is 'SGD'"),
        ("torch.optim.AdamW:step", "torch.optim.AdamW is no module; put the colon before AdamW"),
        ("torch.optim.zzzzzzzz", "the package torch.optim has no 'zzzzzzzz'"),
        *((path, "is no import path; write it as") for path in ("", ".", "a b", "a.", "a:", ":b")),
    ],
)
def test_missing(path: str, said: str) -> None:
    """An error names the whole path, the part of it that is missing, and the nearest name."""
    with pytest.raises(UsageError) as raised:
        named(path)
    assert repr(path) in str(raised.value)
    assert str(raised.value).count(said) == 1


def test_a_module_that_needs_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that lacks a library is not called missing; errors of its own are shown."""
    (tmp_path / "needs_more_52.py").write_text("import not_installed_52\n")
    (tmp_path / "broken_52.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="needs_more_52 needs not_installed_52, which is not"):
        named("needs_more_52.Model")
    with pytest.raises(ZeroDivisionError):
        named("broken_52.Model")


def test_submodules_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A submodule that its package did not import is found; a name in the package wins over it."""
    package = tmp_path / "package_52"
    package.mkdir()
    (package / "__init__.py").write_text("shadowed = 5\n")
    (package / "inner.py").write_text("class Thing: pass\n")
    (package / "shadowed.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert named("package_52.inner.Thing").__name__ == "Thing"
    assert named("package_52.shadowed") == 5


def top_level() -> None:
    """Something with an import path."""


def test_path_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be imported elsewhere has a path that leads back to it; nothing else has one."""
    path = path_of(torch.optim.AdamW)
    assert path is not None
    assert named(path) is torch.optim.AdamW

    def local() -> None: ...

    assert [path_of(value) for value in (local, lambda: 0, 5, torch.nn.Linear(1, 1))] == [None] * 4
    monkeypatch.setitem(sys.modules, "top_52", sys.modules[__name__])
    monkeypatch.setattr(top_level, "__module__", "top_52")
    assert path_of(top_level) == "top_52:top_level"
    monkeypatch.setattr(top_level, "__module__", "__main__")
    assert path_of(top_level) is None
