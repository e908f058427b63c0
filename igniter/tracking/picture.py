"""The metrics of a run over its iterations, drawn as PNG and SVG.

``main`` is a process of its own: matplotlib takes half a second to import and seconds to draw many
metrics, and keeps settings for the whole process that are the user's. The same journal gives the
same bytes: no date, no display, no setting of the user's is looked at.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from igniter import atomic
from igniter.errors import IgniterError
from igniter.rundir import Paths, RunRecord
from igniter.tracking.curves import LEARNING_RATE, Curves, curves
from igniter.tracking.panel import MARKS, TRAINING, draw_panel, shortened
from igniter.tracking.records import read

# Columns, and the width and height of a panel in inches, for up to so many panels.
_LAYOUTS = ((1, 1, 7.2, 3.8), (4, 2, 5.0, 2.8), (9, 3, 4.2, 2.4), (math.inf, 4, 3.6, 2.1))
_LEFT, _RIGHT, _BOTTOM, _TITLE, _ROW, _HEADER = 0.7, 0.15, 0.35, 0.3, 0.16, 0.42
_LEGEND_WIDTH = 1.6


def main(root: str) -> None:
    """Draw the run in the directory ``root``; one without values has no picture."""
    paths = Paths(Path(root))
    found = curves(read(paths.journal), _resumed(paths))
    if not found.panels:
        return
    figure = draw(found, paths.root.name)
    for file in paths.pictures:
        atomic.write_bytes(file, rendered(figure, file.suffix.removeprefix(".")))


def _resumed(paths: Paths) -> list[int]:
    """After which iterations the run went on: where each attempt but the first began."""
    try:
        attempts = RunRecord.load(paths.run_yaml).attempts
    except (OSError, IgniterError):  # only marks are at stake
        return []
    return [attempt.from_iteration for attempt in attempts[1:] if attempt.from_iteration]


def draw(found: Curves, title: str) -> Figure:
    """A figure of one panel a metric, under ``title`` and the run's course."""
    columns, width, height = next(
        layout for limit, *layout in _LAYOUTS if len(found.panels) <= limit
    )
    legend_columns = int(width / _LEGEND_WIDTH)
    legends = [_ROW * math.ceil(len(panel.lines) / legend_columns) for panel in found.panels]
    above = _TITLE + max(legends)
    height += max(legends)
    rows = math.ceil(len(found.panels) / columns)
    total_width, total_height = columns * width, rows * height + _HEADER
    with matplotlib.rc_context(_settings()):
        figure = Figure(figsize=(total_width, total_height))
        _head(figure, found, title, total_width, total_height)
        colours = {"train": TRAINING}
        for index, panel in enumerate(found.panels):
            left = (index % columns) * width + _LEFT
            bottom = total_height - _HEADER - (index // columns + 1) * height + _BOTTOM
            axes = figure.add_axes(
                (
                    left / total_width,
                    bottom / total_height,
                    (width - _LEFT - _RIGHT) / total_width,
                    (height - _BOTTOM - above) / total_height,
                )
            )
            rates = panel.name == LEARNING_RATE
            draw_panel(axes, panel, found, {} if rates else colours, legend_columns)
            top = bottom + height - _BOTTOM - above
            figure.text(
                left / total_width,
                (top + legends[index] + 0.07) / total_height,
                "learning rate" if rates else shortened(panel.name, 40),
                weight="bold",
                va="bottom",
                parse_math=False,
            )
    return figure


def rendered(figure: Figure, form: str) -> bytes:
    """The figure as ``png`` or ``svg``, the same bytes for the same figure."""
    file = io.BytesIO()
    metadata = {"png": {"Software": None}, "svg": {"Date": None}}[form]
    with matplotlib.rc_context(_settings()):
        figure.savefig(file, format=form, dpi=120, metadata=metadata)
    return file.getvalue()


def _settings() -> dict[Any, Any]:
    """Matplotlib's own defaults, whatever the user's are, and ours."""
    ours = {
        "font.size": 8.0,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e6e6e6",
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "legend.frameon": False,
        "legend.fontsize": 7.0,
        "svg.hashsalt": "igniter",
    }
    default = matplotlib.rcParamsDefault
    # To set the backend, even to what it is, is to look for a display.
    return {name: default[name] for name in default if not name.startswith("backend")} | ours


def _head(figure: Figure, found: Curves, title: str, width: float, height: float) -> None:
    course = [f"up to iteration {found.iteration:,}, epoch {found.epoch:,}"]
    if found.resumed:
        marks = " (dotted)" if len(found.resumed) <= MARKS else ""
        course.append(f"resumed {len(found.resumed)}×{marks}")
    if found.left_out:
        course.append(f"{found.left_out} metrics left out")
    name = shortened(title, int(width * 6))
    figure.text(
        0.12 / width,
        1 - 0.1 / height,
        name,
        fontsize=10,
        weight="bold",
        va="top",
        parse_math=False,
    )
    below = 1 - 0.29 / height
    figure.text(0.12 / width, below, " · ".join(course), color="#555555", va="top")
