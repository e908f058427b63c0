"""How a part of a model is declared, given parameters, checked and built."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from igniter.errors import UsageError
from igniter.models.components import component, declared

ADAM, SGD = torch.optim.Adam, torch.optim.SGD
ALTERNATIVES = {"adam": ADAM, "sgd": "torch.optim.SGD"}


def made(declaration: Any, parameters: Any, part: str = "optimizer") -> tuple[Any, dict[str, Any]]:
    """The factory and the arguments of a component that there is."""
    found = component(part, declaration, parameters)
    assert found is not None
    return found.factory, dict(found.arguments)


def sgd(params: Any, **how: Any) -> torch.optim.Optimizer:
    """A function as a factory."""
    return SGD(params, **how)


@pytest.mark.parametrize(
    ("declaration", "parameters", "factory", "arguments"),
    [
        (ADAM, {}, ADAM, {}),
        (ADAM, {"lr": 0.1}, ADAM, {"lr": 0.1}),
        ("torch.optim.Adam", {"lr": 0.1}, ADAM, {"lr": 0.1}),
        (sgd, {"lr": 0.1}, sgd, {"lr": 0.1}),
        (ALTERNATIVES, ("adam", {"lr": 0.1}), ADAM, {"lr": 0.1}),
        (ALTERNATIVES, ["sgd", {"lr": 0.1}], SGD, {"lr": 0.1}),
        (ALTERNATIVES, ["sgd", {}], SGD, {}),
        (ALTERNATIVES, "sgd", SGD, {}),
        (ALTERNATIVES, {"class": "sgd", "lr": 0.1}, SGD, {"lr": 0.1}),
        (ALTERNATIVES, ("torch.optim.AdamW", {}), torch.optim.AdamW, {}),
        (ADAM, ("torch.optim:SGD", {"lr": 0.1}), SGD, {"lr": 0.1}),
        (None, {"class": "torch.optim.SGD", "lr": 0.1}, SGD, {"lr": 0.1}),
        (ADAM, SGD, SGD, {}),
        (None, sgd, sgd, {}),
        (ADAM, OrderedDict(lr=0.1), ADAM, {"lr": 0.1}),
    ],
)
def test_forms(declaration: Any, parameters: Any, factory: Any, arguments: Any) -> None:
    """Each way to declare a part and to give it parameters, as code and as YAML write them."""
    assert made(declaration, parameters) == (factory, arguments)


@pytest.mark.parametrize("declaration", [ADAM, None, ALTERNATIVES])
def test_left_out(declaration: Any) -> None:
    """Parameters that are None leave the part out, and a class without one has none."""
    assert component("optimizer", declaration, None) is None
    assert component("optimizer", None, {}) is None


def test_built() -> None:
    """It is called with what the part is given, and its arguments."""
    found = component("optimizer", ALTERNATIVES, ("sgd", {"lr": 0.25, "momentum": 0.5}))
    assert found is not None
    optimizer = found.build(nn.Linear(2, 1).parameters())
    assert isinstance(optimizer, SGD)
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (0.25, 0.5)


@pytest.mark.parametrize(
    ("declaration", "parameters", "said"),
    [
        (ALTERNATIVES, {}, "which optimizer? Give parameters {'optimizer': (name, {…})} with one"),
        (ALTERNATIVES, {"lr": 1}, "of 'adam', 'sgd', or an import path"),
        (ALTERNATIVES, "adm", "'adm' is unknown: give one of 'adam', 'sgd', or an import path; the "
                              "nearest is 'adam'"),
        (ADAM, "sgd", "'sgd' is unknown: the class declares no alternatives, so give an import"),
        (ADAM, "torch.optim.SGDD", "the optimizer: 'torch.optim.SGDD' cannot be found"),
        ("torch.optim.Adm", {}, "the optimizer: 'torch.optim.Adm' cannot be found"),
        ({"adam": "torch.optim.Adm"}, "adam", "the nearest is 'Adam'"),
        (None, {"lr": 0.1}, "for the optimizer, lr=0.1, and the class declares none. Name one"),
        *((ADAM, wrong, "the parameters of the optimizer are ")
          for wrong in (5, [], ["sgd"], ("sgd", 5), (1, {}), {"class": 5}, {0: 1}, ("a", {}, 1))),
        (ADAM, nn.Linear(1, 1), "the optimizer is an object of Linear, which builds nothing"),
        (nn.Linear(1, 1), {}, "Give a class or a function that makes it, or assign the object in"),
        ({"net": nn.Linear(1, 1)}, "net", "is an object of Linear, which builds nothing"),
        (5, {}, "the optimizer is an object of int, which builds nothing"),
        ("torch.nn.modules", {}, "an object of module, which builds nothing"),
    ],
)  # fmt: skip
def test_refused(declaration: Any, parameters: Any, said: str) -> None:
    """What is no declaration or no parameters is refused in words that name the part and the way.

    Trap: AR, an object shared by the models of a class: the first one's optimizer is driven on.
    """
    with pytest.raises(UsageError) as raised:
        component("optimizer", declaration, parameters)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "given", "said"),
    [
        ({"lrr": 1}, 1, "unexpected keyword argument 'lrr'. Adam takes params, lr, betas"),
        ({"lrr": 1}, 1, "; the nearest is 'lr'; it is given a list, lrr=1"),
        ({"params": 1}, 1, "multiple values for argument 'params'"),
        ({}, 0, "missing a required argument: 'params'"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], given: int, said: str) -> None:
    """Arguments that do not fit are named before anything is built, with the nearest that would."""
    found = component("optimizer", ADAM, arguments)
    assert found is not None
    for call in (found.check, found.build):
        with pytest.raises(UsageError) as raised:
            call(*[[]] * given)
        assert said in str(raised.value)
        assert str(raised.value).startswith("the optimizer cannot be built: ")


def test_what_is_told_of_arguments() -> None:
    """A function with arguments filled in is told by its own name, and no secret is."""
    found = component("optimizer", partial(ADAM, lr=1.0), {"lrr": 1, "hub_token": "s3cret"})
    assert found is not None
    with pytest.raises(UsageError, match="Adam takes ") as raised:
        found.check([])
    assert "s3cret" not in str(raised.value)


def test_what_cannot_tell_its_arguments_is_called() -> None:
    """A factory written in C is not refused for it; what it raises is its own."""
    found = component("loss", dict, {"a": 1})
    assert found is not None
    assert found.build([("b", 2)]) == {"a": 1, "b": 2}


def test_an_error_inside_is_its_own() -> None:
    """A TypeError from inside the factory is not taken for wrong arguments."""

    def broken() -> None:
        raise TypeError("inside")

    found = component("module", broken, {})
    assert found is not None
    with pytest.raises(TypeError, match=r"^inside$"):
        found.build()


def test_declared() -> None:
    """A declaration is found in the class and those above, is not bound, and can be taken back."""

    class Above:
        module = nn.Linear
        optimizer = sgd
        loss = staticmethod(sgd)
        scheduler: ClassVar[dict[str, str]] = {"one": "torch.optim.SGD"}

    class Below(Above):
        module = None

    class Lowest(Below):
        pass

    assert declared(Lowest, "module") is None
    assert declared(Above, "module") is nn.Linear
    assert declared(Lowest, "optimizer") is sgd
    assert declared(Lowest, "loss") is sgd
    assert declared(Lowest, "scheduler") is Above.scheduler
    assert declared(Lowest, "nothing") is None
