"""Figures 2 and 3 as geometry for the report's inline SVG: lines, ticks, and what hovering shows."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cosnorm_lab.scales import asinh_ticks, epoch_ticks, label, log_ticks
from cosnorm_lab.series import LEAST_ERRORS, Series, errors_caption, errors_range, errors_title

SIZE = 1000.0  # the lines' viewBox; the browser stretches it to the place there is


@dataclass(frozen=True)
class Line:
    """One line, in a SIZE by SIZE box with y downwards.

    Attributes:
        caption: What the legend calls it.
        colour: Its colour.
        dashes: SVG's stroke-dasharray.
        width: Its width in pixels.
        path: SVG path.
        band: SVG path of the area around it, or nothing.
        points: [epoch, y in percent, value as text] for each epoch.
    """

    caption: str
    colour: str
    dashes: str
    width: float
    path: str
    band: str
    points: list[tuple[int, float, str]]


@dataclass(frozen=True)
class Chart:
    """One coordinate system.

    Attributes:
        title: What it shows.
        y_title: The name of the y axis.
        last: The last epoch, at the right end; epoch 0 is at the left end.
        x_ticks: (place in percent, text).
        y_ticks: (place in percent, text).
        lines: The lines, in the order of the legend.
    """

    title: str
    y_title: str
    last: int
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[Line]

    @property
    def hover(self) -> str:
        """What the page's script needs, as JSON that is safe inside an HTML script element."""
        lines = [
            {"caption": line.caption, "colour": line.colour, "points": line.points} for line in self.lines
        ]
        text = json.dumps({"last": self.last, "lines": lines}, ensure_ascii=True, separators=(",", ":"))
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def error_chart(all_series: Sequence[Series]) -> Chart | None:
    """Figure 2: test errors against epoch.

    Args:
        all_series: The series, each a line, in a band from its least to its worst seed.

    Returns:
        The chart, or None when no epoch was finished.
    """
    drawn = sorted((one for one in all_series if one.curve), key=lambda one: -one.curve[-1].mean)
    if not drawn:
        return None
    lowest, highest = errors_range(drawn)
    bottom, top = math.log(lowest * 0.97), math.log(highest * 1.03)
    last = max(series.curve[-1].epoch for series in drawn)

    def place(value: float) -> float:
        return 1 - (math.log(max(value, LEAST_ERRORS)) - bottom) / (top - bottom)

    lines = []
    for series in drawn:
        epochs = [point.epoch for point in series.curve]
        band = ""
        if len(series.runs) > 1:
            low = [place(point.low) for point in series.curve]
            high = [place(point.high) for point in series.curve]
            band = _area(epochs, low, high, last)
        several = [point.low != point.high for point in series.curve]
        texts = [
            f"{point.mean:.1f} ({point.low:g}–{point.high:g})" if differ else f"{point.mean:g}"
            for point, differ in zip(series.curve, several, strict=True)
        ]
        values = [point.mean for point in series.curve]
        lines.append(
            _line(
                series,
                errors_caption(series, highest),
                2.0,
                epochs,
                values,
                texts,
                place,
                last,
                band,
                series.dashes,
            )
        )
    ticks = [(100 * place(value), label(value)) for value in log_ticks(lowest, highest)]
    return Chart("Test errors against epoch", errors_title(drawn), last, _x_ticks(last, 6), ticks, lines)


def percentile_charts(all_series: Sequence[Series]) -> list[Chart]:
    """Figure 3: 15, 50 and 85 percentiles of one last-hidden-layer neuron, one chart a series.

    Args:
        all_series: The series; of several seeds the first is drawn.

    Returns:
        The charts; all have the same axes.
    """
    drawn = [series for series in all_series if series.percentiles]
    if not drawn:
        return []
    lowest = min(low for series in drawn for _, low, _, _ in series.percentiles)
    highest = max(high for series in drawn for _, _, _, high in series.percentiles)
    ticks = asinh_ticks(lowest, highest)
    bottom, top = math.asinh(min(lowest, ticks[0])) - 0.1, math.asinh(max(highest, ticks[-1])) + 0.1
    last = max(series.percentiles[-1][0] for series in drawn)

    def place(value: float) -> float:
        return 1 - (math.asinh(value) - bottom) / (top - bottom)

    charts = []
    for series in drawn:
        epochs, low, middle, high = zip(*series.percentiles, strict=True)
        area = _area(epochs, [place(value) for value in low], [place(value) for value in high], last)
        lines = [
            _line(
                series, name, width, epochs, values, [f"{value:.3g}" for value in values], place, last, band
            )
            for name, values, width, band in (
                ("85 %", high, 1.0, area),
                ("50 %", middle, 2.0, ""),
                ("15 %", low, 1.0, ""),
            )
        ]
        y_ticks = [(100 * place(value), label(value)) for value in ticks]
        charts.append(Chart(series.caption, "pre-activation", last, _x_ticks(last, 2), y_ticks, lines))
    return charts


def _line(
    series: Series,
    caption: str,
    width: float,
    epochs: Sequence[int],
    values: Sequence[float],
    texts: Sequence[str],
    place: Callable[[float], float],
    last: int,
    band: str = "",
    dashes: str = "",
) -> Line:
    heights = [place(value) for value in values]
    points = [
        (epoch, round(100 * height, 2), text)
        for epoch, height, text in zip(epochs, heights, texts, strict=True)
    ]
    path = "M" + "L".join(_points(epochs, heights, last))
    if len(epochs) == 1:
        path += "h0.1"  # a path of a single point is not drawn
    return Line(caption, series.colour, dashes, width, path, band, points)


def _area(epochs: Sequence[int], low: Sequence[float], high: Sequence[float], last: int) -> str:
    return "M" + "L".join(_points(epochs, high, last) + _points(epochs, low, last)[::-1]) + "Z"


def _points(epochs: Sequence[int], heights: Sequence[float], last: int) -> list[str]:
    # Far outside the box some browsers lose lines; it is cut off at the box anyway.
    return [
        f"{SIZE * epoch / last:.1f},{SIZE * min(max(height, -9.0), 9.0):.1f}"
        for epoch, height in zip(epochs, heights, strict=True)
    ]


def _x_ticks(last: int, at_most: int) -> list[tuple[float, str]]:
    return [(100 * epoch / last, str(epoch)) for epoch in epoch_ticks(last, at_most)]
