"""What the command line prints: the comparison after a run, and the catalog."""

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from cosnorm_lab.console import console as standard_output
from cosnorm_lab.recipes import columns, published
from cosnorm_lab.records import Run, last_epochs
from cosnorm_lab.rows import shown
from cosnorm_lab.series import setting


def print_results(
    runs: Sequence[Run],
    console: Console | None = None,
) -> None:
    """Prints mean and variance of the errors beside the paper's, and each layer's |w| and effective lr.

    Args:
        runs: the runs, one row each.
        console: where to print.
    """
    console = console or standard_output()
    console.print(results_table(runs))
    for run in runs:
        if run.end is not None and run.end["message"]:
            console.print(f"{run.config.name()}: {run.status}: {run.end['message']}", markup=False)
    if any("layers" in line for run in runs for line in run.epochs):
        console.print(layers_table(runs))


def results_table(runs: Sequence[Run]) -> Table:
    """The comparison, one row a run."""
    table = Table(
        title="Errors over the last epochs",
        caption=_caption(runs),
        box=SIMPLE,
        padding=(0, 1),
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("method", no_wrap=True)
    further = columns(runs[0].config.recipe) if runs else ()
    for name in further:
        table.add_column(setting(name).replace(" ", "\n"), justify="right", no_wrap=True)
    in_paper = any(published(run.config).mean is not None for run in runs)
    papers = ("paper\nmean", "paper\nvariance") if in_paper else ()
    for heading in ("lr", "seed", "epochs", "mean", "variance", *papers):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for run in runs:
        config = run.config
        statistics = ("–", "–")
        if run.epochs and run.status == "completed":
            mean, variance, _ = last_epochs(run)
            statistics = (f"{mean:.3f}", f"{variance:.3f}")
        claim = published(config)
        beside = ("–" if value is None else f"{value:g}" for value in (claim.mean, claim.variance))
        table.add_row(
            config.method,
            *(shown(getattr(config, name)) for name in further),
            f"{config.learning_rate:.3g}",
            str(config.seed),
            str(len(run.epochs)),
            *statistics,
            *(beside if papers else ()),
            run.status,
        )
    return table


def _caption(runs: Sequence[Run]) -> str:
    """What the errors are counted on, and over which epochs."""
    counts = {(run.epochs[-1]["count"], run.config.validation > 0) for run in runs if run.epochs}
    images = " or ".join(
        f"{count:,} {'held-back training' if held_back else 'test'} images"
        for count, held_back in sorted(counts)
    )
    parts = [f"Errors among {images}." if images else "No finished epoch."]
    if any(len(run.epochs) >= 200 for run in runs):
        parts.append("Mean and variance over the last 50 epochs, as in the paper.")
    if any(0 < len(run.epochs) < 200 for run in runs):
        parts.append("Runs of fewer than 200 epochs: mean and variance over the last quarter of the epochs.")
    return " ".join(parts)


def layers_table(runs: Sequence[Run]) -> Table:
    """|w| and effective learning rate of each layer after the last epoch."""
    table = Table(
        title="Layers after the last epoch: mean |w|, and effective learning rate lr/|w|²", box=SIMPLE
    )
    table.add_column("method", no_wrap=True)
    table.add_column("seed", justify="right")
    names = list(
        dict.fromkeys(
            layer["name"] for run in runs if run.epochs for layer in run.epochs[-1].get("layers", ())
        )
    )
    names.sort(key=lambda name: name == "output")  # last, however many come before it
    for name in names:
        table.add_column(f"{name} |w|", justify="right")
        table.add_column("lr/|w|²", justify="right")
    for run in runs:
        if run.epochs:
            layers = {layer["name"]: layer for layer in run.epochs[-1].get("layers", ())}
            cells = [
                f"{layers[name][key]:.3g}" if name in layers else "–"
                for name in names
                for key in ("weight_norm", "effective_learning_rate")
            ]
            table.add_row(run.method, str(run.config.seed), *cells)
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
