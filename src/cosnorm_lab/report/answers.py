"""What a page of records answers first, one and the same in the report, in Markdown and on the site."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cosnorm_lab.recipes import RECIPES
from cosnorm_lab.records import Run
from cosnorm_lab.report.any_data import of_any_data
from cosnorm_lab.report.behind import Behind, where_behind
from cosnorm_lab.report.claims import CLAIMS
from cosnorm_lab.report.headlines import NOT_RUN, Headline, answer
from cosnorm_lab.report.papers import other_files
from cosnorm_lab.report.series import Series, by_data, group, is_search

FAIR = {claim.recipe for claim in CLAIMS if claim.fair}


@dataclass(frozen=True)
class Part:
    """The runs of one recipe on one data set.

    Attributes:
        recipe: Its name.
        anchor: The name of its section.
        runs: All of them, searches too.
        series: Those that are no searches.
    """

    recipe: str
    anchor: str
    runs: tuple[Run, ...]
    series: tuple[Series, ...]

    @property
    def claimed(self) -> bool:
        """Whether claims speak of it; of other files than the official ones they do not."""
        return self.recipe in {claim.recipe for claim in CLAIMS} and not other_files(self.runs)


@dataclass(frozen=True)
class Answers:
    """The headlines of some runs.

    Attributes:
        headlines: All of them.
        behind: Where cosine loses.
    """

    headlines: tuple[Headline, ...]
    behind: tuple[Behind, ...]

    @property
    def top(self) -> list[Headline]:
        """Those that stand first; fair comparisons before the others. Never none, if there are any."""
        found = [one for one in self.headlines if one.claim.top] or list(self.headlines)
        return sorted(found, key=lambda one: not one.claim.fair)

    @property
    def fair(self) -> list[Headline]:
        """Of these the fair comparisons."""
        return [one for one in self.top if one.claim.fair]

    @property
    def others(self) -> list[Headline]:
        """Of these the others."""
        return [one for one in self.top if not one.claim.fair]

    @property
    def grouped(self) -> list[tuple[str, list[Headline]]]:
        """Those that stand first and were run, under their headings."""
        if self.any_data:
            return [("Which method, at which rate", self.top)]
        groups = (("In a fair comparison", self.fair), ("At the paper’s own settings", self.others))
        return [(heading, [one for one in found if one.ours is not None]) for heading, found in groups]

    @property
    def not_run(self) -> str:
        """Those that would stand first and were not run, in a sentence; "" if there are none."""
        missing = [one for one in self.top if one.ours is None]
        named = "; ".join(f"{one.claim.label} (cosnorm run {one.claim.recipe})" for one in missing)
        return f"Not run: {named}." if named else ""

    @property
    def any_data(self) -> bool:
        """Whether no claim of the paper or of ours is among them: data of any kind alone."""
        names = {claim.name for claim in CLAIMS}
        return all(one.claim.name not in names for one in self.headlines)

    @property
    def lost(self) -> list[Behind]:
        """Where cosine is behind: first where a test supports it, then where there is none."""
        found = [one for one in self.behind if one.decided]
        return sorted(found, key=lambda one: not one.difference.supported)

    @property
    def summary(self) -> list[str]:
        """The answer in two or three sentences."""
        if self.any_data:
            return []
        said = [
            _counted("fair comparison", "", self.fair),
            _counted("comparison", " at the paper’s own settings", self.others),
        ]
        papers = [one for one in self.others if one.paper is not None or one.word == NOT_RUN]
        words = [one.paper_word or one.word for one in papers]
        if any(word != NOT_RUN for word in words):
            counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(sorted(words)))
            said.append(f"Of {len(papers)} figures of the paper: {counts}.")
        return [one for one in said if one]

    def of(self, anchor: str) -> list[Headline]:
        """Those of a section."""
        return [one for one in self.headlines if one.anchor == anchor]


def parts_of(runs: Iterable[Run]) -> list[Part]:
    """Runs by recipe and data: fair comparisons first, else in the order of the registry.

    Raises:
        LabError: Two records are of the same run.
    """
    by_recipe: dict[str, list[Run]] = {}
    for run in runs:
        by_recipe.setdefault(run.config.recipe, []).append(run)
    known = sorted((name for name in RECIPES if name in by_recipe), key=lambda name: name not in FAIR)
    order = [*known, *sorted(set(by_recipe) - set(RECIPES))]
    found = []
    for recipe in order:
        several = by_data(by_recipe[recipe])
        for part in several:
            anchor = recipe if len(several) == 1 else f"{recipe}-{part[0].data_key or 'official'}"
            series = group(run for run in part if not is_search(run))
            found.append(Part(recipe, anchor, tuple(part), tuple(series)))
    return found


def answers(parts: Sequence[Part]) -> Answers:
    """The headlines: claims in their order, then those of what no claim speaks of.

    Claims whose recipes have no records are "not run" where other claims have some.

    Args:
        parts: See `parts_of`.
    """
    claimed = [part for part in parts if part.claimed]
    found: list[Headline] = []
    for claim in CLAIMS if claimed else ():
        mine = [part for part in claimed if part.recipe == claim.recipe]
        found += [answer(claim, part.series, part.anchor) for part in mine] or [Headline(claim, "")]
    for part in parts:
        if not part.claimed:
            searched = any(map(is_search, part.runs))
            found += of_any_data(part.series, part.anchor, searched=searched)
    return Answers(
        tuple(found), tuple(one for part in parts for one in where_behind(part.series, part.anchor))
    )


def title(found: Answers) -> str:
    """The question that a page answers."""
    if not found.headlines:
        return "Normalizations compared"
    if not found.any_data:
        return "Does cosine normalization work, and when?"
    labels = dict.fromkeys(one.claim.label for one in found.headlines)
    return f"Which method has the fewest errors on {', '.join(labels)}?"


_IN_WORDS = {
    "ahead": "ahead",
    "level": "level",
    "behind": "behind",
    "ahead, no test": "ahead in the mean without a test",
    "level, no test": "level in the mean without a test",
    "behind, no test": "behind in the mean without a test",
}


def _counted(what: str, where: str, headlines: Sequence[Headline]) -> str:
    """How many comparisons cosine is ahead in, and which."""
    compared = [one for one in headlines if one.order is not None and one.claim.between_methods]
    if not compared:
        return ""

    words = [(one.word, one.claim.label) for one in compared]
    listed = []
    for word, in_words in _IN_WORDS.items():
        labels = [label for found, label in words if found == word]
        if labels:
            listed.append(f"{in_words} in {len(labels)} ({'; '.join(labels)})")
    number = f"{len(compared)} {what}s" if len(compared) > 1 else f"one {what}"
    return f"In {number}{where} cosine is {', '.join(listed)}."
