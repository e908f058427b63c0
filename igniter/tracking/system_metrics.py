"""MLflow's own monitor of the machine, kept at work beside the sending of a run.

It samples processor, memory, disk, network and GPUs in a thread and logs them by itself, under
``system/``, at steps that count samples. It needs psutil, and belongs in the process that sends:
never in the one that trains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from igniter.secrets import mask_uri


class SystemMetrics:
    """Sees to it that the monitor of a run in the store at ``uri`` is at work."""

    def __init__(self, uri: str, warn: Callable[[str], None]) -> None:
        self._uri = uri
        self._warn = warn
        self._monitor: Any = None
        self._run_id: str | None = None
        self._unusable = False

    def keep(self, run_id: str) -> None:
        """Have it log to ``run_id``: begin, or begin anew where an outage ended it.

        It goes on after the last step that the run holds. Where it cannot work that is warned of.
        """
        if self._unusable or (run_id == self._run_id and self._is_at_work()):
            return
        self.finish()
        try:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            make: Callable[..., Any] = SystemMetricsMonitor
            monitor = make(run_id, resume_logging=True, tracking_uri=self._uri)
            monitor.start()
        except Exception as error:  # psutil may be missing, drivers may be broken in any way
            self._unusable = True
            self._warn(f"no system metrics: {mask_uri(str(error))}")
            return
        self._monitor, self._run_id = monitor, run_id

    def finish(self) -> None:
        """Have it log what it holds, and end."""
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            monitor.finish()

    def _is_at_work(self) -> bool:
        thread = getattr(self._monitor, "_process", None)
        return thread is not None and thread.is_alive()
