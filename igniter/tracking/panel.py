"""One metric drawn in a frame: its lines, its scale and its legend."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from igniter.tracking.curves import Curves, Line, Panel

MARKS = 40  # a line of more points has no dots, and more resumes are not marked
TRAINING = ("#0072B2", "-")

# Okabe and Ito's colours, told apart by colour-blind people too.
_COLOURS = (TRAINING[0], "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = (TRAINING[1], "--", ":", "-.")
_LARGEST = 1e100  # what is beyond is drawn at it: an axis of floats' whole range overflows


def draw_panel(
    axes: Axes,
    panel: Panel,
    found: Curves,
    colours: dict[str, tuple[str, str]],
    columns: int,
) -> None:
    """Draw every line of ``panel``, and who is who above the frame.

    ``colours`` holds the colour and style of each source drawn so far, and takes up new ones, so
    that an evaluation looks the same in every panel. The legend has so many ``columns``.
    """
    has_epochs = {line.source for line in panel.lines if line.of_epochs and len(line.points) > 1}
    handles: list[Line2D] = []
    for line in panel.lines:
        if line.source not in colours:
            rest, index = divmod(len(colours), len(_COLOURS))
            colours[line.source] = (_COLOURS[index], _STYLES[rest % len(_STYLES)])
        colour, style = colours[line.source]
        faint = line.source in has_epochs and not line.of_epochs
        middles = [(point.first + point.last) / 2 for point in line.points]
        if any(point.number > 1 for point in line.points):
            axes.fill_between(
                middles,
                [_drawable(point.least) for point in line.points],
                [_drawable(point.greatest) for point in line.points],
                color=colour,
                alpha=0.1 if faint else 0.2,
                linewidth=0,
            )
        handles += axes.plot(
            middles,
            [_drawable(point.total / point.number) for point in line.points],
            color=colour,
            linestyle=style,
            linewidth=0.8 if faint else 1.5,
            alpha=0.45 if faint else 1.0,
            marker="o" if len(line.points) <= MARKS else "",
            markersize=2.0 if faint else 3.0,
        )
    points = [point for line in panel.lines for point in line.points]
    _scale_y(axes, [_drawable(v) for point in points for v in (point.least, point.greatest)])
    _mark_not_finite(axes, panel.lines)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _iteration(value)))
    margin = max(found.iteration, 1) * 0.02
    axes.set_xlim(-margin, found.iteration + margin)
    if len(found.resumed) <= MARKS:
        for iteration in found.resumed:
            axes.axvline(iteration, color="#999999", linestyle=":", linewidth=1.0, zorder=1)
    legend = axes.legend(
        handles,
        [_label(line) for line in panel.lines],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        borderaxespad=0.2,
        handlelength=1.2,
        columnspacing=1.2,
        labelspacing=0.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _scale_y(axes: Axes, values: list[float]) -> None:
    """A log scale where most values lie close above zero, far below the greatest."""
    if not values:
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", va="center")
        axes.yaxis.set_major_locator(NullLocator())
        return
    ordered = sorted(values)
    least, middle, greatest = ordered[0], ordered[len(ordered) // 2], ordered[-1]
    if least > 0 and greatest / least >= 20 and middle - least < 0.1 * (greatest - least):
        axes.set_yscale("log")
        close = greatest / least < 1000
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if close else (1,), numticks=8))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))


def _mark_not_finite(axes: Axes, lines: list[Line]) -> None:
    for line in lines:
        if line.first_not_finite is not None:
            axes.plot(
                [line.first_not_finite],
                [0.03],
                transform=axes.get_xaxis_transform(),
                color="black",
                marker="x",
                linestyle="",
                clip_on=False,
            )


def _label(line: Line) -> str:
    """What the line is, and where it stands."""
    name = f"{line.source}, epoch" if line.of_epochs else _ending(line.source, 16)
    last = "" if line.last is None else f" {line.last:.4g}"
    count = line.not_finite
    return name + last + (f" (×: {count:,} not finite)" if count else "")


def _drawable(value: float) -> float:
    return 0.0 if abs(value) < 1 / _LARGEST else max(-_LARGEST, min(_LARGEST, value))


def _iteration(value: float) -> str:
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def _ending(text: str, limit: int) -> str:
    """A learning rate's group is told by the end of its name."""
    text = _printable(text)
    return text if len(text) <= limit else "…" + text[-limit + 1 :]


def shortened(text: str, limit: int) -> str:
    """At most ``limit`` characters of ``text`` that can be drawn."""
    text = _printable(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _printable(text: str) -> str:
    """Control characters are no XML, and the name of a file may hold what is no text at all."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
