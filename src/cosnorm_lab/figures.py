"""The paper's Figures 2 and 3 as pictures, drawn from records only."""

import math
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from cosnorm_lab.records import Run
from cosnorm_lab.scales import asinh_ticks, label, log_ticks
from cosnorm_lab.series import LEAST_ERRORS, Series, errors_caption, errors_range, errors_title, group

DOTS_PER_INCH = 200
PANELS_A_ROW = 4


def error_curves(runs: Iterable[Run]) -> Figure:
    """Figure 2: test errors against epoch, one line a method.

    Args:
        runs: Runs of one recipe. Those that differ only by their seed are one line, their mean, in a band
            from the least to the most.

    Returns:
        A figure with a canvas of its own: `figure.savefig(path)` writes it.
    """
    drawn = [series for series in group(runs) if series.curve]
    figure = _figure(8.0, 4.6)
    axes = figure.add_subplot()
    lowest, highest = errors_range(drawn) if drawn else (1.0, 10.0)
    # The order of the legend is that of the lines' right ends.
    for series in sorted(drawn, key=lambda one: -one.curve[-1].mean):
        epochs = [point.epoch for point in series.curve]
        axes.plot(
            epochs,
            [max(point.mean, LEAST_ERRORS) for point in series.curve],
            color=series.colour,
            linestyle=_linestyle(series),
            linewidth=1.6,
            marker="o" if len(epochs) < 3 else "",
            markersize=4,
            label=errors_caption(series, highest),
        )
        if len(series.runs) > 1:
            low = [max(point.low, LEAST_ERRORS) for point in series.curve]
            high = [max(point.high, LEAST_ERRORS) for point in series.curve]
            axes.fill_between(epochs, low, high, color=series.colour, alpha=0.2, linewidth=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel(errors_title(drawn))
    axes.set_yscale("log")
    if drawn:
        axes.set_ylim(lowest * 0.97, highest * 1.03)
        _ticks(axes, log_ticks(lowest, highest))
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=10)
    _plain(axes)
    return figure


def pre_activations(runs: Iterable[Run]) -> Figure:
    """Figure 3: the 15, 50 and 85 percentiles of one last-hidden-layer neuron over training.

    Args:
        runs: Runs of one recipe. One panel for each method; of several seeds the first is drawn.

    Returns:
        A figure with a canvas of its own. All panels share both axes, so that widths compare by eye.
    """
    drawn = [series for series in group(runs) if series.percentiles]
    rows = max(1, math.ceil(len(drawn) / PANELS_A_ROW))
    columns = max(1, min(PANELS_A_ROW, len(drawn)))
    figure = _figure(1.0 + 2.0 * columns, 0.7 + 1.9 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, series in zip(panels.flat, drawn, strict=False):
        epochs, low, middle, high = zip(*series.percentiles, strict=True)
        axes.fill_between(epochs, low, high, color=series.colour, alpha=0.25, linewidth=0)
        for values, width in ((low, 0.8), (middle, 1.8), (high, 0.8)):
            axes.plot(epochs, values, color=series.colour, linewidth=width)
        axes.set_title(series.caption.replace(", ", "\n", 1), fontsize=10)
        _plain(axes)
    if drawn:
        lowest = min(low for series in drawn for _, low, _, _ in series.percentiles)
        highest = max(high for series in drawn for _, _, _, high in series.percentiles)
        ticks = asinh_ticks(lowest, highest)
        for axes in panels.flat:
            axes.set_yscale("asinh", linear_width=1.0)
            _ticks(axes, ticks)
    for index in range(len(drawn), panels.size):
        panels.flat[index].set_visible(False)
        panels.flat[index - columns].tick_params(labelbottom=True)
    figure.supxlabel("epoch", fontsize=11)
    figure.supylabel("pre-activation", fontsize=11)
    return figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _linestyle(series: Series) -> str | tuple[int, tuple[int, ...]]:
    return (0, tuple(int(length) for length in series.dashes.split())) if series.dashes else "-"


def _ticks(axes: Axes, values: Sequence[float]) -> None:
    axes.yaxis.set_major_locator(FixedLocator(list(values)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: label(value)))
    axes.yaxis.set_minor_locator(NullLocator())


def _plain(axes: Axes) -> None:
    axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=10)
