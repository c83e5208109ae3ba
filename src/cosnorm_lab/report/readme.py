"""Tables of results in Markdown files, such as the README, written from records."""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

from cosnorm_lab.errors import LabError
from cosnorm_lab.files import write_whole
from cosnorm_lab.recipes import RECIPES, columns
from cosnorm_lab.records import Run
from cosnorm_lab.report.across import across_table
from cosnorm_lab.report.answers import answers, parts_of
from cosnorm_lab.report.rows import Row, further_of, goal_of, has_least, has_paper, make_rows
from cosnorm_lab.report.said import behind_block, escaped, headlines_block, said_block
from cosnorm_lab.report.series import by_data, group, is_search, setting


def markdown_table(runs: Iterable[Run]) -> str:
    """The comparison as a Markdown table.

    Args:
        runs: Runs of one recipe on one data set; those that search for a learning rate on held-back images
            are left out.

    Returns:
        The table, one line a method, without a newline at its end.
    """
    runs = list(runs)
    rows = make_rows(group(run for run in runs if not is_search(run)))
    further = [setting(name) for name in columns(runs[0].config.recipe)] if runs else []
    headings = ["method", *further, "learning rate", "seeds", "mean", "variance", *further_of(rows)]
    headings.append("over epochs")
    if has_paper(rows):
        headings[-1:-1] = ["paper's mean", "paper's variance"]
    if has_least(rows):
        headings[-1:-1] = ["least", "paper's least"]
    goal = goal_of(rows)
    if goal is not None:
        headings[-1:-1] = [f"down to {goal:,}", "paper's"]
    finished = all(row.status == "completed" for row in rows)
    if not finished:
        headings.append("status")
    rule = ["---" if heading in ("method", "status") else "--:" for heading in headings]
    lines = [
        headings,
        rule,
        *(_cells(row, has_paper(rows), has_least(rows), goal is not None, finished) for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table_of(runs: Sequence[Run], recipe: str) -> str:
    """The tables of a recipe, one for each data set, whose name stands above where there are several."""
    several = by_data(run for run in runs if run.config.recipe == recipe)
    across = recipe in RECIPES and RECIPES[recipe].across
    tables = [across_table(part) if across else markdown_table(part) for part in several]
    if len(several) > 1:
        named = zip(several, tables, strict=True)
        tables = [f"**{escaped(part[0].data_name)}**\n\n{table}" for part, table in named]
    return "\n\n".join(tables)


def update_readme(runs: Iterable[Run], path: Path) -> list[str]:
    """Rewrite from records the blocks `<!-- RECIPE -->` to `<!-- /RECIPE -->` of a file.

    Further blocks are "headlines", what the records answer first; "behind", where cosine loses; and
    "said-RECIPE", a recipe's verdict in sentences.

    Args:
        runs: Runs of any recipes; those that have no block are left out.
        path: The file, such as README.md.

    Returns:
        The names of the blocks that were written.

    Raises:
        LabError: The file has a block for none of the recipes, or the marks of one are not a pair.
    """
    runs = list(runs)
    recipes = sorted({run.config.recipe for run in runs})
    text = path.read_text(encoding="utf-8")
    parts = parts_of(runs)
    found = answers(parts)
    blocks = {recipe: functools.partial(table_of, runs, recipe) for recipe in recipes}
    blocks["headlines"] = functools.partial(headlines_block, found, text)
    blocks["behind"] = functools.partial(behind_block, found)
    blocks |= {f"said-{part.anchor}": functools.partial(said_block, found.of(part.anchor)) for part in parts}
    written = []
    for name, made in blocks.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if begin not in text and end not in text:
            continue
        before, _, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not closed or begin in rest or end in after:
            raise LabError(
                f"{path} must hold {begin} and, after it, {end}, each once; add them where the table goes"
            )
        text = f"{before}{begin}\n{made()}\n{end}{after}"
        written.append(name)
    if not written:
        marks = " or ".join(f"<!-- {recipe} --> and <!-- /{recipe} -->" for recipe in recipes)
        raise LabError(
            f"{path} holds no block for these records: add {marks or 'marks'} where the table goes"
        )
    write_whole(path, text.encode())
    return written


def _cells(row: Row, paper: bool, least: bool, goal: bool, finished: bool) -> list[str]:
    cells = [row.series.name, *row.settings]
    cells += [row.learning_rate, row.seeds, row.mean, row.variance, *row.further]
    if paper:
        cells += [row.paper_mean, row.paper_variance]
    if least:
        cells += [row.least, row.paper_least]
    if goal:
        cells += [row.goal, row.paper_goal]
    cells.append(row.over)
    if not finished:
        cells.append(row.status)
    return [escaped(cell) for cell in cells]
