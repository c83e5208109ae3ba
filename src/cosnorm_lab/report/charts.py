"""Charts as numbers: lines, axes and ticks, drawn by the report as SVG and by `figures` as PNG."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

SIZE = 1000.0  # the lines' viewBox; the browser stretches it to the place there is
FAR = 9.0  # boxes outside the box beyond which some browsers lose lines; they are cut off at the box anyway


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        title: Its name.
        low: The value at its beginning, left or below.
        high: The value at its end.
        ticks: (value, text).
        scale: "linear", "log", or "asinh": linear near zero and logarithmic far from it.
    """

    title: str
    low: float
    high: float
    ticks: list[tuple[float, str]]
    scale: str = "linear"

    def place(self, value: float) -> float:
        """Where a value lies: 0 at the beginning, 1 at the end."""
        value, low, high = (self._scaled(number) for number in (value, self.low, self.high))
        return (value - low) / (high - low) if high > low else 0.5

    def _scaled(self, value: float) -> float:
        match self.scale:
            case "log":
                return math.log(max(value, 1e-300))
            case "asinh":
                return math.asinh(value)
            case _:
                return value

    @property
    def places(self) -> list[tuple[float, str]]:
        """(place in percent, text) of each tick."""
        return [(100 * self.place(value), text) for value, text in self.ticks]


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        caption: What the legend calls it.
        colour: Its colour.
        xs: Where its points lie.
        ys: The same.
        texts: What hovering shows of each point.
        dashes: SVG's stroke-dasharray.
        width: In pixels.
        low: Lower edge of the band around it, or nothing.
        high: Upper edge.
        dots: Whether the points themselves are drawn.
    """

    caption: str
    colour: str
    xs: Sequence[float]
    ys: Sequence[float]
    texts: Sequence[str]
    dashes: str = ""
    width: float = 2.0
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dots: bool = False


@dataclass(frozen=True)
class Cloud:
    """Points of one colour, such as the embeddings of a class."""

    caption: str
    colour: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """One coordinate system.

    Attributes:
        title: What it shows.
        x: The axis from left to right.
        y: The axis from below.
        lines: The lines, in the order of the legend.
        clouds: Points without lines; hovering says nothing of them.
        outlines: Lines in the place of the axes' frame, such as circles.
    """

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line] = ()
    clouds: Sequence[Cloud] = ()
    outlines: Sequence[Sequence[tuple[float, float]]] = ()

    def path(self, line: Line) -> str:
        """A line as an SVG path in a SIZE by SIZE box with y downwards."""
        # A path of a single point is not drawn.
        return "M" + "L".join(self._points(line.xs, line.ys)) + ("h0.1" if len(line.xs) == 1 else "")

    def band(self, line: Line) -> str:
        """The area around a line as an SVG path, or nothing."""
        if not line.low:
            return ""
        edge = self._points(line.xs, line.high) + self._points(line.xs, line.low)[::-1]
        return "M" + "L".join(edge) + "Z"

    def dots(self, points: Sequence[tuple[float, float]]) -> str:
        """Points as an SVG path that draws them where its lines have round ends."""
        xs, ys = zip(*points, strict=True) if points else ((), ())
        return "".join(f"M{place}h0" for place in self._points(xs, ys))

    def outline(self, points: Sequence[tuple[float, float]]) -> str:
        """An outline as an SVG path."""
        xs, ys = zip(*points, strict=True)
        return "M" + "L".join(self._points(xs, ys))

    def marks(self, line: Line) -> list[tuple[float, float]]:
        """The points of a line."""
        return list(zip(line.xs, line.ys, strict=True))

    def _points(self, xs: Sequence[float], ys: Sequence[float]) -> list[str]:
        return [
            f"{SIZE * self.x.place(x):.1f},{SIZE * (1 - min(max(self.y.place(y), 1 - FAR), FAR)):.1f}"
            for x, y in zip(xs, ys, strict=True)
        ]

    @property
    def hover(self) -> str:
        """What the page's script needs, as JSON that is safe inside an HTML script element.

        Each point is [x as text, x in percent, y in percent from above, value as text].
        """
        lines = [
            {
                "caption": line.caption,
                "colour": line.colour,
                "points": [
                    [f"{x:,g}", round(100 * self.x.place(x), 2), round(100 - 100 * self.y.place(y), 2), text]
                    for x, y, text in zip(line.xs, line.ys, line.texts, strict=True)
                ],
            }
            for line in self.lines
        ]
        text = json.dumps({"x": self.x.title, "lines": lines}, ensure_ascii=True, separators=(",", ":"))
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
