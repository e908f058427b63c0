"""The run ends when a metric has not become better for some evaluations, by ignite's handler."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from igniter.directions import better, holder
from igniter.errors import UsageError
from igniter.ignite_import import IgniteEarlyStopping
from igniter.spec import metrics_by_full_name

if TYPE_CHECKING:
    from igniter.engine import StepEngine

Metrics = Mapping[str, float]


class EarlyStopping:
    """Ends the run, as completed, when ``patience`` evaluations in a row were no better.

    Args:
        metric: by its full name, such as ``eval/loss``.
        patience: how many evaluations without an improvement end the run.
        min_delta: by how much more than the best so far counts as better.
        mode: whether a higher value is better; ``auto``: as the metric or its name says.
        improved: tells instead of ``metric``, after each evaluation, from its metrics by full name.

    NaN is never better. The best value and the count are in the checkpoints. A run that is made
    longer after it was ended goes on until the next evaluation that is no better.

    Raises:
        UsageError: an argument cannot be.
    """

    def __init__(
        self,
        metric: str = "eval/loss",
        patience: int = 3,
        min_delta: float = 0.0,
        mode: Literal["auto", "max", "min"] = "auto",
        improved: Callable[[Metrics], bool] | None = None,
    ) -> None:
        if patience < 1 or min_delta < 0 or mode not in ("auto", "max", "min"):
            raise UsageError(
                f"EarlyStopping(patience={patience}, min_delta={min_delta}, mode={mode!r}): "
                "patience must be at least 1, min_delta at least 0, mode auto, max or min"
            )
        self._metric, self._patience, self._min_delta = metric, patience, min_delta
        self._mode = mode
        self._improved = improved
        self._metrics: Metrics = {}
        self._stopping: Any = None
        self._loaded: dict[str, Any] = {}

    def attach(self, trainer: StepEngine) -> None:
        """Make ready for one attempt of ``trainer``'s run.

        Raises:
            UsageError: no evaluation gives the metric, or its better direction is not known.
        """
        self._stopping = IgniteEarlyStopping(
            patience=self._patience,
            score_function=self._score,
            trainer=trainer,
            # Of ignite's two ways the one that counts from the last improvement: by the other, many
            # small steps forward are never one.
            cumulative=True,
            threshold=self._min_delta if self._improved is None else 0.0,
            mode="max" if self._improved is not None else self._direction(trainer),
        )
        self._stopping.logger = logging.getLogger(__name__)  # its own writes to stderr
        loaded, self._loaded = self._loaded, {}
        if loaded and loaded["by"] == self._by:
            self._stopping.load_state_dict(loaded)
        elif loaded:
            trainer.warn(
                f"EarlyStopping goes by {self._by}, and went by {loaded['by']} at the checkpoint: "
                "it counts from here"
            )

    def on_validation_end(
        self, trainer: StepEngine, cycle: int, name: str, metrics: Metrics
    ) -> None:
        """Look at what an evaluation gave.

        Raises:
            UsageError: the metric is not among it.
        """
        if self._improved is None:
            if name != self._metric.partition("/")[0]:
                return
            if self._metric not in metrics:
                raise UsageError(
                    f"the evaluation {name!r} gave no {self._metric} to stop by; it gave "
                    f"{', '.join(metrics) or 'nothing'}"
                )
        self._metrics = metrics
        self._stopping(trainer)
        if self._stopping.counter >= self._patience:
            trainer.say(f"stopped early at iteration {trainer.state.iteration}: {self._why()}")

    on_testing_end = on_validation_end

    def state_dict(self) -> dict[str, Any]:
        """The best so far, how many evaluations were no better since, and by what."""
        if self._stopping is None:
            return self._loaded
        return {"by": self._by, **self._stopping.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there at the next :meth:`attach`."""
        self._loaded, self._stopping = dict(state), None

    @property
    def _by(self) -> str:
        return "a function" if self._improved is not None else self._metric

    def _score(self, trainer: StepEngine) -> float:
        if self._improved is not None:
            # The number of improvements: it grows with each.
            return (self._stopping.best_score or 0.0) + bool(self._improved(self._metrics))
        value = float(self._metrics[self._metric])
        if math.isnan(value):
            # ignite takes whatever does not compare as worse for an improvement.
            return -math.inf if self._stopping.mode == "max" else math.inf
        return value

    def _direction(self, trainer: StepEngine) -> Literal["max", "min"]:
        given = metrics_by_full_name({n: e.spec for n, e in trainer.evaluators.items()})
        found = holder(self._metric, given)
        if found is None:
            raise UsageError(
                f"EarlyStopping({self._metric!r}): no evaluation gives it; there is "
                f"{', '.join(given) or 'none'}"
            )
        if self._mode != "auto":
            return self._mode
        try:
            return better(self._metric, given[found])
        except UsageError:
            raise UsageError(
                f"it cannot be told from its name whether more or less of {self._metric} is "
                "better; give EarlyStopping(mode='max') or mode='min'"
            ) from None

    def _why(self) -> str:
        times = f"{self._stopping.counter} evaluation{'s' * (self._stopping.counter > 1)}"
        if self._improved is not None:
            return f"no improvement in {times}"
        return f"{self._metric} has not been better than {self._stopping.best_score:.6g} in {times}"
