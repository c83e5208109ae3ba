"""The report's figures as PNG, for papers and slides."""

import io
import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from cosnorm_lab.report.charts import Axis, Chart
from cosnorm_lab.report.figures import Picture

DOTS_PER_INCH = 200
PANELS_A_ROW = 4
# Longer names stand below the lines: beside them they would leave the lines no room.
CHARACTERS_BESIDE = 32
# There, two names that are no longer than this share a row.
CHARACTERS_IN_A_COLUMN = 48


def png(picture: Picture) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    draw(picture).savefig(buffer, format="png")
    return buffer.getvalue()


def draw(picture: Picture) -> Figure:
    """A figure with a canvas of its own: matplotlib's global state is left alone."""
    charts = picture.charts
    columns = max(1, min(PANELS_A_ROW, len(charts)))
    rows = max(1, math.ceil(len(charts) / columns))
    height = 1.35 if any(chart.outlines for chart in charts) else 1.9
    size = (1.0 + 2.0 * columns, 0.7 + height * rows) if picture.panels else (8.0, 4.6)
    figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, chart in zip(panels, charts, strict=False):
        _chart(axes, chart)
        if picture.panels:
            axes.set_title(chart.title.replace(", ", "\n", 1), fontsize=9)
    for axes in panels[len(charts) :]:
        axes.set_visible(False)
    first = charts[0]
    if picture.panels:
        figure.supxlabel(first.x.title, fontsize=11)
        figure.supylabel(first.y.title, fontsize=11)
    else:
        panels[0].set_xlabel(first.x.title)
        panels[0].set_ylabel(first.y.title)
    if picture.legend:
        _legend(figure, panels[0], [line.caption for line in first.lines if line.caption])
    return figure


def _legend(figure: Figure, axes: Axes, names: list[str]) -> None:
    longest = max(map(len, names), default=0)
    if longest <= CHARACTERS_BESIDE:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=10)
        return
    columns = 2 if longest <= CHARACTERS_IN_A_COLUMN else 1
    figure.set_figheight(figure.get_figheight() + 0.22 * math.ceil(len(names) / columns))
    figure.legend(loc="outside lower left", ncols=columns, frameon=False, fontsize=10)


def _chart(axes: Axes, chart: Chart) -> None:
    for line in chart.lines:
        axes.plot(
            line.xs,
            line.ys,
            color=line.colour,
            linestyle=(0, tuple(int(length) for length in line.dashes.split())) if line.dashes else "-",
            linewidth=0.8 * line.width,
            marker="o" if line.dots else "",
            markersize=4,
            label=line.caption,
        )
        if line.low:
            axes.fill_between(line.xs, line.low, line.high, color=line.colour, alpha=0.22, linewidth=0)
    for cloud in chart.clouds:
        if cloud.points:
            xs, ys = zip(*cloud.points, strict=True)
            axes.scatter(xs, ys, s=1.5, color=cloud.colour, linewidths=0)
    if chart.clouds:
        axes.set_aspect("equal")
    axes.set_xscale(chart.x.scale, **_options(chart.x))
    axes.set_yscale(chart.y.scale, **_options(chart.y))
    axes.set_xlim(chart.x.low, chart.x.high)
    axes.set_ylim(chart.y.low, chart.y.high)
    for which, axis in ((axes.xaxis, chart.x), (axes.yaxis, chart.y)):
        texts = dict(axis.ticks)
        which.set_major_locator(FixedLocator([value for value, _ in axis.ticks]))
        which.set_major_formatter(FuncFormatter(lambda value, _, texts=texts: _text(texts, value)))
        which.set_minor_locator(NullLocator())
    axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if chart.outlines:
        axes.spines[:].set_visible(False)
        for outline in chart.outlines:
            axes.plot(*zip(*outline, strict=True), color="#BBBBBB", linewidth=0.6, zorder=0)
    axes.tick_params(labelsize=8 if chart.clouds else 10)


def _options(axis: Axis) -> dict[str, Any]:
    return {"linear_width": 1.0} if axis.scale == "asinh" else {}


def _text(texts: dict[float, str], value: float) -> str:
    nearest = min(texts, key=lambda tick: abs(tick - value))
    return texts[nearest]
