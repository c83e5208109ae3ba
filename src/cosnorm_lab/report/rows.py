"""The comparison's rows as text: one row a series, the same in the report and in the README."""

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cosnorm_lab.config import RunConfig
from cosnorm_lab.errors import LabError
from cosnorm_lab.methods import METHODS
from cosnorm_lab.recipes import RECIPES, Recipe, columns, published
from cosnorm_lab.recipes.published import Published
from cosnorm_lab.records import Run
from cosnorm_lab.report.differences import compare_with, p_value
from cosnorm_lab.report.headlines import beside_paper
from cosnorm_lab.report.papers import paper_of
from cosnorm_lab.report.quantities import QUANTITIES, figure
from cosnorm_lab.report.series import AT_CHANCE, Series, unit

NOTHING = "–"
NOT_RUN = "not run"
SAID_OTHERWISE = ("recipe", "method", "learning_rate", "epochs", "seed")


@dataclass(frozen=True)
class Row:
    """One line of the comparison; everything but the series is text.

    Attributes:
        series: The runs.
        settings: Values of the recipe's columns.
        learning_rate: Their learning rate.
        seeds: Their seeds.
        mean: Mean of the errors over the last epochs; of several seeds, the mean of the completed ones' and
            its 95 % interval over seeds. "not run" without a completed run.
        variance: The same for the variance over the last epochs.
        over: Over which epochs these are taken.
        least: Smallest number of errors after any epoch, and after which; of several seeds, the means.
        paper_mean: The paper's figure for the method, where the recipe has one.
        paper_variance: The same.
        paper_least: The same.
        verdict: How ours compares with the paper's, and p; "at chance" where the runs only guess.
        note: What explains the row: why ours differs, where that is known, how failed runs ended.
        percent: The mean and its interval in percent of the test samples.
        further: The recipe's further numbers, each the mean and its interval.
        goal: When the runs came down to the recipe's goal, where it has one.
        paper_goal: The same in the paper.
        seconds: Median training time of an epoch, without the evaluation.
        status: How the runs ended.
    """

    series: Series
    settings: list[str]
    learning_rate: str
    seeds: str
    mean: str
    variance: str
    over: str
    least: str
    paper_mean: str
    paper_variance: str
    paper_least: str
    verdict: str
    note: str
    percent: str
    further: list[str]
    goal: str
    paper_goal: str
    seconds: str
    status: str


def make_rows(all_series: Sequence[Series]) -> list[Row]:
    """The rows of the comparison, one a series, in the same order."""
    return [_row(series) for series in all_series]


def has_paper(rows: Sequence[Row]) -> bool:
    """Whether the paper has a figure for any of the rows."""
    return any(row.paper_mean != NOTHING for row in rows)


def has_least(rows: Sequence[Row]) -> bool:
    """Whether the paper has a least number of errors for any of the rows."""
    return any(row.paper_least != NOTHING for row in rows)


def further_of(rows: Sequence[Row]) -> list[str]:
    """What the further numbers of the rows' recipe are called."""
    name = rows[0].series.config.recipe if rows else ""
    return [QUANTITIES[one].what for one in RECIPES[name].further] if name in RECIPES else []


def goal_of(rows: Sequence[Row]) -> int | None:
    """The number of errors to come down to, where the rows' recipe names one."""
    name = rows[0].series.config.recipe if rows else ""
    return RECIPES[name].goal if name in RECIPES else None


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
    found = _one_stage(recipe, config, seeds)
    return _second_stage(recipe, config, seeds) if found is None and recipe.then else found


def _one_stage(recipe: Recipe, config: RunConfig, seeds: int) -> str | None:
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    try:
        variants, network = _usual(recipe, config)
        usual = min(variants, key=lambda one: sum(one[name] != value for name, value in values.items()))
        named = {
            name: value
            for name, value in values.items()
            if name not in SAID_OTHERWISE and any(one[name] != value for one in variants)
        }
        made = recipe.configs(
            [config.method],
            epochs=config.epochs,
            seeds=max(seeds, config.seed + 1),
            learning_rates={config.method: config.learning_rate},
            **named,
            **network,
        )
    except (KeyError, LabError, TypeError):
        return None
    if config not in made:
        return None
    options = [f"--methods {config.method}", f"--epochs {config.epochs}"]
    searching = recipe.fit is not None  # by default: a rate that is given stands for the search
    if config.learning_rate != usual["learning_rate"] or len(variants) > 1 or searching:
        options.append(f"--lr {config.method}={config.learning_rate:g}")
    options += [_option(name, value) for name, value in {**network, **named}.items()]
    if seeds > 1 or searching:
        options.append(f"--seeds {seeds}")
    return f"cosnorm run {config.recipe} {' '.join(options)}"


def _usual(recipe: Recipe, config: RunConfig) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The recipe's runs of the method, and the option that makes them of this kind, if it needs one."""
    found = [vars(one) for one in recipe.configs([config.method], epochs=config.epochs)]
    if found[0].keys() == vars(config).keys():
        return found, {}
    network = {"network": config.kind}
    return [vars(one) for one in recipe.configs([config.method], epochs=config.epochs, **network)], network


def _second_stage(recipe: Recipe, config: RunConfig, seeds: int) -> str | None:
    """The command of a run whose learning rate a search has chosen; the search comes with it."""
    if config.validation:
        return None
    search = recipe.configs([config.method], epochs=config.epochs)
    first = search[0]
    if config.learning_rate not in [one.learning_rate for one in search]:
        return None
    searched = {name: getattr(first, name) for name in ("learning_rate", "epochs", "validation", "seed")}
    if dataclasses.replace(config, **searched) != first:
        return None
    return f"cosnorm run {config.recipe} --methods {config.method} --epochs {config.epochs} --seeds {seeds}"


def _option(name: str, value: object) -> str:
    if name in ("validation", "precision"):
        return f"--{name} {value}"
    if isinstance(value, tuple):
        return f"--set {name}={'-'.join(map(str, value))}"
    return f"--set {name}={str(value).lower() if isinstance(value, bool) else value}"


def status(run: Run) -> str:
    """How a run ended, and where that was before its last epoch."""
    if run.status == "completed":
        return run.status
    where = f"epoch {len(run.epochs)} of {run.config.epochs}"
    message = "" if run.end is None else run.end["message"]
    return f"{run.status} ({where}: {message})" if message else f"{run.status} ({where})"


def _row(series: Series) -> Row:
    config = series.config
    mean, variance, over = NOT_RUN, NOTHING, NOTHING
    if final := series.final():
        interval = "" if final.interval is None else f" ± {final.interval:.1f}"
        mean, variance = f"{final.mean:.1f}{interval}", f"{final.variance:.3g}"
        over = f"last {final.epochs} of {config.epochs}"
        if unit(config)[0] != "epoch":
            over += " evaluations"
    least = NOTHING
    counted, scale = unit(config)
    if lowest := series.least():
        least = f"{lowest[0]:.4g} ({counted} {lowest[1] * scale:,.0f})"
    paper = paper_of(series)
    goal = RECIPES[config.recipe].goal if config.recipe in RECIPES else None
    reached = None if goal is None else series.reached(goal)
    further = RECIPES[config.recipe].further if config.recipe in RECIPES else ()
    seconds = [line["seconds"] for run in series.runs for line in run.epochs]
    return Row(
        series=series,
        settings=[shown(getattr(config, name)) for name in columns(config.recipe)],
        learning_rate=f"{config.learning_rate:g}",
        seeds=", ".join(map(str, series.seeds)),
        mean=mean,
        variance=variance,
        over=over,
        least=least,
        paper_mean=NOTHING if paper.mean is None else f"{paper.mean:.1f}",
        paper_variance=NOTHING if paper.variance is None else f"{paper.variance:.3g}",
        paper_least=NOTHING if paper.least is None else f"{paper.least:g}",
        verdict=AT_CHANCE if series.at_chance else _judged(series),
        note=_note(series),
        percent=numbers.percent if (numbers := figure(series, "errors")) else NOTHING,
        further=[_number(series, one) for one in further],
        goal=NOTHING if reached is None else f"{counted} {reached * scale:,.0f}",
        paper_goal=NOTHING if paper.step is None else f"step {paper.step:,}",
        seconds=f"{statistics.median(seconds):.3g}" if any(second > 0.001 for second in seconds) else NOTHING,
        status=_common_status(series),
    )


def _number(series: Series, quantity: str) -> str:
    found = figure(series, quantity)
    return NOTHING if found is None else found.text


def verdict(series: Series) -> str:
    """Whether the paper's figure is reproduced: within 5 %, better, or not."""
    quantity, paper = claimed(series)
    ours = figure(series, quantity)
    return NOTHING if paper is None or ours is None else beside_paper(ours.mean, paper)


def _judged(series: Series) -> str:
    quantity, paper = claimed(series)
    word, ours = verdict(series), figure(series, quantity)
    if paper is None or ours is None:
        return word
    beside = compare_with(ours.values, paper)
    return word if beside.p is None else f"{word} ({p_value(beside.p)})"


def claimed(series: Series) -> tuple[str, float | None]:
    """Which of its quantities the paper prints of such runs, and the figure: the mean, else the least."""
    claim = paper_of(series)
    return ("errors", claim.mean) if claim.mean is not None else ("least", claim.least)


def _note(series: Series) -> str:
    parts = []
    if verdict(series) not in ("reproduced", NOTHING) and (why := paper_of(series).note):
        parts.append(why)
    if series.at_chance:
        parts.append("not below the errors of always guessing the most frequent class")
    if series.runs and len(series.completed) < len(series.runs):
        parts.append(_common_status(series))
    return "; ".join(parts)


def planned_rows(recipe: str, present: Sequence[Series]) -> list[Row]:
    """Rows for the runs that the paper has a figure of and `present` has not."""
    if recipe not in RECIPES:
        return []

    def place(config: RunConfig) -> tuple[object, ...]:
        return (config.method, *(getattr(config, name) for name in columns(recipe)))

    here = {place(series.config) for series in present}
    missing = [
        config
        for config in RECIPES[recipe].configs()
        if place(config) not in here and published(config) != Published()
    ]
    titles = [METHODS[config.method].title for config in missing]
    return make_rows(
        [Series((), title, title, "", planned=one) for one, title in zip(missing, titles, strict=True)]
    )


def shown(value: object) -> str:
    """A setting as a table shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value == 0:
        return NOTHING  # an option that the method does not have
    return f"{value:,g}" if isinstance(value, (int, float)) else str(value)


def _common_status(series: Series) -> str:
    if not series.runs:
        return NOT_RUN
    if len(series.completed) == len(series.runs):
        return f"completed, {AT_CHANCE}" if series.at_chance else "completed"
    others = [run for run in series.runs if run not in series.completed]
    if len(series.runs) == 1:
        return status(others[0])
    parts = [f"seed {run.config.seed} {status(run)}" for run in others]
    return "; ".join([f"{len(series.completed)} of {len(series.runs)} completed", *parts])
