"""Which checkpoints are the best by a metric; kept in run.yaml, so it outlives the process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

Mode = Literal["max", "min"]


class Best:
    """Ranks iterations by the value of ``metric``, the ``keep`` best of them.

    Of two equal values the earlier iteration is the better. NaN ranks nowhere. Without a metric
    nothing is ranked.
    """

    def __init__(self, metric: str | None, mode: Mode = "max", keep: int = 1) -> None:
        self.metric = metric
        self._mode: Mode = mode
        self._keep = keep
        self._ranking: list[tuple[float, int]] = []

    @property
    def followed(self) -> bool:
        """Whether there is a metric to rank by."""
        return self.metric is not None

    @property
    def iterations(self) -> tuple[int, ...]:
        """The ranked iterations, best first."""
        return tuple(iteration for _, iteration in self._ranking)

    def consider(self, iteration: int, values: Mapping[str, float]) -> bool:
        """Rank ``iteration`` if ``values`` hold the metric; tell whether the ranking changed."""
        value = values.get(self.metric or "")
        if value is None or math.isnan(value):
            return False
        sign = -1.0 if self._mode == "max" else 1.0
        others = [entry for entry in self._ranking if entry[1] != iteration]
        ranking = sorted([*others, (value, iteration)], key=lambda e: (sign * e[0], e[1]))
        before, self._ranking = self._ranking, ranking[: self._keep]
        return self._ranking != before

    def state(self) -> dict[str, Any] | None:
        """What ``run.yaml`` holds of it."""
        if not self._ranking:
            return None
        value, iteration = self._ranking[0]
        return {
            "metric": self.metric,
            "mode": self._mode,
            "value": value,
            "iteration": iteration,
            "ranking": [[value, iteration] for value, iteration in self._ranking],
        }

    def restore(self, state: Mapping[str, Any] | None, up_to: int) -> None:
        """Take up a ranking, without iterations after ``up_to``: those are to come again."""
        if state is None or state["metric"] != self.metric or state["mode"] != self._mode:
            return
        entries = [(float(value), int(iteration)) for value, iteration in state["ranking"]]
        self._ranking = [entry for entry in entries if entry[1] <= up_to][: self._keep]
