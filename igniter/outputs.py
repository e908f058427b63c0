"""Standard output and error that cannot be written to: nobody reads, or the disk is full."""

from __future__ import annotations

import os
import sys


def flush_or_drop() -> None:
    """Flush stdout and stderr; drop what they cannot write.

    A stream keeps what could not be written and then fails every flush: that of multiprocessing
    when it starts a worker, which would end training, and the interpreter's at exit, which would
    give the process an exit code of its own.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # ValueError: the script closed it
            _drop(stream)


def _drop(stream: object) -> None:
    """Let the null device take what ``stream`` holds; what is written later is tried again."""
    try:
        descriptor = stream.fileno()  # type: ignore[attr-defined]
    except (OSError, ValueError, AttributeError):
        return  # not a file of the system's
    aside = os.dup(descriptor)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, descriptor)
        stream.flush()  # type: ignore[attr-defined]
    finally:
        os.dup2(aside, descriptor)
        os.close(aside)
        os.close(null)
