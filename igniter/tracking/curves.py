"""The journal's metrics as lines short enough to draw, whatever the journal's length."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from igniter.tracking.records import Record

MAX_POINTS = 500  # in a line
MAX_PANELS = 48
MAX_LINES = 12

LEARNING_RATE = "lr"


class Point(NamedTuple):
    """The finite values of a stretch of iterations, from ``first`` to ``last``; often just one."""

    first: int
    last: int
    least: float
    greatest: float
    total: float
    number: int

    def with_others(self, other: Point) -> Point:
        """The values of both."""
        return Point(
            min(self.first, other.first),
            max(self.last, other.last),
            min(self.least, other.least),
            max(self.greatest, other.greatest),
            self.total + other.total,
            self.number + other.number,
        )


@dataclass(frozen=True)
class Line:
    """One metric: its finite values, in ascending stretches, and how many were not finite.

    ``of_epochs`` marks averages over whole epochs, drawn over those of training's windows.
    """

    source: str
    of_epochs: bool
    points: list[Point]
    last: float | None
    not_finite: int
    first_not_finite: int | None


@dataclass(frozen=True)
class Panel:
    """What is drawn in one frame: a metric as training and each evaluation have it."""

    name: str
    lines: list[Line]


@dataclass(frozen=True)
class Curves:
    """All of a run: its panels, how many metrics found no room, and its course.

    ``resumed`` holds the iterations after which the run went on.
    """

    panels: list[Panel]
    left_out: int
    resumed: list[int]
    iteration: int
    epoch: int


def curves(records: Iterable[Record], resumed: Iterable[int] = ()) -> Curves:
    """Read a journal's records, once, into memory that does not grow with their number.

    What was measured (times, memory) and what came out different when it ran again is left out.
    """
    panels: dict[str, dict[str, _Thinned]] = {}
    left_out: set[str] = set()
    iteration = epoch = 0
    for record in records:
        iteration, epoch = max(iteration, record.iteration), max(epoch, record.epoch)
        if record.repeat or record.kind != "result":
            continue
        for name, value in record.metrics.items():
            panel = panel_of(name)
            lines = panels.get(panel)
            if lines is None and len(panels) < MAX_PANELS and name != "epoch":
                lines = panels.setdefault(panel, {})
            if lines is not None and name not in lines and len(lines) < MAX_LINES:
                lines[name] = _Thinned()
            if lines is not None and name in lines:
                lines[name].add(record.iteration, value)
            elif name != "epoch":
                left_out.add(name)
    return Curves(
        panels=[_panel(name, panels[name]) for name in sorted(panels, key=_rank)],
        left_out=len(left_out),
        resumed=list(resumed),
        iteration=iteration,
        epoch=epoch,
    )


def panel_of(name: str) -> str:
    """What is one metric: ``loss`` of ``train/loss``, ``train/loss_epoch`` and ``eval/loss``."""
    source, slash, metric = name.partition("/")
    if not slash or source == LEARNING_RATE:
        return source
    return metric.removesuffix("_epoch") if source == "train" else metric


def _rank(panel: str) -> int:
    """Losses first, learning rates last, the rest in the order that they came in."""
    if panel == LEARNING_RATE:
        return 2
    return 0 if "loss" in panel.lower() else 1


def _panel(name: str, thinned: dict[str, _Thinned]) -> Panel:
    lines = [_line(name, full_name, values) for full_name, values in thinned.items()]
    lines.sort(key=lambda line: (line.source != "train", line.of_epochs))
    return Panel(name, lines)


def _line(panel: str, name: str, values: _Thinned) -> Line:
    source, slash, metric = name.partition("/")
    if slash and source == LEARNING_RATE:
        source = metric
    return Line(
        source=source,
        of_epochs=source == "train" and metric == f"{panel}_epoch",
        points=values.points(),
        last=values.last,
        not_finite=values.not_finite,
        first_not_finite=values.first_not_finite,
    )


class _Thinned:
    """Values over iterations, one point for each stretch of them.

    A stretch is ``width`` iterations long, twice as long whenever there are too many of them.
    """

    def __init__(self) -> None:
        self._width = 1
        self._points: dict[int, Point] = {}
        self._last_iteration = -1
        self.last: float | None = None
        self.not_finite = 0
        self.first_not_finite: int | None = None

    def add(self, iteration: int, value: float) -> None:
        """Take in the value of an iteration."""
        if not math.isfinite(value):
            self.not_finite += 1
            if self.first_not_finite is None:
                self.first_not_finite = iteration
            return
        if iteration >= self._last_iteration:
            self._last_iteration, self.last = iteration, value
        self._put(iteration // self._width, Point(iteration, iteration, value, value, value, 1))
        while len(self._points) > MAX_POINTS:
            self._width *= 2
            narrower, self._points = self._points, {}
            for number, point in narrower.items():
                self._put(number // 2, point)

    def _put(self, number: int, point: Point) -> None:
        held = self._points.get(number)
        self._points[number] = point if held is None else held.with_others(point)

    def points(self) -> list[Point]:
        """The stretches that have values, in order of iteration."""
        return sorted(self._points.values())
