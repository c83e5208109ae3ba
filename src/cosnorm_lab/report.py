"""The report: one HTML file that needs no network and no server, drawn from records only."""

import io
import os
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from cosnorm_lab.charts import Chart, error_chart, percentile_charts
from cosnorm_lab.errors import LabError
from cosnorm_lab.figures import error_curves, pre_activations
from cosnorm_lab.files import write_whole
from cosnorm_lab.records import Run
from cosnorm_lab.rows import Row, command, has_paper, make_rows, status
from cosnorm_lab.series import group, is_search


@dataclass(frozen=True)
class Section:
    """What the report shows of one recipe.

    Attributes:
        recipe: Its name.
        rows: The comparison.
        search: The runs whose errors are of held-back training images.
        paper: Whether the paper has figures to set beside ours.
        layers: Names of the layers.
        errors: Chart of the test errors against epoch.
        percentiles: Charts of the pre-activations.
        pictures: Names of the two PNG files beside the report.
    """

    recipe: str
    rows: list[Row]
    search: list[Row]
    paper: bool
    layers: list[str]
    errors: Chart | None
    percentiles: list[Chart]
    pictures: tuple[str, str]


def write_report(runs: list[Run], out: Path) -> None:
    """Write the report, and beside it the two figures as PNG.

    The figures are called after the report, `<stem>-figure2.png` and `<stem>-figure3.png`; with records of
    several recipes `<stem>-<recipe>-figure2.png` and so on. Every file is written whole or not at all.

    Args:
        runs: The runs, of any recipes.
        out: The HTML file; an old one is replaced.

    Raises:
        LabError: There are no runs.
    """
    if not runs:
        raise LabError("a report needs at least one record, got none; make one with `cosnorm run`")
    recipes = sorted({run.config.recipe for run in runs})
    sections = []
    for recipe in recipes:
        stem = out.stem if len(recipes) == 1 else f"{out.stem}-{recipe}"
        pictures = (f"{stem}-figure2.png", f"{stem}-figure3.png")
        members = [run for run in runs if run.config.recipe == recipe]
        tested = [run for run in members if not is_search(run)]
        write_whole(out.parent / pictures[0], _png(error_curves(tested)))
        write_whole(out.parent / pictures[1], _png(pre_activations(tested)))
        sections.append(_section(recipe, members, tested, pictures))
    page = _environment(out).get_template("report.html.jinja").render(sections=sections)
    write_whole(out, page.encode())


def _section(recipe: str, runs: Iterable[Run], tested: Iterable[Run], pictures: tuple[str, str]) -> Section:
    series = group(tested)
    rows = make_rows(series)
    last_lines = [one.runs[0].epochs[-1] for one in series if one.runs[0].epochs]
    return Section(
        recipe=recipe,
        rows=rows,
        search=make_rows(group(run for run in runs if is_search(run))),
        paper=has_paper(rows),
        layers=list(dict.fromkeys(layer["name"] for line in last_lines for layer in line["layers"])),
        errors=error_chart(series),
        percentiles=percentile_charts(series),
        pictures=pictures,
    )


def _environment(out: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cosnorm_lab", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def link(run: Run) -> str:
        relative = os.path.relpath(run.path.resolve(), out.parent.resolve())
        return urllib.parse.quote(Path(relative).as_posix())

    helpers: dict[str, Any] = {"link": link, "status": status, "command": command, "host": _host}
    environment.globals.update(helpers)
    return environment


def _host(run: Run) -> str:
    """The machine, in words."""
    host = run.start["host"]
    processes = f", {host['processes']} processes" if host["processes"] != 1 else ""
    return f"{host['device']}, {host['cpu']}, {host['threads']} of {host['cores']} cores{processes}"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
