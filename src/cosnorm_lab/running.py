"""What `cosnorm run` does once its options are read: stages of runs, and what is said before and after."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cosnorm_lab.config import RunConfig
from cosnorm_lab.execute import Machine, executing
from cosnorm_lab.recipes import Recipe
from cosnorm_lab.records import Run
from cosnorm_lab.sources import Source
from cosnorm_lab.tables import print_answer, print_best, print_data, print_results, print_search


def run_recipe(
    recipe: Recipe,
    arguments: Mapping[str, Any],
    machine: Machine,
    source: Source,
    out: Path,
    *,
    swept: bool = False,
    curves: Path | None = None,
) -> None:
    """Trains the runs of a recipe, or goes on with those that were stopped, and prints the comparison.

    Args:
        recipe: the recipe.
        arguments: of its functions.
        machine: what the runs are trained with.
        source: their data.
        out: folder of records.
        swept: whether the user asked for a sweep, whose best runs are named.
        curves: folder for event files.

    Raises:
        LabError: what the arguments, the data or the machine have not.
    """
    arguments = dict(arguments)
    configs = recipe.configs(**arguments)
    with executing(machine, source, out, configs[0].precision) as (execute, is_first):
        if recipe.fit:
            arguments = {**recipe.fit(source.load(), **arguments), **arguments}
            configs = recipe.configs(**arguments)
        if is_first and machine.executor == "local":
            print_data(source.load(), configs, out)

        def stage(configs: list[RunConfig]) -> list[Run]:
            with _following(len(configs), is_first, curves) as progress:
                return execute(configs, progress)

        runs = stage(configs)
        while recipe.then and (more := recipe.then(runs, **arguments)):
            if is_first:
                print_search(runs, done=not more[0].validation)
            runs += stage(more)
        if is_first:
            print_results([run for run in runs if not run.config.validation] or runs)
            if swept:
                print_best(runs)
            if recipe.fit:
                print_answer(runs)


@contextmanager
def _following(runs: int, is_first: bool, curves: Path | None) -> Iterator[Any]:
    """What is told how the runs go on: the progress bar, and event files below the folder `curves`."""
    from cosnorm_lab.progress import show_progress

    with show_progress(runs, quiet=not is_first) as progress:
        if curves is None or not is_first:
            yield progress
        else:
            from cosnorm_lab.event_files import EventFiles, Several

            yield Several([progress, EventFiles(curves / "tensorboard")])
