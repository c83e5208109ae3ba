"""A comparison as a table with a column for each method: for recipes that try all methods on many things."""

from collections.abc import Sequence

from cosnorm_lab.methods import METHODS
from cosnorm_lab.recipes import RECIPES, columns
from cosnorm_lab.records import Run
from cosnorm_lab.rows import NOT_RUN, shown
from cosnorm_lab.series import Series, group, interval_of, setting


def across_table(runs: Sequence[Run]) -> str:
    """Markdown: a row for each setting, the recipe's columns and the learning rate; a column for each method.

    Args:
        runs: of one recipe that says by `across` what is shown: "right", the percentage of right answers over
            the last epochs, or the name of a number of the last epoch's line; the mean over seeds and its
            95 % interval.
    """
    recipe = RECIPES[runs[0].config.recipe]
    names = (*columns(recipe.name), "learning_rate")
    rows: dict[tuple[object, ...], dict[str, Series]] = {}
    for series in group(runs):
        place = tuple(getattr(series.config, name) for name in names)
        rows.setdefault(place, {})[series.method] = series
    methods = [method for method in METHODS if any(method in row for row in rows.values())]
    headings = [*map(setting, names), *(METHODS[method].title for method in methods), "seeds"]
    lines = [headings, ["---" if isinstance(one, str) else "--:" for one in next(iter(rows))]]
    lines[1] += ["--:"] * (len(methods) + 1)
    for place in sorted(rows, key=lambda one: tuple(-v if isinstance(v, int) else v for v in one)):
        row = rows[place]
        seeds = {len(series.completed) for series in row.values()}
        cells = [_cell(row.get(method), recipe.across) for method in methods]
        lines.append(
            [*map(shown, place), *cells, f"{min(seeds)} to {max(seeds)}" if len(seeds) > 1 else str(*seeds)]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
