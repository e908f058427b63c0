"""The device of a run by its name, and what is said where there is none."""

from __future__ import annotations

import collections

import pytest
import torch

from igniter.devices import device_named, to_device
from igniter.errors import UsageError


def refusal(name: str | torch.device) -> str:
    """What ``name`` is refused with."""
    with pytest.raises(UsageError) as caught:
        device_named(name)
    return str(caught.value)


@pytest.mark.parametrize("name", ["cpu", torch.device("cpu")])
def test_names(name: str | torch.device) -> None:
    """A device is taken by its name or as torch's object."""
    assert device_named(name) == torch.device("cpu")


def test_auto_is_a_device_that_works() -> None:
    """``auto`` gives a device that tensors can be put on."""
    assert torch.zeros(1, device=device_named("auto")).item() == 0


@pytest.mark.parametrize("name", ["gpu", "CPU", "cuda:-1", ""])
def test_unknown_names(name: str) -> None:
    """What is no device's name is refused with the names to choose from."""
    assert refusal(name) == f"'{name}' is no device; give auto, cpu, cuda, cuda:1 or mps"


@pytest.mark.parametrize("name", ["cuda", "cuda:1", torch.device("cuda"), "mps"])
def test_absent_backend(name: str | torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that this torch was built without is named, in words of our own."""
    backend = torch.device(str(name)).type
    monkeypatch.setattr(getattr(torch.backends, backend), "is_built", lambda: False)
    monkeypatch.setattr(torch, "empty", fail)
    expected = f"device {name}: this torch has no {backend.upper()}; give cpu or auto"
    assert refusal(name) == expected


def test_absent_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with fewer devices says so; where one is there but fails, torch's words stand."""
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch, "empty", fail)
    assert refusal("cuda:1") == "device cuda:1: this machine has no cuda:1; give cpu or auto"
    assert refusal("cuda") == "device cuda: all devices are busy; give cpu or auto"


def fail(*args: object, **options: object) -> None:
    """Fail as torch does where a device is not there, or cannot be used."""
    raise RuntimeError("all devices are busy\nand a second line")


def test_mappings_stay_what_they_are() -> None:
    """A batch that is a defaultdict or a Counter comes back as one, with its values once."""
    batch = collections.defaultdict(list, {"x": [torch.ones(1)], "n": collections.Counter(a=2)})
    moved = to_device(batch, torch.device("cpu"))
    assert moved.default_factory is list
    assert moved["n"] == {"a": 2}
    assert moved is not batch
