"""The handle that the training process has on the child sending its run to MLflow.

The child is a process and not a thread: importing mlflow beside a training loop slows it many
times over for seconds. This module imports nothing of it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from igniter.rundir import Paths
from igniter.tracking import child
from igniter.tracking.state import Outcome, State, count_unsent


class Shipper:
    """The child process of one attempt."""

    def __init__(self, paths: Paths, process: subprocess.Popen[bytes]) -> None:
        """Use :func:`start`."""
        self._paths = paths
        self._process = process
        self._offset = State.load(paths.tracking).destination.offset

    def run_id(self) -> str | None:
        """Return the MLflow run's id, None as long as there is none."""
        return State.load(self._paths.tracking).destination.run_id

    def finish(self, timeout: float) -> Outcome:
        """Tell the child that training has ended; wait at most ``timeout`` seconds for it.

        ``run.yaml`` must hold the run's final status by now. A child that is still at work then
        goes on by itself for at most half a minute; ``left`` says how much it has yet to send.
        """
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            # Popen warns of a child that is still running when it is collected; this one may be.
            self._process.returncode = 0
        destination = State.load(self._paths.tracking).destination
        journal = self._paths.journal
        left = count_unsent(journal, destination.offset)
        sent = count_unsent(journal, self._offset) - left
        return Outcome(destination.run_id, sent, left, destination.problem)


def start(paths: Paths, environ: Mapping[str, str] | None = None) -> Shipper:
    """Start the child for the run in ``paths.root``, whose ``run.yaml`` holds this attempt.

    ``environ`` is the child's environment (default: this process's), where credentials are. What
    the child has to say goes to ``tracking.log``, that of the last attempt.

    Raises:
        OSError: the child cannot be started.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    log = os.open(paths.root / "tracking.log", flags, 0o666)
    try:
        process = subprocess.Popen(
            child.command("igniter.tracking.follow", str(paths.root.absolute()), str(os.getpid())),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**(os.environ if environ is None else environ), "OMP_NUM_THREADS": "1"},
            # A signal to the terminal's process group stops training, not the sending.
            start_new_session=True,
        )
    finally:
        os.close(log)
    return Shipper(paths, process)
