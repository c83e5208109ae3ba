"""Every method at its own best learning rate, chosen on held-back images: does cosine still lead?"""

from collections.abc import Mapping, Sequence
from typing import Any

from cosnorm_lab.config import MLPConfig, RunConfig
from cosnorm_lab.errors import LabError
from cosnorm_lab.methods import NORMALIZATIONS
from cosnorm_lab.recipes.comparison import comparison
from cosnorm_lab.recipes.search import GRID, best_rates, further
from cosnorm_lab.records import Run

NAME = "fair"
SEARCH_EPOCHS = 5
HELD_BACK = 10_000
BASE: Mapping[str, Any] = {"recipe": NAME, "dataset": "mnist", "hidden": (1000, 1000)}


def search(
    methods: Sequence[str] | None = None,
    *,
    epochs: int = 20,
    seeds: int = 3,  # of the runs after the search
    learning_rates: Mapping[str, float] | None = None,
    **fields: Any,
) -> list[RunConfig]:
    """The search: each method of Table 1's network at every learning rate of a grid, on held-back images.

    Args:
        methods: the methods to compare; by default all.
        epochs: passes of the runs after the search; those of the search make five at most.
        seeds: of the runs after the search; the search has one.
        learning_rates: one learning rate in place of the grid, by method.
        fields: other fields of `cosnorm_lab.config.MLPConfig`; `learning_rate` is another grid.

    Raises:
        LabError: an unknown method or field, a number out of range, or several values of another field.
    """
    del seeds
    for name, value in fields.items():
        if isinstance(value, list) and name != "learning_rate":
            raise LabError(
                f"fair sweeps the learning rate alone, got several values of {name}: run it for each"
            )
    configs = comparison(
        MLPConfig,
        {**BASE, "epochs": min(epochs, SEARCH_EPOCHS), "validation": HELD_BACK},
        dict.fromkeys(NORMALIZATIONS, GRID[0]),
        methods=methods,
        variants=lambda method: [{"learning_rate": rate} for rate in GRID],
        learning_rates=learning_rates,
        fields=fields,
    )
    if not all(config.validation for config in configs):
        raise LabError("fair chooses on held-back samples; validation must be positive")
    return configs


def final(
    runs: Sequence[Run],
    methods: Sequence[str] | None = None,
    *,
    epochs: int = 20,
    seeds: int = 3,
    learning_rates: Mapping[str, float] | None = None,
    **fields: Any,
) -> list[RunConfig]:
    """What follows: more rates where the best is at the edge, then runs on the test images at those that won.

    Args:
        runs: all so far.
        methods: as for `search`, as are the others.
        epochs: passes over the training images, the held-back ones among them.
        seeds: number of seeds: 0, 1, …
        learning_rates: not looked at; the search had no others.
        fields: other fields; `learning_rate` and `validation` were for the search.

    Raises:
        LabError: no run of a method came to its end.
    """
    if any(not run.config.validation for run in runs):
        return []
    if more := further(runs):
        return more
    others = {name: value for name, value in fields.items() if name not in ("learning_rate", "validation")}
    return comparison(
        MLPConfig, {**BASE, "epochs": epochs}, best_rates(runs), methods=methods, seeds=seeds, fields=others
    )
