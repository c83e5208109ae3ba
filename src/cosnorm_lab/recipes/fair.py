"""Every method at its own best learning rate, chosen on held-back images: does cosine still lead?"""

from collections.abc import Mapping, Sequence
from typing import Any

from cosnorm_lab.config import MLPConfig, RunConfig
from cosnorm_lab.errors import LabError
from cosnorm_lab.methods import NORMALIZATIONS
from cosnorm_lab.recipes.comparison import comparison
from cosnorm_lab.records import Run, last_epochs

NAME = "fair"
GRID = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # the same for all methods
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
    """The runs after the search, on the test images: each method at the learning rate that won.

    Args:
        runs: those of the search.
        methods: as for `search`, as are the others.
        epochs: passes over the training images, the held-back ones among them.
        seeds: number of seeds: 0, 1, …
        learning_rates: not looked at; the search had no others.
        fields: other fields; `learning_rate` and `validation` were for the search.

    Raises:
        LabError: no run of a method came to its end.
    """
    others = {name: value for name, value in fields.items() if name not in ("learning_rate", "validation")}
    best = {method: _best(method, runs) for method in dict.fromkeys(run.method for run in runs)}
    return comparison(
        MLPConfig, {**BASE, "epochs": epochs}, best, methods=methods, seeds=seeds, fields=others
    )


def _best(method: str, runs: Sequence[Run]) -> float:
    """The learning rate with the least mean of errors over the last epochs; of several the smallest."""
    ended = [run for run in runs if run.method == method and run.status == "completed"]
    if not ended:
        raise LabError(f"no run of {method} came to its end; try smaller ones: --sweep lr=0.001,0.01")
    return min((last_epochs(run)[0], run.config.learning_rate) for run in ended)[1]
