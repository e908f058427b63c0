"""The handle that the training process has on the child making TensorBoard's files."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from importlib.util import find_spec

from igniter.rundir import Paths
from igniter.tracking import child

NOT_HERE = "no TensorBoard files: tensorboard is not here (pip install tensorboard)"


class BoardWriter:
    """The child process of one attempt."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Use :func:`start`."""
        self._process = process

    def finish(self, timeout: float, warn: Callable[[str], None]) -> None:
        """Tell it that training has ended; wait at most ``timeout`` seconds, and say if it failed.

        A child that is still at work then goes on by itself, for half a minute at most.
        """
        problem = child.failure(self._process, timeout)
        if problem is not None:
            warn(problem or f"no TensorBoard files: {self._process.returncode}")


def start(paths: Paths, warn: Callable[[str], None]) -> BoardWriter | None:
    """Start the child for the run in ``paths.root``, whose ``run.yaml`` holds this attempt.

    None, with a warning, where that cannot be.
    """
    if find_spec("tensorboard") is None:
        warn(NOT_HERE)
        return None
    root, pid = str(paths.root.absolute()), str(os.getpid())
    try:
        process = subprocess.Popen(
            child.command("igniter.tracking.board", root, pid),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            # A signal to the terminal's process group stops training, not this.
            start_new_session=True,
        )
    except OSError as error:
        warn(f"no TensorBoard files: {error}")
        return None
    return BoardWriter(process)
