"""The report as text, for papers: Markdown with everything that it says, or a row a series as CSV."""

import csv
import io
import statistics
from collections.abc import Sequence
from typing import Any

from cosnorm_lab.errors import LabError
from cosnorm_lab.recipes import RECIPES, columns
from cosnorm_lab.records import Run
from cosnorm_lab.report.answers import Part, answers, parts_of, title
from cosnorm_lab.report.differences import compare, compare_with
from cosnorm_lab.report.headlines import setting_of
from cosnorm_lab.report.papers import paper_of
from cosnorm_lab.report.quantities import figure
from cosnorm_lab.report.readme import table_of
from cosnorm_lab.report.rows import claimed, verdict
from cosnorm_lab.report.said import behind_block, escaped, headlines_block, said_block
from cosnorm_lab.report.sections import beside_best
from cosnorm_lab.report.series import Series, group, is_search

FORMATS = ("html", "md", "csv")
PLAIN = ("baseline", "plain", "softmax")  # methods that normalize nothing
COLUMNS = (
    *(
        "recipe",
        "data",
        "data_key",
        "method",
        "label",
        "settings",
        "learning_rate",
        "epochs",
        "held_back",
        "seeds",
    ),
    *("completed", "status", "count", "mean", "interval", "variance", "percent", "percent_interval", "least"),
    *("at_chance", "paper_mean", "paper_variance", "paper_least", "verdict", "p_paper"),
    *("best", "p_best", "p_baseline"),
)


def as_text(runs: Sequence[Run], format_: str) -> str:
    """The report of some runs as Markdown or CSV.

    Args:
        runs: Of any recipes on any data.
        format_: "md" or "csv".

    Raises:
        LabError: An unknown format, no runs, or two records of the same run.
    """
    if format_ not in ("md", "csv"):
        raise LabError(f"format must be one of {', '.join(FORMATS)}; got {format_!r}")
    if not runs:
        raise LabError("a report needs at least one record, got none; make one with `cosnorm run`")
    parts = parts_of(runs)
    return _markdown(parts) if format_ == "md" else _csv(parts)


def _markdown(parts: Sequence[Part]) -> str:
    found = answers(parts)
    blocks = [f"# {escaped(title(found))}", headlines_block(found, linked=False)]
    if found.behind:
        blocks += ["## Where cosine loses", behind_block(found)]
    for part in parts:
        recipe = RECIPES.get(part.recipe)
        about = f"{recipe.description[0].upper()}{recipe.description[1:]}. " if recipe else ""
        blocks += [f"## {part.anchor}", f"{about}Data: {escaped(part.runs[0].data_name)}."]
        if headlines := found.of(part.anchor):
            blocks.append(said_block(headlines))
        if part.series:
            blocks.append(table_of(part.runs, part.recipe))
    return "\n\n".join(blocks) + "\n"


def _csv(parts: Sequence[Part]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for part in parts:
        for series in (part.series, tuple(group(run for run in part.runs if is_search(run)))):
            beside = beside_best(series)
            for one in series:
                best = beside[id(one)][0] if id(one) in beside else None
                writer.writerow(_line(one, series, best))
    return buffer.getvalue()


def _line(one: Series, series: Sequence[Series], best: Series | None) -> dict[str, Any]:
    config, paper = one.config, paper_of(one)
    line: dict[str, Any] = {
        "recipe": config.recipe,
        "data": one.runs[0].data_name,
        "data_key": one.runs[0].data_key,
        "method": one.method,
        "label": one.label,
        "settings": "; ".join(f"{name}={getattr(config, name)}" for name in columns(config.recipe)),
        "learning_rate": f"{config.learning_rate:g}",
        "epochs": config.epochs,
        "held_back": config.validation,
        "seeds": " ".join(map(str, one.seeds)),
        "completed": len(one.completed),
        "status": " ".join(sorted({run.status for run in one.runs})),
        "paper_mean": paper.mean,
        "paper_variance": paper.variance,
        "paper_least": paper.least,
    }
    ours, final = figure(one, "errors"), one.final()
    if ours is None or final is None:
        return line
    share = 100 / ours.count
    line |= {
        "count": ours.count,
        "mean": _number(ours.mean),
        "interval": _number(ours.half),
        "variance": _number(final.variance),
        "percent": _number(share * ours.mean),
        "percent_interval": _number(None if ours.half is None else share * ours.half),
        "least": _number(statistics.fmean(min(run.errors) for run in one.completed)),
        "at_chance": int(one.at_chance),
    }
    quantity, claim = claimed(one)
    if claim is not None and (judged := figure(one, quantity)):
        line |= {"verdict": verdict(one), "p_paper": _number(compare_with(judged.values, claim).p)}
    plain = _plain(one, series)
    for column, other in (("p_best", best), ("p_baseline", plain)):
        if other is not None and other is not one and (its := figure(other, "errors")):
            line[column] = _number(compare(ours.values, its.values).p)
    return line | {"best": best.label if best else ""}


def _plain(one: Series, series: Sequence[Series]) -> Series | None:
    """The completed series without normalization in the same setting, at the same rate if there is one."""
    found = [
        other
        for other in series
        if other.completed and other.method in PLAIN and setting_of(other.config) == setting_of(one.config)
    ]
    rate = one.config.learning_rate
    return min(
        found,
        key=lambda other: (other.config.learning_rate != rate, other.mean_errors() or 0.0),
        default=None,
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
