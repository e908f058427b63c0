"""A window of each attempt under ``torch.profiler``: a trace for Perfetto or chrome://tracing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from igniter import atomic
from igniter.errors import UsageError

if TYPE_CHECKING:
    from igniter.engine import StepEngine


class Profiler:
    """Writes ``profile/attempt-N-iteration-A-B.json`` in the run's directory, once an attempt.

    Args:
        first: the first iteration that is profiled, counted from 1 in each attempt: those before
            it warm up.
        iterations: how many are profiled; a stop or an error ends the window early.
        options: further ones of ``torch.profiler.profile``, such as ``with_stack=True``.

    Raises:
        UsageError: a number is below 1.
    """

    def __init__(self, first: int = 10, iterations: int = 5, **options: Any) -> None:
        if first < 1 or iterations < 1:
            raise UsageError(f"Profiler(first={first}, iterations={iterations}) must be at least 1")
        self._first, self._iterations = first, iterations
        self._options = options
        self._profile: torch.profiler.profile | None = None
        self._count = 0
        self._begin = 0

    def attach(self, trainer: StepEngine) -> None:
        """Count from here.

        Raises:
            UsageError: there is no run whose directory would have the trace.
        """
        if trainer.run_dir is None:
            raise UsageError(
                "Profiler writes in a run's directory, and there is none; leave it out"
            )
        self._count = 0

    def on_batch_start(self, trainer: StepEngine, batch: Any) -> None:
        """Begin the window with its first step."""
        self._count += 1
        if self._count != self._first:
            return
        if torch.autograd._profiler_enabled():  # type: ignore[attr-defined]
            # Two at once end the process.
            trainer.warn(
                f"another profiler is at work at iteration {trainer.state.iteration}: the window "
                "that begins there is left out"
            )
        else:
            self._begin = trainer.state.iteration
            self._profile = torch.profiler.profile(**self._options)
            self._profile.start()

    def on_batch_end(self, trainer: StepEngine, batch: Any, output: Any) -> None:
        """End it after its last."""
        if self._count == self._first + self._iterations - 1:
            self._finish(trainer)

    def on_attempt_end(self, trainer: StepEngine) -> None:
        """End it if it is open."""
        self._finish(trainer)

    def _finish(self, trainer: StepEngine) -> None:
        profile, self._profile = self._profile, None
        if profile is None:
            return
        profile.stop()
        assert trainer.run_dir is not None  # see attach
        span = f"{self._begin}-{max(trainer.done, self._begin)}"
        path = trainer.run_dir / "profile" / f"attempt-{trainer.attempt}-iteration-{span}.json"
        part = atomic.part_name(path)
        try:
            path.parent.mkdir(exist_ok=True)
            profile.export_chrome_trace(str(part))
            part.replace(path)
        except (OSError, RuntimeError) as error:  # the latter is torch's word for a full disk
            trainer.warn(f"the profile {path} cannot be written: {error}")
        else:
            trainer.say(f"profile of iterations {span.replace('-', ' to ')}: {path}")
        finally:
            atomic.remove_quietly(part)
