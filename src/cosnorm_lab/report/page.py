"""The report: one HTML file that needs no network and no server, drawn from records only."""

import os
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from cosnorm_lab.errors import LabError
from cosnorm_lab.files import write_whole
from cosnorm_lab.recipes import RECIPES
from cosnorm_lab.records import Run
from cosnorm_lab.report.answer_figure import CAPTION, answer_picture, axis, marks
from cosnorm_lab.report.answers import Part, answers, parts_of, title
from cosnorm_lab.report.charts import Axis
from cosnorm_lab.report.png import png
from cosnorm_lab.report.rows import command, status
from cosnorm_lab.report.sections import make_section


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
    parts = parts_of(runs)
    found = answers(parts)
    recipes = {part.recipe for part in parts}
    sections = [
        make_section(part, found.of(part.anchor), "-".join([out.stem, *_told_apart(part, parts)]))
        for part in parts
    ]
    drawn = [pair for section in sections for pair in (*section.pictures, *section.search_pictures)]
    picture = answer_picture(found.top)
    if picture is not None:
        drawn.append((picture, f"{out.stem}-{picture.name}.png"))
    for one, name in drawn:
        write_whole(out.parent / name, png(one))
    # Who reports the paper wants to see what is missing of it; who compares on own data does not.
    of_paper = [recipe for recipe in RECIPES.values() if recipe.paper]
    missing = [recipe for recipe in of_paper if recipe.name not in recipes]
    page = (
        _environment(out)
        .get_template("page.html.jinja")
        .render(
            title=title(found),
            summary=found.summary,
            top=[(heading, lines) for heading, lines in found.grouped if lines],
            axis=None if picture is None else axis(found.top),
            caption=CAPTION,
            answer_file=None if picture is None else drawn[-1][1],
            not_run=found.not_run,
            lost=found.lost,
            undecided=len(found.behind) - len(found.lost),
            sections=sections,
            missing=missing if len(missing) < len(of_paper) else [],
        )
    )
    write_whole(out, page.encode())


def _told_apart(part: Part, parts: Sequence[Part]) -> list[str]:
    """What tells the figures of a part from those of others: its recipe, its data, if there are several."""
    several = sum(one.recipe == part.recipe for one in parts) > 1
    return [
        *[part.recipe] * (len({one.recipe for one in parts}) > 1),
        *[part.runs[0].data_key or "official"] * several,
    ]


def _environment(out: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cosnorm_lab.report", "."),
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
        "marks": marks,
        "place": _place,
    }
    environment.globals.update(helpers)
    return environment


def _place(axis: Axis, value: float) -> float:
    """Where a value lies, in percent, cut off at the ends."""
    return round(100 * axis.place(min(max(value, axis.low), axis.high)), 2)


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
