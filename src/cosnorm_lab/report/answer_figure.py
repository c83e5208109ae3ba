"""The figure on top: each headline's difference with its interval, in percent of what it is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass

from cosnorm_lab.report.charts import Axis, Chart, Line
from cosnorm_lab.report.differences import Difference
from cosnorm_lab.report.figures import Picture
from cosnorm_lab.report.headlines import Headline
from cosnorm_lab.report.scales import label, linear_ticks

RIVAL, PAPER = "#D55E00", "#595959"
CAPTION = (
    "How many percent more (right) or fewer (left) errors, or loss: ● ours beside the best rival, ○ beside "
    "the paper’s figure. Bars are 95 % intervals of the difference over seeds, each for itself; "
    "one seed has none."
)
LEGEND = {False: "ours beside the best rival, 95 % interval", True: "ours beside the paper’s figure"}


@dataclass(frozen=True)
class Mark:
    """One difference, in percent of the other's figure.

    Attributes:
        middle: The difference of the means.
        low: Lower end of its 95 % interval; the middle where there is none.
        high: Upper end.
        of_paper: Whether the other is the paper's figure.
    """

    middle: float
    low: float
    high: float
    of_paper: bool

    @property
    def colour(self) -> str:
        """Of the mark."""
        return PAPER if self.of_paper else RIVAL


def marks(headline: Headline) -> list[Mark]:
    """The differences of a headline: from its rival, and from the paper's figure."""
    found = []
    if headline.order is not None and headline.other is not None:
        found.append(_mark(headline.order, headline.other.mean, False))
    if headline.beside is not None and headline.paper is not None:
        found.append(_mark(headline.beside, headline.paper, True))
    return found


def _mark(difference: Difference, other: float, of_paper: bool) -> Mark:
    share = 100 / other if other else 0.0
    half = difference.half or 0.0
    low, middle, high = (share * (difference.mean + way * half) for way in (-1, 0, 1))
    return Mark(middle, low, high, of_paper)


def axis(headlines: Sequence[Headline]) -> Axis:
    """The axis of differences that all marks lie on."""
    ends = [end for one in headlines for mark in marks(one) for end in (mark.low, mark.high)]
    low, high = max(min([*ends, -5.0]), -100.0), min(max([*ends, 5.0]), 100.0)
    room = 0.03 * (high - low)
    ticks = [(value, label(value)) for value in linear_ticks(low, high, 6)]
    return Axis("percent more errors (right) or fewer (left)", low - room, high + room, ticks)


def answer_picture(headlines: Sequence[Headline]) -> Picture | None:
    """The marks of all headlines below each other; None where there are none."""
    drawn = [one for one in headlines if marks(one)]
    if not drawn:
        return None
    x = axis(drawn)
    last = len(drawn) - 1
    y = Axis("", -0.6, last + 0.6, [(last - place, one.claim.label) for place, one in enumerate(drawn)])
    lines = [Line("", "#999999", [0.0, 0.0], [y.low, y.high], ["", ""], width=1.0)]
    names = dict(LEGEND)
    for place, one in enumerate(drawn):
        for mark in marks(one):
            height = last - place - (0.22 if mark.of_paper else 0.0)
            ends = [min(max(end, x.low), x.high) for end in (mark.low, mark.high)]
            name = names.pop(mark.of_paper, "")  # the first of each kind stands in the legend
            lines.append(Line("", mark.colour, ends, [height] * 2, ["", ""]))
            lines.append(Line(name, mark.colour, [mark.middle], [height], [""], dots=True))
    return Picture("answer", "does it work, and when", CAPTION, [Chart("", x, y, lines)], legend=True)
