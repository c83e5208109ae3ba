"""A comparison as a table with a column for each method: for recipes that try all methods on many things."""

from collections.abc import Sequence

from cosnorm_lab.methods import METHODS
from cosnorm_lab.recipes import RECIPES, columns
from cosnorm_lab.records import Run
from cosnorm_lab.report.differences import compare, p_value
from cosnorm_lab.report.quantities import figure
from cosnorm_lab.report.rows import NOT_RUN, shown
from cosnorm_lab.report.series import Series, group, interval_of, setting


def across_table(runs: Sequence[Run]) -> str:
    """Markdown of `across_rows`."""
    headings, rows = across_rows(runs)
    names = columns(runs[0].config.recipe)
    words = [isinstance(getattr(runs[0].config, name), str) for name in names]
    rule = ["---" if word else "--:" for word in words] + ["--:"] * (len(headings) - len(words))
    return "\n".join(f"| {' | '.join(line)} |" for line in [headings, rule, *rows])


def across_rows(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """A row for each setting, the recipe's columns and the learning rate; a column for each method.

    Args:
        runs: of one recipe that says by `across` what is shown: "right", the percentage of right answers over
            the last epochs, or the name of a number of the last epoch's line; the mean over seeds and its
            95 % interval. Where converted networks stand beside such with norms, the last column says
            whether they differ, each setting for itself.

    Returns:
        The headings, and the rows.
    """
    recipe = RECIPES[runs[0].config.recipe]
    names = (*columns(recipe.name), "learning_rate")
    rows: dict[tuple[object, ...], dict[str, Series]] = {}
    for series in group(runs):
        place = tuple(getattr(series.config, name) for name in names)
        rows.setdefault(place, {})[series.method] = series
    methods = [method for method in METHODS if any(method in row for row in rows.values())]
    beside = {"converted", "norm"} <= set(methods)
    headings = [*map(setting, names), *(METHODS[method].title for method in methods), "seeds"]
    headings += ["converted beside the norm"] * beside
    lines = []
    for place in sorted(rows, key=lambda one: tuple(-v if isinstance(v, int) else v for v in one)):
        row = rows[place]
        seeds = {len(series.completed) for series in row.values()}
        cells = [_cell(row.get(method), recipe.across) for method in methods]
        cells.append(f"{min(seeds)} to {max(seeds)}" if len(seeds) > 1 else str(*seeds))
        if beside:
            cells.append(_beside(row.get("converted"), row.get("norm"), recipe.across))
        lines.append([*map(shown, place), *cells])
    return headings, lines


def _beside(mine: Series | None, norm: Series | None, what: str) -> str:
    """Whether converted networks are ahead of those with norms, and p."""
    ours, theirs = (None if one is None else figure(one, what) for one in (mine, norm))
    if ours is None or theirs is None:
        return NOT_RUN
    difference = compare(ours.values, theirs.values)
    return difference.word if difference.p is None else f"{difference.word} ({p_value(difference.p)})"


def _cell(series: Series | None, what: str) -> str:
    """The mean over seeds and its interval."""
    if series is None or not series.completed:
        return NOT_RUN
    if what == "right":
        final = series.final()
        assert final is not None
        share = 100 / series.completed[0].epochs[-1]["count"]
        mean, interval = 100 - share * final.mean, final.interval and share * final.interval
        return f"{mean:.1f}" if interval is None else f"{mean:.1f} ± {interval:.1f}"
    mean, interval = interval_of([run.epochs[-1][what] for run in series.completed])
    return f"{mean:.3f}" if interval is None else f"{mean:.3f} ± {interval:.3f}"
