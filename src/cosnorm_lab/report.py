"""The report: one HTML file that needs no network and no server, drawn from records only."""

import os
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from cosnorm_lab.errors import LabError
from cosnorm_lab.figures import Picture, make_pictures
from cosnorm_lab.files import write_whole
from cosnorm_lab.png import png
from cosnorm_lab.recipes import FIGURES, RECIPES, columns
from cosnorm_lab.records import Run
from cosnorm_lab.rows import Row, command, goal_of, has_least, has_paper, make_rows, planned_rows, status
from cosnorm_lab.series import by_data, group, is_search, setting


@dataclass(frozen=True)
class Section:
    """What the report shows of one recipe on one data set.

    Attributes:
        recipe: Its name.
        description: What it is about, where the recipe is known.
        data: What it was trained on, and how many samples.
        columns: Names of the table's further columns.
        rows: The comparison.
        search: The runs whose errors are of held-back training images.
        paper: Whether the paper has means and variances to set beside ours.
        least: Whether it has least numbers of errors.
        goal: The number of errors to come down to, where the recipe names one.
        layers: Names of the layers.
        pictures: The figures, each with the name of its PNG file beside the report.
        search_pictures: Those of the search.
    """

    recipe: str
    description: str
    data: str
    columns: list[str]
    rows: list[Row]
    search: list[Row]
    paper: bool
    least: bool
    goal: int | None
    layers: list[str]
    pictures: list[tuple[Picture, str]]
    search_pictures: list[tuple[Picture, str]]


def write_report(runs: list[Run], out: Path) -> None:
    """Write the report, and beside it its figures as PNG.

    The figures are called after the report, `<stem>-figure2.png`; with records of several recipes
    `<stem>-<recipe>-figure2.png`. Every file is written whole or not at all.

    Args:
        runs: The runs, of any recipes.
        out: The HTML file; an old one is replaced.

    Raises:
        LabError: There are no runs.
    """
    if not runs:
        raise LabError("a report needs at least one record, got none; make one with `cosnorm run`")
    recipes = {run.config.recipe for run in runs}
    # In the order of the registry, those that it does not know last.
    order = [*(name for name in RECIPES if name in recipes), *sorted(recipes - set(RECIPES))]
    parts = [(recipe, by_data(run for run in runs if run.config.recipe == recipe)) for recipe in order]
    sections = [
        _section(
            part,
            "-".join(
                [
                    out.stem,
                    *[recipe] * (len(order) > 1),
                    *[part[0].data_key or "official"] * (len(several) > 1),
                ]
            ),
        )
        for recipe, several in parts
        for part in several
    ]
    for picture, name in (
        pair for section in sections for pair in section.pictures + section.search_pictures
    ):
        write_whole(out.parent / name, png(picture))
    # Who reports the paper wants to see what is missing of it; who compares on own data does not.
    of_paper = [recipe for recipe in RECIPES.values() if recipe.paper]
    missing = [recipe for recipe in of_paper if recipe.name not in recipes]
    page = (
        _environment(out)
        .get_template("report.html.jinja")
        .render(sections=sections, missing=missing if len(missing) < len(of_paper) else [])
    )
    write_whole(out, page.encode())


def _section(runs: list[Run], stem: str) -> Section:
    name = runs[0].config.recipe
    recipe = RECIPES.get(name)
    series = group(run for run in runs if not is_search(run))
    rows = make_rows(series)
    rows += planned_rows(name, series)
    searched = group(run for run in runs if is_search(run))

    def named(pictures: list[Picture]) -> list[tuple[Picture, str]]:
        return [(picture, f"{stem}-{picture.name}.png") for picture in pictures]

    last_lines = [one.runs[0].epochs[-1] for one in series if one.runs[0].epochs]
    layers = dict.fromkeys(layer["name"] for line in last_lines for layer in line.get("layers", ()))
    figures = recipe.figures if recipe else FIGURES
    return Section(
        recipe=name,
        description=recipe.description if recipe else "",
        data=runs[0].data_name,
        columns=[setting(column) for column in columns(name)],
        rows=rows,
        search=make_rows(searched),
        paper=has_paper(rows),
        least=has_least(rows),
        goal=goal_of(rows),
        layers=sorted(layers, key=lambda layer: layer == "output"),  # last, however many come before it
        pictures=named(make_pictures(figures, series)),
        search_pictures=named(make_pictures({"by learning_rate": None}, searched)),
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

    helpers: dict[str, Any] = {
        "link": link,
        "status": status,
        "command": command,
        "host": _host,
        "data": _data,
    }
    environment.globals.update(helpers)
    return environment


def _data(run: Run) -> str:
    """Where the data came from, in words."""
    data = run.start["data"]
    if data.get("drawn"):
        return "pictures drawn by the laboratory, not photographs"
    return "official data" if data["exact"] else "data other than the official files"


def _host(run: Run) -> str:
    """The machine, in words."""
    host = run.start["host"]
    processes = f", {host['processes']} processes" if host["processes"] != 1 else ""
    return f"{host['device']}, {host['cpu']}, {host['threads']} of {host['cores']} cores{processes}"
