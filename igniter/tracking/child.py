"""A child process of igniter's own: the command that starts it, and the wait for its end."""

from __future__ import annotations

import subprocess
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


def failure(process: subprocess.Popen[bytes], timeout: float) -> str | None:
    """Close the child's stdin, if it has one, and wait at most ``timeout`` seconds for its end.

    Returns the last line that a child which failed has said, "" where it said nothing. None where
    it ended well, or is still at work: it then goes on by itself.
    """
    try:
        said, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        assert process.stdout is not None
        process.stdout.close()
        # Popen warns of a child that is still running when it is collected; this one may be.
        process.returncode = 0
        return None
    if process.returncode == 0:
        return None
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
