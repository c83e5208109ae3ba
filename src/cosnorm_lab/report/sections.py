"""A section of the report: one recipe on one data set, the rows that matter first, the others folded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cosnorm_lab.recipes import FIGURES, RECIPES, columns
from cosnorm_lab.report.across import across_rows
from cosnorm_lab.report.answers import Part
from cosnorm_lab.report.differences import Difference, compare, p_value
from cosnorm_lab.report.figures import Picture, make_pictures
from cosnorm_lab.report.headlines import Headline, setting_of, training
from cosnorm_lab.report.papers import other_files
from cosnorm_lab.report.quantities import figure
from cosnorm_lab.report.rows import (
    NOTHING,
    Row,
    further_of,
    goal_of,
    has_least,
    has_paper,
    make_rows,
    planned_rows,
)
from cosnorm_lab.report.series import Series, group, is_search, setting

AT_MOST = 12  # rows that stand open, if the best of each method leaves no more


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        headings: Of the columns; the first names the rows.
        rows: Those that matter.
        folded: Those of other settings.
    """

    headings: Sequence[str]
    rows: Sequence["TableRow"]
    folded: Sequence["TableRow"] = ()


@dataclass(frozen=True)
class TableRow:
    """One row.

    Attributes:
        cells: One for each heading.
        colour: The method's; "" where the row is of several.
        note: What stands in a line below it.
    """

    cells: Sequence[str]
    colour: str = ""
    note: str = ""


@dataclass(frozen=True)
class Section:
    """What the report shows of one recipe on one data set.

    Attributes:
        recipe: Its name.
        anchor: The section's own name.
        description: What it is about, where the recipe is known.
        data: What it was trained on, and how many samples.
        headlines: The verdict in sentences.
        table: The comparison; None without runs on test samples.
        search: The runs whose errors are of held-back training samples.
        layers: Length and effective learning rate of each layer's weights; None where none are recorded.
        rows: All rows of the comparison and of the search.
        pictures: The figures, each with the name of its PNG file beside the report.
        search_pictures: Those of the search.
        other: Whether the runs are of other files than the paper's, so that it does not speak of them.
    """

    recipe: str
    anchor: str
    description: str
    data: str
    headlines: Sequence[Headline]
    table: Table | None
    search: Table | None
    layers: Table | None
    rows: Sequence[Row]
    pictures: Sequence[tuple[Picture, str]]
    search_pictures: Sequence[tuple[Picture, str]]
    other: bool

    @property
    def plain(self) -> list[tuple[Picture, str]]:
        """The figures of one chart that stand open."""
        return [pair for pair in self.pictures if not pair[0].panels and pair not in self.over_time]

    @property
    def over_time(self) -> list[tuple[Picture, str]]:
        """Errors against epoch, where another figure says what the recipe is about."""
        return [
            pair for pair in self.pictures[1:] if pair[0].name == "errors" and not self.pictures[0][0].panels
        ]


def make_section(part: Part, headlines: Sequence[Headline], stem: str) -> Section:
    """The section of a part.

    Args:
        part: The runs.
        headlines: Those of the section.
        stem: What the names of its figures begin with.
    """
    recipe = RECIPES.get(part.recipe)
    series = list(part.series)
    rows = make_rows(series)
    planned = [] if other_files(part.runs) else planned_rows(part.recipe, series)
    searched = group(run for run in part.runs if is_search(run))

    def named(pictures: list[Picture]) -> list[tuple[Picture, str]]:
        return [(picture, f"{stem}-{picture.name}.png") for picture in pictures]

    if recipe and recipe.across and series:
        headings, lines = across_rows([run for run in part.runs if not is_search(run)])
        table: Table | None = Table(headings, [TableRow(line) for line in lines])
    else:
        table = _comparison(part.recipe, rows, planned) if rows or planned else None
    search_rows = make_rows(searched)
    return Section(
        recipe=part.recipe,
        anchor=part.anchor,
        description=recipe.description if recipe else "",
        data=part.runs[0].data_name,
        headlines=headlines,
        table=table,
        search=_comparison(part.recipe, search_rows, []) if searched else None,
        layers=_layers(series),
        rows=[*rows, *search_rows],
        pictures=named(_pictures(recipe.figures if recipe else FIGURES, series, rows)),
        search_pictures=named(make_pictures({"by learning_rate": None}, searched)),
        other=other_files(part.runs),
    )


def _pictures(
    figures: Mapping[str, int | None], series: Sequence[Series], rows: Sequence[Row]
) -> list[Picture]:
    """Figures over time show the rows that matter, those against a setting show all."""
    kept = [row.series for row in that_matter(rows)[0]]
    return [
        picture
        for name, number in figures.items()
        for picture in make_pictures({name: number}, kept if name in FIGURES else series)
    ]


def that_matter(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows of the completed, longest, most often repeated and best runs of each method, and the others.

    Settings that have a column of the table are told apart, unless that leaves too many rows.
    """

    def better(row: Row) -> tuple[object, ...]:
        one = row.series
        return bool(one.completed), training(one.config), len(one.completed), -(one.mean_errors() or 0.0)

    def best(names: Sequence[str]) -> list[Row]:
        found: dict[tuple[object, ...], Row] = {}
        for row in rows:
            config = row.series.config
            key = (config.kind, config.method, *(getattr(config, name) for name in names))
            if key not in found or better(row) > better(found[key]):
                found[key] = row
        return [row for row in rows if row in found.values()]

    kept = best(columns(rows[0].series.config.recipe)) if rows else []
    if len(kept) > AT_MOST:
        kept = best(())
    return kept, [row for row in rows if row not in kept]


def beside_best(series: Sequence[Series]) -> Mapping[int, tuple[Series, Difference | None]]:
    """Each completed series beside that with the fewest errors in its setting, by its id.

    Returns:
        The best one, and the difference from it; None for the best itself.
    """
    found: dict[int, tuple[Series, Difference | None]] = {}
    completed = [one for one in series if one.completed]
    for one in completed:
        place = setting_of(one.config)
        kin = [other for other in completed if setting_of(other.config) == place]
        best = min(kin, key=lambda other: other.mean_errors() or 0.0)
        mine, its = (figure(side, "errors") for side in (one, best))
        assert mine is not None
        assert its is not None
        found[id(one)] = (best, None if one is best else compare(mine.values, its.values))
    return found


def _comparison(recipe: str, rows: Sequence[Row], planned: Sequence[Row]) -> Table:
    every = [*rows, *planned]
    paper, least, goal = has_paper(every), has_least(every), goal_of(every)
    beside = beside_best([row.series for row in rows])
    tested = any(difference and difference.p is not None for _, difference in beside.values())
    varied = paper or not least  # the paper has a variance beside its means, not beside its least errors
    headings = ["method", *map(setting, columns(recipe)), "learning rate", "seeds", "errors", "%"]
    headings += [*further_of(every), *(["variance"] if varied else [])]
    headings += ["paper’s errors", "paper’s variance"] if paper else []
    headings += ["least", "paper’s least"] if least else []
    headings += [f"down to {goal:,}", "in the paper"] if goal else []
    headings += ["beside the best"] if tested else []
    judged = any(row.verdict != NOTHING for row in every)
    headings += ["beside the paper" if paper or least else "verdict"] if judged or paper or least else []

    def made(row: Row) -> TableRow:
        cells = [row.series.name, *row.settings, row.learning_rate, row.seeds, row.mean]
        cells.append(row.percent.removesuffix(" %"))
        cells += [*row.further, *([row.variance] if varied else [])]
        cells += [row.paper_mean, row.paper_variance] if paper else []
        cells += [row.least, row.paper_least] if least else []
        cells += [row.goal, row.paper_goal] if goal else []
        cells += [_beside(row.series, beside)] if tested else []
        cells += [row.verdict] if judged or paper or least else []
        return TableRow(cells, row.series.colour, row.note)

    kept, folded = that_matter(rows)
    return Table(headings, [made(row) for row in [*kept, *planned]], [made(row) for row in folded])


def _beside(series: Series, beside: Mapping[int, tuple[Series, Difference | None]]) -> str:
    if id(series) not in beside:
        return NOTHING
    difference = beside[id(series)][1]
    if difference is None:
        return "the best"
    return difference.word if difference.p is None else f"{difference.word} ({p_value(difference.p)})"


def _layers(series: Sequence[Series]) -> Table | None:
    last = [(one, one.runs[0].epochs[-1]) for one in series if one.runs and one.runs[0].epochs]
    last = [(one, line) for one, line in last if line.get("layers")]
    names = list(dict.fromkeys(layer["name"] for _, line in last for layer in line["layers"]))
    names.sort(key=lambda name: name == "output")  # last, however many come before it
    if not names:
        return None
    headings = ["method", "learning rate", "after epoch"]
    headings += [f"{name}: |w|, lr/|w|²" for name in names]
    rows = []
    for one, line in last:
        found = {layer["name"]: layer for layer in line["layers"]}
        numbers = [
            f"{found[name]['weight_norm']:.3g}, {found[name]['effective_learning_rate']:.3g}"
            if name in found
            else NOTHING
            for name in names
        ]
        cells = [one.label, f"{one.config.learning_rate:g}", str(line["epoch"]), *numbers]
        rows.append(TableRow(cells, one.colour))
    return Table(headings, rows)
