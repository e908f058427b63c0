"""How a child process of igniter's own is started: the interpreter's command line."""

from __future__ import annotations

import sys

# The child finds igniter and its libraries wherever this process would, but after the standard
# library and the installed packages: a script's directory may hold a http.py of the user's own.
_CODE = (
    "import sys; name, count, *rest = sys.argv[1:]; "
    "sys.path = [entry for entry in sys.path if entry] + rest[int(count) :]; "
    "from importlib import import_module; import_module(name).main(*rest[: int(count)])"
)


def command(module: str, *arguments: str) -> list[str]:
    """The command that calls ``main(*arguments)`` of ``module`` in an interpreter of its own."""
    return [sys.executable, "-c", _CODE, module, str(len(arguments)), *arguments, *sys.path]
