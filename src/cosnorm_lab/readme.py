"""The README's table of results, written from records."""

import html
from collections.abc import Iterable
from pathlib import Path

from cosnorm_lab.errors import LabError
from cosnorm_lab.files import write_whole
from cosnorm_lab.records import Run
from cosnorm_lab.rows import Row, has_paper, make_rows
from cosnorm_lab.series import group, is_search

BEGIN = "<!-- table1 -->"
END = "<!-- /table1 -->"


def markdown_table(runs: Iterable[Run]) -> str:
    """The comparison as a Markdown table.

    Args:
        runs: Runs of one recipe; those that search for a learning rate on held-back images are left out.

    Returns:
        The table, one line a method, without a newline at its end.
    """
    rows = make_rows(group(run for run in runs if not is_search(run)))
    headings = ["method", "learning rate", "seeds", "mean", "variance", "over epochs"]
    if has_paper(rows):
        headings[5:5] = ["paper's mean", "paper's variance"]
    finished = all(row.status == "completed" for row in rows)
    if not finished:
        headings.append("status")
    rule = ["---" if heading in ("method", "status") else "--:" for heading in headings]
    lines = [headings, rule, *(_cells(row, has_paper(rows), finished) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def update_readme(runs: Iterable[Run], path: Path) -> None:
    """Rewrite the block between `<!-- table1 -->` and `<!-- /table1 -->` of a file from records.

    Args:
        runs: Runs of one recipe.
        path: The file, such as README.md.

    Raises:
        LabError: The file has not exactly one such block, or the runs are not of one recipe.
    """
    runs = list(runs)
    recipes = sorted({run.config.recipe for run in runs})
    if len(recipes) != 1:
        raise LabError(
            f"the table in {path} is of one recipe; got {', '.join(recipes) or 'no record'}; "
            "name the records of one recipe only"
        )
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise LabError(
            f"{path} must hold {BEGIN} and, after it, {END}, each once; add them where the table goes"
        )
    table = f"{before}{BEGIN}\n{markdown_table(runs)}\n{END}{after}"
    write_whole(path, table.encode())


def _cells(row: Row, paper: bool, finished: bool) -> list[str]:
    cells = [row.series.name, row.learning_rate, row.seeds, row.mean, row.variance]
    if paper:
        cells += [row.paper_mean, row.paper_variance]
    cells.append(row.over)
    if not finished:
        cells.append(row.status)
    return [_escape(cell) for cell in cells]


def _escape(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")
