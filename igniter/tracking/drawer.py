"""The handle that the training process has on the child drawing the run's metrics."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

from igniter.rundir import Paths
from igniter.tracking import child


class Drawer:
    """The child process drawing one picture."""

    def __init__(self, paths: Paths, process: subprocess.Popen[bytes]) -> None:
        """Use :func:`start`."""
        self._paths = paths
        self._process = process

    def finish(self, timeout: float, warn: Callable[[str], None]) -> None:
        """Wait at most ``timeout`` seconds for it, and warn if it has failed by then.

        A child that is still at work then goes on by itself: the picture comes a little later.
        """
        problem = child.failure(self._process, timeout)
        if problem is not None:
            why = problem or f"exit code {self._process.returncode}"
            warn(
                f"{self._paths.pictures[0]} was not drawn: {why}. All values are in "
                f"{self._paths.journal}; --no-picture leaves it out"
            )


def start(paths: Paths) -> Drawer:
    """Start drawing the run in ``paths.root`` as its journal is now.

    Raises:
        OSError: the child cannot be started.
    """
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    environ.pop("MPLBACKEND", None)  # a notebook's, which the child may not find
    process = subprocess.Popen(
        child.command(
            "igniter.tracking.picture",
            str(paths.root.absolute()),
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environ,
        # A second signal to the terminal's process group ends the wait for it, not the drawing.
        start_new_session=True,
    )
    return Drawer(paths, process)
