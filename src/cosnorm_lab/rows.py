"""The comparison's rows as text: one row a series, the same in the report and in the README."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from cosnorm_lab.config import RunConfig
from cosnorm_lab.errors import LabError
from cosnorm_lab.recipes import RECIPES
from cosnorm_lab.records import Run
from cosnorm_lab.series import Series

NOTHING = "–"


@dataclass(frozen=True)
class Row:
    """One line of the comparison; everything but the series is text.

    Attributes:
        series: The runs.
        learning_rate: Their learning rate.
        seeds: Their seeds.
        mean: Mean of the errors over the last epochs; of several seeds, the mean of the completed ones'.
        variance: The same for the variance over the last epochs.
        over: Over which epochs these are taken.
        paper_mean: The paper's figure for the method, where the recipe has one.
        paper_variance: The same.
        seconds: Median training time of an epoch, without the evaluation.
        status: How the runs ended.
    """

    series: Series
    learning_rate: str
    seeds: str
    mean: str
    variance: str
    over: str
    paper_mean: str
    paper_variance: str
    seconds: str
    status: str


def make_rows(all_series: Sequence[Series]) -> list[Row]:
    """The rows of the comparison, one a series, in the same order."""
    return [_row(series) for series in all_series]


def has_paper(rows: Sequence[Row]) -> bool:
    """Whether the paper has a figure for any of the rows."""
    return any(row.paper_mean != NOTHING for row in rows)


def command(config: RunConfig, seeds: int) -> str | None:
    """The command that makes these runs.

    Args:
        config: The configuration of one of them.
        seeds: How many seeds, from 0 on, the command shall run.

    Returns:
        The command, or None where the recipe as it is now has no options that give this configuration.
    """
    recipe = RECIPES.get(config.recipe)
    if recipe is None:
        return None
    options = [f"--methods {config.method}", f"--epochs {config.epochs}"]
    values = {
        "init_std": config.init_std,
        "validation": config.validation,
        "precision": config.precision,
        "hidden_bias": config.hidden_bias,
    }
    try:
        usual = recipe.configs([config.method])[0].to_dict()
        made = recipe.configs(
            [config.method],
            epochs=config.epochs,
            seeds=config.seed + 1,
            learning_rates={config.method: config.learning_rate},
            **values,
        )
    except (LabError, TypeError):
        return None
    if config not in made:
        return None
    if config.learning_rate != usual["learning_rate"]:
        options.append(f"--lr {config.method}={config.learning_rate:g}")
    options += [_option(name, value) for name, value in values.items() if value != usual[name]]
    if seeds > 1:
        options.append(f"--seeds {seeds}")
    return f"cosnorm run {config.recipe} {' '.join(options)}"


def _option(name: str, value: object) -> str:
    words = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{words}" if value else f"--no-{words}"
    return f"--{words} {value}"


def status(run: Run) -> str:
    """How a run ended, and where that was before its last epoch."""
    if run.status == "completed":
        return run.status
    where = f"epoch {len(run.epochs)} of {run.config.epochs}"
    message = "" if run.end is None else run.end["message"]
    return f"{run.status} ({where}: {message})" if message else f"{run.status} ({where})"


def _row(series: Series) -> Row:
    config = series.config
    mean = variance = over = NOTHING
    if final := series.final():
        mean, variance = f"{final[0]:.1f}", f"{final[1]:.3g}"
        over = f"last {final[2]} of {config.epochs}"
    recipe = RECIPES.get(config.recipe)
    paper = recipe.paper.get(config.method) if recipe and not config.validation else None
    seconds = [line["seconds"] for run in series.runs for line in run.epochs]
    return Row(
        series=series,
        learning_rate=f"{config.learning_rate:g}",
        seeds=", ".join(map(str, series.seeds)),
        mean=mean,
        variance=variance,
        over=over,
        paper_mean=f"{paper[0]:.1f}" if paper else NOTHING,
        paper_variance=f"{paper[1]:.3g}" if paper else NOTHING,
        seconds=f"{statistics.median(seconds):.3g}" if seconds else NOTHING,
        status=_common_status(series),
    )


def _common_status(series: Series) -> str:
    if len(series.completed) == len(series.runs):
        return "completed"
    others = [run for run in series.runs if run not in series.completed]
    if len(series.runs) == 1:
        return status(others[0])
    parts = [f"seed {run.config.seed} {status(run)}" for run in others]
    return "; ".join([f"{len(series.completed)} of {len(series.runs)} completed", *parts])
