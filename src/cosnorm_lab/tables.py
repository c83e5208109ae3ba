"""What the command line prints: the comparison after a run, and the catalog."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from cosnorm_lab.config import RunConfig
from cosnorm_lab.console import console as standard_output
from cosnorm_lab.data import Dataset
from cosnorm_lab.recipes import published
from cosnorm_lab.recipes.search import best_run, by_method, edge
from cosnorm_lab.records import Run, last_epochs, of_other_data
from cosnorm_lab.report.answers import answers, parts_of
from cosnorm_lab.report.rows import command
from cosnorm_lab.report.series import Series, group


def print_data(
    dataset: Dataset, configs: Sequence[RunConfig], out: Path, console: Console | None = None
) -> None:
    """Prints what was read, what the user should know of it, and whether records here are of other data."""
    console = console or standard_output()
    described = dataset.described()
    parts = f"{described['train']:,} training and {described['test']:,} test samples"
    shape = "×".join(map(str, dataset.train_images.shape[1:]))
    if dataset.file:
        kind = "pixels" if dataset.pixels else "features"
        console.print(
            f"{dataset.file}: {parts} of {dataset.num_classes} classes, {shape} {kind}", markup=False
        )
    for note in dataset.notes:
        console.print(f"Note: {note}", markup=False)
    folder = out / configs[0].recipe
    if others := of_other_data(folder, described):
        names = ", ".join(sorted(set(others)))
        console.print(
            f"Note: {folder} holds {len(others)} records of other data ({names}); these runs are kept apart",
            markup=False,
            soft_wrap=True,
        )


def print_results(runs: Sequence[Run], console: Console | None = None) -> None:
    """Prints mean and variance of the errors beside the paper's, and each layer's |w| and effective lr.

    Args:
        runs: the runs, of one recipe on one data set.
        console: where to print.
    """
    console = console or standard_output()
    series = group(runs)
    console.print(results_table(series))
    for run in runs:
        if run.end is not None and run.end["message"]:
            console.print(f"{run.config.name()}: {run.status}: {run.end['message']}", markup=False)
    if any(one.at_chance for one in series):
        console.print(GUESSING, markup=False)
    if any("layers" in line for run in runs for line in run.epochs):
        console.print(layers_table(series))


GUESSING = (
    "At chance: not clearly fewer errors than by always answering the most frequent class. Try a smaller "
    "learning rate, --standardize, or more epochs."
)


def results_table(series: Sequence[Series]) -> Table:
    """The comparison, one row a series, the least errors first and marked."""
    table = _table("Errors over the last epochs", _caption(series))
    table.add_column("", no_wrap=True)
    table.add_column("method", overflow="fold")
    in_paper = any(published(one.config).mean is not None for one in series)
    papers = ("paper", "paper's\nvariance") if in_paper else ()
    for heading in ("lr", "seeds", "epochs", "errors", "%", "variance", *papers):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("status", overflow="fold")
    ordered = sorted(series, key=lambda one: (one.mean_errors() is None, one.mean_errors() or 0))
    for place, one in enumerate(ordered):
        final, claim = one.final(), published(one.config)
        errors = percent = variance = "–"
        if final:
            share = 100 / one.completed[0].epochs[-1]["count"]
            interval = "" if final.interval is None else f" ± {final.interval:.1f}"
            errors, percent = f"{final.mean:.1f}{interval}", f"{share * final.mean:.2f}"
            variance = f"{final.variance:.3g}"
        beside = ("–" if value is None else f"{value:g}" for value in (claim.mean, claim.variance))
        table.add_row(
            "★" if place == 0 and final and len(series) > 1 else "",
            one.name_with_settings,
            f"{one.config.learning_rate:.3g}",
            str(len(one.runs)),
            str(len(one.runs[0].epochs)),
            errors,
            percent,
            variance,
            *(beside if papers else ()),
            one.status,
        )
    return table


def _table(title: str, caption: str | None = None) -> Table:
    return Table(
        title=title, caption=caption, box=SIMPLE, padding=(0, 1), pad_edge=False, collapse_padding=True
    )


def _caption(series: Sequence[Series]) -> str:
    """What the errors are counted on, and over which epochs."""
    runs = [run for one in series for run in one.runs if run.epochs]
    parts = [f"Errors {_among(runs)}." if runs else "No finished epoch."]
    if any(len(run.epochs) >= 200 for run in runs):
        parts.append("Mean and variance over the last 50 epochs, as in the paper.")
    if any(0 < len(run.epochs) < 200 for run in runs):
        parts.append("Runs of fewer than 200 epochs: mean and variance over the last quarter of the epochs.")
    if any(len(one.completed) > 1 for one in series):
        parts.append("± is the 95 % interval of the mean over seeds.")
    return " ".join(parts)


def _among(runs: Sequence[Run]) -> str:
    """What the errors of runs with an epoch are counted on."""
    counts = {(run.epochs[-1]["count"], run.config.validation > 0) for run in runs}
    return "among " + " or ".join(
        f"{count:,} {'held-back training' if held_back else 'test'} samples"
        for count, held_back in sorted(counts)
    )


def print_search(runs: Sequence[Run], *, done: bool, console: Console | None = None) -> None:
    """After a stage of a search: what is tried next beyond an edge; when it is done, what was chosen.

    Args:
        runs: all so far.
        done: whether the next runs are on the test samples.
        console: where to print.
    """
    console = console or standard_output()
    if done:
        console.print(best_table(by_method(runs)))
        return
    for method, mine in by_method(runs).items():
        if (next_rate := edge(mine)) is not None:
            best = best_run(mine).config.learning_rate
            console.print(
                f"{method}: the best rate, {best:g}, is at the edge of those tried; trying {next_rate:g}",
                markup=False,
            )


def print_answer(runs: Sequence[Run], console: Console | None = None) -> None:
    """Prints which method is best, and what a test over seeds and the size of the test support of it.

    Args:
        runs: of one recipe on one data set, those of its search too.
        console: where to print.
    """
    console = console or standard_output()
    for headline in answers(parts_of(runs)).headlines:
        console.print(headline.sentence, markup=False, soft_wrap=not console.is_terminal)


def print_best(runs: Sequence[Run], console: Console | None = None) -> None:
    """After a sweep: the best learning rate of each method, and the command that trains it.

    Args:
        runs: of one recipe; where there are runs on held-back samples, these are what is chosen by.
        console: where to print.
    """
    console = console or standard_output()
    found = by_method(runs) or by_method(runs, held_back=False)
    console.print(best_table(found))
    ended = [mine for mine in found.values() if _ended(mine)]
    if any(edge(mine) is not None for mine in ended):
        console.print("A best rate at the edge of those tried may not be the best: try further ones.")
    configs = [dataclasses.replace(best_run(mine).config, validation=0) for mine in ended]
    if commands := [line for one in configs if (line := command(one, one.seed + 1))]:
        console.print("\n".join(["To train each at its best rate:", *commands]), markup=False, soft_wrap=True)


def best_table(found: Mapping[str, Sequence[Run]]) -> Table:
    """The best learning rate of each method, by the errors over the last epochs.

    Args:
        found: runs at several rates, by method.
    """
    runs = [run for mine in found.values() for run in mine if run.epochs]
    table = _table("Best learning rates", f"By the errors over the last epochs, {_among(runs)}.")
    table.add_column("method", no_wrap=True)
    for heading in ("best lr", "errors", "%", "tried"):
        table.add_column(heading, justify="right")
    for method, mine in found.items():
        if not any(run.status == "completed" for run in mine):
            table.add_row(method, "none came to its end", "–", "–", _tried(mine))
            continue
        best = best_run(mine)
        errors = last_epochs(best)[0]
        at_edge = "" if edge(mine) is None else ", at the edge"
        share = 100 / best.epochs[-1]["count"]
        rate = f"{best.config.learning_rate:g}{at_edge}"
        table.add_row(method, rate, f"{errors:.1f}", f"{share * errors:.2f}", _tried(mine))
    return table


def _ended(runs: Sequence[Run]) -> bool:
    return any(run.status == "completed" for run in runs)


def _tried(runs: Sequence[Run]) -> str:
    tried = sorted(run.config.learning_rate for run in runs)
    return f"{len(tried)} from {tried[0]:g} to {tried[-1]:g}" if len(tried) > 1 else f"{tried[0]:g}"


def layers_table(series: Sequence[Series]) -> Table:
    """|w| and effective learning rate of each layer after the last epoch, of several seeds the first's."""
    table = _table("Layers after the last epoch: mean |w|, and effective learning rate lr/|w|²")
    table.add_column("method", overflow="fold")
    for heading in ("lr", "layer", "|w|", "lr/|w|²"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in series:
        lines = one.runs[0].epochs
        for number, layer in enumerate(lines[-1].get("layers", ()) if lines else ()):
            table.add_row(
                *((one.name_with_settings, f"{one.config.learning_rate:.3g}") if number == 0 else ("", "")),
                layer["name"],
                f"{layer['weight_norm']:.3g}",
                f"{layer['effective_learning_rate']:.3g}",
            )
    return table


def print_catalog(console: Console | None = None) -> None:
    """Prints the recipes, and the data sets with what is on disk."""
    from cosnorm_lab.data import default_folder
    from cosnorm_lab.data.catalog import ARCHIVES, FETCHED, SHIPPED
    from cosnorm_lab.recipes import RECIPES

    console = console or standard_output()
    recipes = Table("recipe", "data", "what", title="Recipes: cosnorm run RECIPE")
    for recipe in RECIPES.values():
        recipes.add_row(recipe.name, recipe.dataset, recipe.description)
    data = Table("data set", "what", "on disk", title="Data: cosnorm fetch NAME")
    for name, files in FETCHED.items():
        folder = default_folder(name)
        present = sum(
            (folder / file.name).is_file() or (folder / f"{file.name}.gz").is_file()
            for file in files.parts.values()
        )
        data.add_row(
            name, files.description, f"{present} of {len(files.parts)} files in {folder}" if present else "no"
        )
    for archive in ARCHIVES.values():
        folder = default_folder(archive.name)
        wanted = list(archive.members) if archive.file is None else [archive.file]
        present = sum((folder / name).is_file() for name in wanted)
        place = f"{present} of {len(wanted)} files in {folder}" if present else "no"
        data.add_row(archive.name, archive.description, place)
    for name, description in SHIPPED.items():
        data.add_row(name, description, "shipped")
    console.print(recipes)
    console.print(data)
