"""How a part of a model is declared, given its parameters, and built.

A part, such as ``optimizer``, is declared as a class attribute: a class or any other factory, its
import path, a mapping of names to these (alternatives), or None for no such part. Its parameters
are one of:

- a dict of keyword arguments for what is declared;
- a name, or a name with such a dict: ``"adam"``, ``("adam", {"lr": 0.1})``, or in one dict
  ``{"class": "adam", "lr": 0.1}``. The name is one of the alternatives or an import path;
- a factory, which takes the place of what is declared;
- None, to leave the part out.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from igniter.errors import UsageError
from igniter.imports import named, nearest
from igniter.secrets import mask_mapping

NAME = "class"


@dataclass(frozen=True)
class Component:
    """A part that can be built: what makes it, with which keyword arguments."""

    part: str
    factory: Callable[..., Any]
    arguments: Mapping[str, Any]

    def check(self, *given: Any) -> None:
        """See that it can be called with ``given`` and its arguments, without calling it.

        Raises:
            UsageError: an argument is unknown, missing or given twice.
        """
        try:
            signature = inspect.signature(self.factory)
        except (TypeError, ValueError):  # written in C, it does not tell
            return
        try:
            signature.bind(*given, **self.arguments)
        except TypeError as error:
            raise UsageError(
                f"the {self.part} cannot be built: {error}. {_misfit(self, signature, given)}"
            ) from error

    def build(self, *given: Any) -> Any:
        """Make it from ``given``, such as the optimizer's parameters, and its arguments.

        Raises:
            UsageError: the arguments do not fit.
            Exception: whatever the factory raises.
        """
        self.check(*given)
        return self.factory(*given, **self.arguments)


def declared(owner: type, part: str) -> Any:
    """What the class ``owner``, or one that it inherits from, declares ``part`` to be.

    A function comes as it was written, not bound as a method.
    """
    value = inspect.getattr_static(owner, part, None)
    return value.__func__ if isinstance(value, staticmethod) else value


def component(part: str, declaration: Any, parameters: Any) -> Component | None:
    """The component that a declaration and parameters make; None for no such part.

    Raises:
        UsageError: one of them is no such thing, a name cannot be found, or it is not said which
            of the alternatives is meant.
    """
    if parameters is None:
        return None
    if callable(parameters):
        return Component(part, _factory(part, parameters), {})
    name, arguments = _split(part, parameters)
    if name is not None:
        return Component(part, _by_name(part, declaration, name), arguments)
    if isinstance(declaration, Mapping):
        raise UsageError(
            f"which {part}? Give parameters {{{part!r}: (name, {{…}})}} with one of "
            f"{_listed(declaration)}, or an import path"
        )
    if declaration is None:
        if arguments:
            raise UsageError(
                f"parameters are given for the {part}, {_arguments_told((), arguments)}, and the "
                f"class declares none. Name one: {{{part!r}: (import path, {{…}})}}"
            )
        return None
    return Component(part, _factory(part, declaration), arguments)


def _split(part: str, parameters: Any) -> tuple[str | None, dict[str, Any]]:
    """The name in the parameters, None without one, and the arguments."""
    name, arguments = None, parameters
    if isinstance(parameters, str):
        name, arguments = parameters, {}
    elif isinstance(parameters, (tuple, list)) and len(parameters) == 2:
        name, arguments = parameters
    elif isinstance(parameters, Mapping) and NAME in parameters:
        name = parameters[NAME]
        arguments = {key: value for key, value in parameters.items() if key != NAME}
    sound = (
        isinstance(name, (str, type(None)))
        and isinstance(arguments, Mapping)
        and all(isinstance(key, str) for key in arguments)
    )
    if not sound:
        raise UsageError(
            f"the parameters of the {part} are {parameters!r}. Give a dict of its arguments, a "
            "pair of a name and such a dict, a function that builds it, or None to leave it out"
        )
    return name, dict(arguments)


def _by_name(part: str, declaration: Any, name: str) -> Callable[..., Any]:
    if isinstance(declaration, Mapping) and name in declaration:
        return _factory(part, declaration[name])
    if "." in name or ":" in name:
        return _factory(part, name)
    if not isinstance(declaration, Mapping):
        raise UsageError(
            f"the {part} {name!r} is unknown: the class declares no alternatives, so give an "
            "import path such as 'package.module.Name'"
        )
    raise UsageError(
        f"the {part} {name!r} is unknown: give one of {_listed(declaration)}, or an import path"
        f"{nearest(name, map(str, declaration))}"
    )


def _factory(part: str, declaration: Any) -> Callable[..., Any]:
    """What makes the part, by its import path or as it is."""
    found = declaration
    if isinstance(declaration, str):
        try:
            found = named(declaration)
        except UsageError as error:
            raise UsageError(f"the {part}: {error}") from error
    if isinstance(found, type):
        return found
    # An object would be shared by all models of the class, and state of one go into another.
    if not callable(found) or hasattr(found, "state_dict"):
        raise UsageError(
            f"the {part} is {_told(found)}, which builds nothing. Give a class or a function that "
            "makes it, or assign the object in setup()"
        )
    return found  # type: ignore[no-any-return]


def _misfit(component: Component, signature: inspect.Signature, given: tuple[Any, ...]) -> str:
    """What the factory takes, what it is given, and the nearest name of what is unknown."""
    takes = list(signature.parameters)
    unknown = [name for name in component.arguments if name not in takes]
    return (
        f"{_told(component.factory)} takes {', '.join(takes) or 'nothing'}"
        f"{nearest(unknown[0], takes) if unknown else ''}; it is given "
        f"{_arguments_told(given, component.arguments)}"
    )


def _arguments_told(given: tuple[Any, ...], arguments: Mapping[str, Any]) -> str:
    told = [f"a {type(value).__name__}" for value in given]
    told += [f"{name}={value!r}" for name, value in mask_mapping(arguments).items()]
    return ", ".join(told) or "nothing"


def _told(factory: Any) -> str:
    if isinstance(factory, functools.partial):
        return _told(factory.func)
    if isinstance(factory, type) or inspect.isroutine(factory):
        return str(getattr(factory, "__qualname__", factory))
    return f"an object of {type(factory).__name__}"


def _listed(alternatives: Mapping[str, Any]) -> str:
    return ", ".join(repr(name) for name in alternatives)
