"""The directories of a run: made, and set aside for a fresh run."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

from igniter import atomic
from igniter.errors import UsageError
from igniter.rundir import Paths


def create(paths: Paths) -> None:
    """Make the run's directories and see that they can be written to.

    Raises:
        UsageError: one of them cannot be made or written to.
    """
    for directory in (paths.root, paths.checkpoints, paths.model):
        try:
            atomic.make_directory(directory)
            if not os.access(directory, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "it is read-only for this user")
        except OSError as error:
            raise UsageError(
                f"cannot write to the directory {directory}: {error.strerror}.\n"
                "Choose another place with --output-dir, --checkpoint-dir or --model-dir."
            ) from error


def set_aside(paths: Paths, clock: Callable[[], float] = time.time) -> Path:
    """Rename the run's directory so that a fresh run can take its place; return the new path.

    It becomes ``<root>.old-<UTC time>``, with a counter where that is taken. Checkpoints and model
    kept outside ``root`` are renamed likewise. A lock held in the directory moves with it.

    Raises:
        UsageError: it cannot be renamed.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(clock()))
    outside = [
        directory
        for directory in (paths.checkpoints, paths.model)
        if directory.is_dir() and not directory.resolve().is_relative_to(paths.root.resolve())
    ]
    for directory in outside:
        _rename_aside(directory, stamp)
    return _rename_aside(paths.root, stamp)


def _rename_aside(directory: Path, stamp: str) -> Path:
    directory = directory.absolute()  # "." has no name to build on
    target = atomic.unused(directory.with_name(f"{directory.name}.old-{stamp}"))
    try:
        directory.rename(target)
        atomic.fsync_directory(target.parent)
    except OSError as error:
        raise UsageError(
            f"cannot set {directory} aside as {target.name}: {error.strerror}.\n"
            "Rename it by hand, or choose another --output-dir."
        ) from error
    return target
