"""A claim of `report.claims` answered from records: figures, a test, and words for what they support.

The words are computed from the numbers alone. A difference between two methods is "ahead" or "behind" where a
test over seeds supports it and "level" where it does not; of several rivals at once the p is Holm's. A figure
of the paper is "reproduced" within 5 %, "better" or "not reproduced".
"""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cosnorm_lab.config import RunConfig
from cosnorm_lab.report.claims import OURS, Claim, Fields
from cosnorm_lab.report.differences import Difference, compare, compare_with, holm, p_value
from cosnorm_lab.report.papers import paper_of
from cosnorm_lab.report.quantities import Figure, figure
from cosnorm_lab.report.series import Series

TOLERANCE = 0.05  # of the paper's figure: what counts as reproduced
NOT_RUN = "not run"
# Fields that belong to a method, as its learning rate does: they make no other setting.
OF_METHOD = (
    *("method", "learning_rate", "seed", "scale", "margin", "temperature"),
    *("center_weight", "island_weight"),
)


@dataclass(frozen=True)
class Headline:
    """A claim and its answer.

    Attributes:
        claim: What is claimed.
        anchor: Of the section that it belongs to.
        ours: Our figure; None if it was not run.
        other: That of the best rival, where runs are compared.
        order: Ours less the rival's.
        p: Of that difference, corrected for the number of rivals; None without a test.
        paper: The paper's figure.
        beside: Ours less the paper's.
        further: Sentences with what else the records say.
    """

    claim: Claim
    anchor: str
    ours: Figure | None = None
    other: Figure | None = None
    order: Difference | None = None
    p: float | None = None
    paper: float | None = None
    beside: Difference | None = None
    further: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """The verdict: that of the comparison, else of the paper's figure, else "not run"."""
        if self.ours is None:
            return NOT_RUN
        if self.order is not None:
            return self.order.word
        return self.paper_word or "no rival"

    @property
    def paper_word(self) -> str:
        """Whether the paper's figure is reproduced; "" where it has none or ours was not run."""
        if self.ours is None or self.paper is None:
            return ""
        return beside_paper(self.ours.mean, self.paper)

    @property
    def sides(self) -> str:
        """Our figure and the rival's, with intervals."""
        if self.ours is None:
            return NOT_RUN
        shown = [self.ours] if self.other is None else [self.ours, self.other]
        return ("; " if any("," in one.name for one in shown) else ", ").join(one.named for one in shown)

    @property
    def counted(self) -> str:
        """What the figures count."""
        if self.ours is None:
            return ""
        return self.ours.quantity.what.replace("{count}", f"{self.ours.count:,}")

    @property
    def said(self) -> str:
        """What supports the word."""
        return "" if self.order is None else self.order.said

    @property
    def sentence(self) -> str:
        """The verdict with all that supports it."""
        text = f"{self.claim.text[:1].upper()}{self.claim.text[1:]}"
        if self.ours is None:
            return f"{text}: {NOT_RUN}."
        because = f" ({self.said})" if self.said else ""
        figures = f"{self.sides} {self.counted}."
        parts = (f"{text}: {self.word}{because}.", figures, self.said_of_paper, *self.further)
        return " ".join(part for part in parts if part)

    @property
    def said_of_paper(self) -> str:
        """The paper's figure beside ours, in a sentence; "" where there is none."""
        if self.ours is None or self.paper is None or self.beside is None:
            return ""
        how = {"better": "is better than", "reproduced": "reproduces"}.get(
            self.paper_word, "does not reproduce"
        )
        printed = self.ours.quantity.written(self.paper)
        return f"{self.ours.text} {how} the paper’s {printed} ({self.beside.tested})."


def beside_paper(ours: float, paper: float) -> str:
    """Whether the paper's figure is reproduced: within 5 %, better, or not."""
    ratio = ours / paper
    if abs(ratio - 1) <= TOLERANCE:
        return "reproduced"
    return "better" if ratio < 1 else "not reproduced"


def answer(claim: Claim, series: Sequence[Series], place: str) -> Headline:
    """A claim's answer.

    Args:
        claim: The claim.
        series: All series of its recipe on one data set.
        place: The anchor of their section.
    """
    if claim.over:
        return _answer_over(claim, series, place)
    mine = longest(one for one in series if fits(one.config, claim.ours))
    if mine is None:
        return Headline(claim, place)
    if claim.against is not None:
        found = [longest(one for one in series if fits(one.config, claim.against))]
        rivals = [one for one in found if one is not None]
    elif claim.compared:
        rivals = rivals_of(mine, series)
    else:
        rivals = []
    return beside_rivals(claim, place, mine, rivals)


def fits(config: RunConfig, fields: Fields) -> bool:
    """Whether a configuration has these values."""
    return all(getattr(config, name, None) == value for name, value in fields.items())


def training(config: RunConfig) -> int:
    """How long a run trains: its steps or, where those are not counted, its epochs."""
    return config.epochs * (getattr(config, "steps", 0) or 1)


def longest(series: Iterable[Series]) -> Series | None:
    """Of the completed series the longest trained, of these that with the most seeds, then fewest errors."""
    done = [one for one in series if one.completed]
    if not done:
        return None
    return max(done, key=lambda one: (training(one.config), len(one.completed), -(one.mean_errors() or 0.0)))


def setting_of(config: RunConfig) -> tuple[tuple[str, str], ...]:
    """What a configuration shares with its rivals: everything but the method and what belongs to it."""
    left = (*OF_METHOD, *(("batch_size",) if config.kind == "contrastive" else ()))
    return tuple((name, str(value)) for name, value in config.to_dict().items() if name not in left)


def rivals_of(mine: Series, series: Iterable[Series]) -> list[Series]:
    """The best completed series of each other method that makes no cosines, in the same setting."""
    found: dict[str, Series] = {}
    ours = (*OURS, mine.method)
    for one in series:
        if one.completed and one.method not in ours and setting_of(one.config) == setting_of(mine.config):
            best = found.setdefault(one.method, one)
            if (one.mean_errors() or 0.0) < (best.mean_errors() or 0.0):
                found[one.method] = one
    return list(found.values())


def beside_rivals(
    claim: Claim, place: str, mine: Series, rivals: Sequence[Series], *, rates: bool = False
) -> Headline:
    """A series beside the best of others, and beside the paper's figure.

    Args:
        claim: What is claimed of it.
        place: The anchor of its section.
        mine: A completed series.
        rivals: Others.
        rates: Whether the names say the learning rates.
    """
    same_method = any(one.method == mine.method for one in rivals)

    def named(one: Series) -> str:
        if rates:
            return f"{one.method_name} (lr {one.config.learning_rate:g})"
        return one.label if same_method else one.method_name

    ours = figure(mine, claim.quantity, named(mine))
    assert ours is not None
    others = [figure(one, claim.quantity, named(one)) for one in rivals]
    head = _ordered(claim, place, ours, [one for one in others if one is not None])
    claimed = paper_of(mine)
    paper = {"errors": claimed.mean, "least": claimed.least}.get(claim.quantity)
    if claim.quantity == "worst factor":
        head = dataclasses.replace(head, further=(*head.further, _growth([mine, *rivals])))
    if paper is None:
        return head
    return dataclasses.replace(head, paper=paper, beside=compare_with(ours.values, paper))


def _ordered(claim: Claim, place: str, ours: Figure, others: Sequence[Figure]) -> Headline:
    """Ours beside the best of the others, p corrected for how many there are."""
    if not others:
        return Headline(claim, place, ours)
    every = {one.name: compare(ours.values, one.values) for one in others}
    ps = {name: difference.p for name, difference in every.items() if difference.p is not None}
    corrected = holm(ps)
    best = min(others, key=lambda one: one.mean)
    order = every[best.name]
    further: tuple[str, ...] = ()
    if len(others) > 1 and order.p is not None:
        how = order.how
        if corrected[best.name] > order.p:
            how += f"; {p_value(order.p)} before Holm’s correction for {len(ps)} rivals"
        order = dataclasses.replace(order, p=corrected[best.name], how=how)
        if len(ps) > 1:
            further = (
                _tally({name: dataclasses.replace(every[name], p=p) for name, p in corrected.items()}),
            )
    return Headline(claim, place, ours, best, order, order.p, further=further)


def _tally(every: Mapping[str, Difference]) -> str:
    parts = []
    for word in ("ahead", "level", "behind"):
        names = [name for name, difference in every.items() if difference.word == word]
        if names:
            preposition = {"ahead": "ahead of", "level": "level with", "behind": "behind"}[word]
            parts.append(f"{preposition} {', '.join(names)}")
    return f"Of {len(every)} rivals with several seeds it is {'; '.join(parts)}."


def _growth(series: Sequence[Series]) -> str:
    """How many errors each has at the factor 1, and at the worst."""
    parts = []
    for one in series:
        found = [dict(run.epochs[-1].get("errors_by_factor", ())) for run in one.completed]
        pairs = [(factors[1.0], max(factors.values())) for factors in found if 1.0 in factors]
        if pairs:
            usual, worst = (statistics.fmean(side) for side in zip(*pairs, strict=True))
            parts.append(f"{one.method_name} {usual:,.0f} and {worst:,.0f}")
    return f"Errors at the factor 1 and at the worst: {'; '.join(parts)}." if parts else ""


def _answer_over(claim: Claim, series: Sequence[Series], place: str) -> Headline:
    """The mean over settings of which both sides have the same seeds."""
    assert claim.against is not None

    def by_setting(fields: Fields) -> dict[tuple[object, ...], Figure]:
        found = {}
        for one in series:
            if fits(one.config, fields) and (numbers := figure(one, claim.quantity)):
                key = tuple(getattr(one.config, name) for name in claim.over)
                found[(*key, one.config.batch_size)] = numbers
        return found

    mine, theirs = by_setting(claim.ours), by_setting(claim.against)
    both = [key for key in mine if key in theirs]
    held = [set(side[key].values) for side in (mine, theirs) for key in both]
    seeds = set.intersection(*held) if held else set()
    if not seeds:
        return Headline(claim, place)

    def over(side: Mapping[tuple[object, ...], Figure]) -> Figure:
        values = {seed: statistics.fmean(side[key].values[seed] for key in both) for seed in sorted(seeds)}
        return dataclasses.replace(side[both[0]], values=values)

    head = _ordered(claim, place, over(mine), [over(theirs)])
    words = [compare(mine[key].values, theirs[key].values).word for key in both]
    counts = ", ".join(f"{word} in {words.count(word)}" for word in dict.fromkeys(words))
    return dataclasses.replace(
        head, further=(f"Means over {len(both)} settings; each for itself: {counts}.",)
    )
