"""Objects by their import path, such as ``torch.optim.AdamW``.

Importing a module runs it, and a class or a function of Python's own can be made to run anything.
So what the user's code and configuration name is imported, and of what a file names, which may come
from anywhere, only a class of torch's kinds is found that was imported already.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from igniter.errors import UsageError

# What builds a part of a model and does nothing else.
_KINDS = {
    "torch.nn.modules.module.Module",
    "torch.optim.optimizer.Optimizer",
    "torch.optim.lr_scheduler.LRScheduler",
}
_BUILDERS = {"igniter.schedulers", "igniter.warmup"}


class FromFile(str):
    """A text out of a file, which may come from anywhere: as a path it imports nothing."""


def named(path: str) -> Any:
    """The object at ``path``: ``torch.optim.AdamW``, or ``package.module:Class.attribute``.

    What is before a colon is imported as a module. Without one, a name that a module has wins over
    a submodule of the same name. Of a :class:`FromFile` nothing is imported.

    Raises:
        UsageError: there is no such object; the text names the part that is missing and the
            nearest name that is there.
    """
    if isinstance(path, FromFile):
        return _imported_part(path)
    before, colon, after = path.partition(":")
    names = [*before.split("."), *(after.split(".") if colon else [])]
    if not all(name.isidentifier() for name in names):
        raise UsageError(
            f"{path!r} is no import path; write it as 'package.module.Name' or "
            "'package.module:Name'"
        )
    modules = len(before.split(".")) if colon else 1
    found: Any = None
    for index in range(len(names)):
        found = _next(path, names, index, found, must_be_module=index < modules)
    return found


def path_of(value: Any) -> str | None:
    """The import path under which :func:`named` finds ``value`` itself, None where there is none.

    There is none for what is made in a function, such as a lambda, and for what only the script has
    that is being run: another process does not find it.
    """
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not (isinstance(module, str) and isinstance(name, str)) or module == "__main__":
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}:{name}" if found is value else None


def _imported_part(path: str) -> Any:
    """What is at ``path``, imported by somebody else, if it builds a part of a model.

    Raises:
        UsageError: there is no such thing.
    """
    module, _, name = path.replace(":", ".").rpartition(".")
    # Not getattr: a module may import something when it is asked for a name.
    found = getattr(sys.modules.get(module), "__dict__", {}).get(name)
    kinds = {f"{base.__module__}.{base.__qualname__}" for base in getattr(found, "__mro__", ())}
    if kinds & _KINDS or getattr(found, "__module__", None) in _BUILDERS:
        return found
    raise UsageError(
        f"{str(path)!r} is what a file names, and no module, optimizer or scheduler of that name "
        "is imported. Import it before, or give the part itself"
    )


def nearest(name: str, among: Iterable[str]) -> str:
    """``"; the nearest is 'x'"``, or nothing where none of ``among`` is near."""
    close = difflib.get_close_matches(name, sorted(among), n=1)
    return f"; the nearest is {close[0]!r}" if close else ""


def _next(path: str, names: list[str], index: int, holder: Any, *, must_be_module: bool) -> Any:
    name = names[index]
    if not must_be_module:
        try:
            return getattr(holder, name)
        except AttributeError:
            if not hasattr(holder, "__path__"):  # it has no submodules
                raise _missing(path, name, _told(holder), dir(holder)) from None
    module = ".".join(names[: index + 1])
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise UsageError(
                f"{path!r} cannot be imported: {module} needs {error.name}, which is not installed"
            ) from error
        if hasattr(holder, name):
            raise UsageError(
                f"{path!r} cannot be imported: {module} is no module; put the colon before {name}"
            ) from None
        holds = "this Python" if holder is None else f"the package {holder.__name__}"
        raise _missing(path, name, holds, _names_in(holder)) from None


def _missing(path: str, name: str, holder: str, among: Iterable[str]) -> UsageError:
    return UsageError(f"{path!r} cannot be found: {holder} has no {name!r}{nearest(name, among)}")


def _told(holder: Any) -> str:
    if isinstance(holder, ModuleType):
        return f"the module {holder.__name__}"
    return getattr(holder, "__qualname__", f"a {type(holder).__name__}")


def _names_in(package: ModuleType | None) -> set[str]:
    """What can be named next in a package: its names and its submodules."""
    if package is None:
        return {module.name for module in pkgutil.iter_modules()}
    submodules = {module.name for module in pkgutil.iter_modules(getattr(package, "__path__", []))}
    return submodules | set(dir(package))
