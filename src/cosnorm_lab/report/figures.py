"""The report's figures, from records: what each shows, as charts and a caption."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cosnorm_lab.report.charts import Axis, Chart, Cloud, Line
from cosnorm_lab.report.papers import paper_of
from cosnorm_lab.report.scales import asinh_ticks, count_ticks, label, linear_ticks, log_ticks
from cosnorm_lab.report.series import (
    FOLLOWS,
    LEAST_ERRORS,
    Series,
    errors_caption,
    errors_range,
    errors_title,
    setting,
    unit,
)

# Ten hues for ten classes, light and dark in turn, told apart by colour-blind readers too.
CLASS_COLOURS = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7",
    "#0072B2", "#D55E00", "#808080", "#8C510A", "#5E3C99",
)  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """One figure of the report.

    Attributes:
        name: Part of the name of its PNG file, such as "figure2".
        heading: What stands above it.
        caption: What stands below it.
        charts: One chart, or several panels.
        legend: Whether the names of the lines (of the first chart) stand below.
    """

    name: str
    heading: str
    caption: str
    charts: Sequence[Chart]
    legend: bool = False

    @property
    def panels(self) -> bool:
        """Whether the charts are small and stand beside each other."""
        return len(self.charts) > 1 or bool(self.charts[0].clouds) or not self.legend


def make_pictures(names: Mapping[str, int | None], all_series: Sequence[Series]) -> list[Picture]:
    """The figures that a recipe names, of which there is anything to draw.

    Args:
        names: Keys of `FIGURES`; or "by FIELD" or "least by FIELD": the last epochs' errors, or the least of
            all epochs, against a field of the configuration.
            The value is the number of the paper's figure, where it is one of the paper's.
        all_series: Series of one recipe.
    """
    pictures = []
    for name, number in names.items():
        of, by, field = name.rpartition("by ")
        picture = against(field, all_series, least=of == "least ") if by else FIGURES[name](all_series)
        if picture is not None and number is not None:
            heading = f"Figure {number}: {picture.heading}"
            picture = dataclasses.replace(picture, name=f"figure{number}", heading=heading)
        if picture is not None:
            pictures.append(picture)
    return pictures


def errors_by_epoch(all_series: Sequence[Series]) -> Picture | None:
    """Figure 2: test errors against epoch, one line a method, several seeds in a band."""
    # The order of the legend is that of the lines' right ends.
    drawn = sorted((one for one in all_series if one.curve), key=lambda one: -one.curve[-1].mean)
    if not drawn:
        return None
    lowest, highest = errors_range(drawn)
    name = _units(drawn)
    last = max(series.curve[-1].epoch * unit(series.config)[1] for series in drawn)
    lines = []
    for series in drawn:
        scale = unit(series.config)[1]
        curve = series.curve
        band = len(series.runs) > 1
        lines.append(
            Line(
                caption=errors_caption(series, highest),
                colour=series.colour,
                xs=[point.epoch * scale for point in curve],
                ys=[max(point.mean, LEAST_ERRORS) for point in curve],
                texts=[
                    f"{point.mean:.1f} ({point.low:g}–{point.high:g})"
                    if point.low != point.high
                    else f"{point.mean:g}"
                    for point in curve
                ],
                dashes=series.dashes,
                low=[max(point.low, LEAST_ERRORS) for point in curve] if band else (),
                high=[max(point.high, LEAST_ERRORS) for point in curve] if band else (),
                dots=len(curve) < 3,
            )
        )
    y = _errors_axis(errors_title(drawn), lowest, highest)
    chart = Chart(f"Test errors against {name}", _count_axis(name, last, 6), y, lines)
    caption = (
        "Logarithmic axis, cut off at twelve times the least error; ↑ marks what lies above it as a whole. "
        "Bands are the least and the most of several seeds."
    )
    return Picture("errors", f"{y.title}, against {name}", caption, [chart], legend=True)


def pre_activations(all_series: Sequence[Series]) -> Picture | None:
    """Figure 3: 15, 50 and 85 percentiles of one last-hidden-layer neuron, one panel a series."""
    drawn = [series for series in all_series if series.percentiles]
    if not drawn:
        return None
    lowest = min(low for series in drawn for _, low, _, _ in series.percentiles)
    highest = max(high for series in drawn for _, _, _, high in series.percentiles)
    ticks = asinh_ticks(lowest, highest)
    y = Axis(
        "pre-activation",
        math.sinh(math.asinh(min(lowest, ticks[0])) - 0.1),
        math.sinh(math.asinh(max(highest, ticks[-1])) + 0.1),
        [(value, label(value)) for value in ticks],
        "asinh",
    )
    name = _units(drawn)
    last = max(series.percentiles[-1][0] * unit(series.config)[1] for series in drawn)
    x = _count_axis(name, last, 2)
    charts = []
    for series in drawn:
        epochs, low, middle, high = zip(*series.percentiles, strict=True)
        xs = [epoch * unit(series.config)[1] for epoch in epochs]
        lines = [
            Line(part, series.colour, xs, values, [f"{value:.3g}" for value in values], "", width, *band)
            for part, values, width, band in (
                ("85 %", high, 1.0, (low, high)),
                ("50 %", middle, 2.0, ()),
                ("15 %", low, 1.0, ()),
            )
        ]
        charts.append(Chart(series.caption, x, y, lines))
    caption = (
        f"15, 50 and 85 percentiles over the images the errors are of, against {name}; of several seeds the "
        "first. All panels have the same axes, linear near zero and logarithmic far from it."
    )
    heading = "pre-activation of one neuron of the last hidden layer"
    return Picture("pre-activations", heading, caption, charts)


def against(name: str, all_series: Sequence[Series], *, least: bool = False) -> Picture | None:
    """Errors against a field of the configuration, one line a method, and one of the paper's figures.

    Args:
        name: The field.
        all_series: Series of one recipe.
        least: The least errors of any epoch in place of those over the last epochs.
    """
    lines = []
    for family in families(name, all_series):
        first = family[0]
        places = [float(getattr(one.config, name)) for one in family]
        ours = [one.least_errors() if least else one.mean_errors() for one in family]
        claims = [paper_of(one) for one in family]
        papers = [claim.least if least else claim.mean for claim in claims]
        for caption, colour, dashes, errors in (
            (first.method_name, first.colour, "", ours),
            (f"{first.method_name} in the paper", "#808080", "2 2", papers),
        ):
            points: list[tuple[float, float]] = sorted(
                (x, y) for x, y in zip(places, errors, strict=True) if y is not None
            )
            if points and (len(points) > 1 or getattr(first.config, name)):
                xs, ys = zip(*points, strict=True)
                texts = [f"{y:.1f}" for y in ys]
                lines.append(Line(caption, colour, xs, ys, texts, dashes=dashes, dots=True))
    if not any(len(set(line.xs)) > 1 for line in lines):
        return None
    words = setting(name)
    values = sorted({x for line in lines for x in line.xs})
    lowest, highest = (function(y for line in lines for y in line.ys) for function in (min, max))
    log = values[0] > 0 and values[-1] / values[0] >= 8
    room = 0.04 * (values[-1] - values[0])
    low, high = (values[0] / 1.15, values[-1] * 1.15) if log else (values[0] - room, values[-1] + room)
    x = Axis(words, low, high, [(value, label(value)) for value in values], "log" if log else "linear")
    y = _errors_axis(errors_title(all_series), max(lowest, LEAST_ERRORS) * 0.95, highest * 1.05)
    chart = Chart(f"Test errors against {words}", x, y, lines)
    of = "Least of any epoch" if least else "Mean over the last epochs"
    caption = f"{of} of the completed runs, as in the table; the axis of errors is logarithmic."
    heading = f"{'least ' * least}{errors_title(all_series)}, against {words}"
    return Picture(f"by-{name.replace('_', '-')}", heading, caption, [chart], legend=True)


def families(name: str, all_series: Sequence[Series]) -> list[list[Series]]:
    """Series that differ in one field alone, or in nothing but what follows from it.

    Where another field is swept too, as scale and margin are, the largest family of each method is taken: the
    sweep of one at the usual value of the other.
    """
    found: dict[str, dict[tuple[object, ...], list[Series]]] = {}
    for one in all_series:
        ignored = {"seed", "learning_rate", name, *FOLLOWS.get(name, ())}
        key = tuple(str(value) for field, value in one.config.to_dict().items() if field not in ignored)
        found.setdefault(one.method, {}).setdefault(key, []).append(one)
    return [max(kin.values(), key=len) for kin in found.values()]


def embeddings(all_series: Sequence[Series]) -> Picture | None:
    """The embeddings of test images after the last epoch, one panel a method, one colour a class."""
    drawn = [(one, one.runs[0].epochs[-1]["embeddings"]) for one in all_series if one.embedded]
    if not drawn:
        return None
    charts = []
    for series, recorded in drawn:
        on_sphere = len(recorded["points"][0]) == 3
        points = [_on_discs(point) if on_sphere else (*point, 0.0)[:2] for point in recorded["points"]]
        reach = 1.05 * (max(abs(value) for point in points for value in point) or 1.0)
        ticks = [] if on_sphere else [(value, label(value)) for value in linear_ticks(-reach, reach)]
        axes = (Axis("", -reach, reach, ticks), Axis("", -reach, reach, ticks))
        outlines = []
        if on_sphere:
            axes = (Axis("", -2.15, 2.15, []), Axis("", -1.05, 1.05, []))
            outlines = [_circle(-1.1), _circle(1.1)]
        names = series.runs[0].start["data"].get("classes", [])
        clouds = [
            Cloud(
                names[label_] if label_ < len(names) else str(label_),
                CLASS_COLOURS[label_ % len(CLASS_COLOURS)],
                [point for point, own in zip(points, recorded["labels"], strict=True) if own == label_],
            )
            for label_ in sorted(set(recorded["labels"]))
        ]
        final = series.final()
        errors = f": {final.mean:.0f} errors" if final else ""
        charts.append(Chart(f"{series.caption}{errors}", *axes, clouds=clouds, outlines=outlines))
    caption = (
        "Embeddings of the first test images after the last epoch, a colour for each class; of several seeds "
        "the first. Of three dimensions the directions are drawn: the sphere from the front (left) and from "
        "behind (right)."
    )
    return Picture("embeddings", "the embeddings", caption, charts)


def _on_discs(point: Sequence[float]) -> tuple[float, float]:
    """A direction in space as a point of the sphere's front or, beside it, of its back."""
    length = math.hypot(*point) or 1.0
    x, y, z = (value / length for value in point)
    return (x - 1.1, y) if z >= 0 else (1.1 - x, y)


def _units(drawn: Sequence[Series]) -> str:
    """What the axis of time counts: "epoch", "step", or both where kinds of runs stand side by side."""
    return " or ".join(sorted({unit(series.config)[0] for series in drawn}))


def _circle(x: float) -> list[tuple[float, float]]:
    angles = [math.tau * step / 90 for step in range(91)]
    return [(x + math.cos(angle), math.sin(angle)) for angle in angles]


def _errors_axis(title: str, lowest: float, highest: float) -> Axis:
    low, high = lowest * 0.97, highest * 1.03
    ticks = log_ticks(lowest, highest)
    if len(ticks) < 3 and highest > lowest:  # a short stretch of the logarithm is nearly straight
        ticks = linear_ticks(low, high)
    return Axis(title, low, high, [(value, label(value)) for value in ticks], "log")


def _count_axis(title: str, last: int, at_most: int) -> Axis:
    return Axis(title, 0, last, [(count, str(count)) for count in count_ticks(last, at_most)])


def by_magnitude(all_series: Sequence[Series]) -> Picture | None:
    """Errors on test input that is multiplied by a number, after the last epoch, one line a method."""
    lines = []
    for series in all_series:
        found = [dict(run.epochs[-1].get("errors_by_factor", ())) for run in series.completed]
        factors = sorted(set.intersection(*map(set, found))) if found else []
        if not factors:
            continue
        means = [max(statistics.fmean(one[factor] for one in found), LEAST_ERRORS) for factor in factors]
        texts = [f"{mean:,.0f}" for mean in means]
        lines.append(
            Line(series.label, series.colour, factors, means, texts, dashes=series.dashes, dots=True)
        )
    if not lines:
        return None
    xs = sorted({x for line in lines for x in line.xs})
    lowest, highest = (function(y for line in lines for y in line.ys) for function in (min, max))
    shown = [x for x in xs if x in (0.1, 0.2, 0.5, 1, 2, 5, 10)] or xs
    x = Axis("factor", xs[0] / 1.1, xs[-1] * 1.1, [(value, label(value)) for value in shown], "log")
    y = _errors_axis(errors_title(all_series), lowest, highest)
    chart = Chart("Test errors against the factor of the input", x, y, lines)
    caption = (
        "Errors of the trained networks when every test input is multiplied by a number; of several seeds "
        "the mean. Both axes are logarithmic."
    )
    heading = f"{y.title}, when the input is multiplied by a factor"
    return Picture("magnitude", heading, caption, [chart], legend=True)


FIGURES: dict[str, Callable[[Sequence[Series]], Picture | None]] = {
    "errors": errors_by_epoch,
    "pre-activations": pre_activations,
    "embeddings": embeddings,
    "magnitude": by_magnitude,
}
