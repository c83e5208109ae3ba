"""A user's own data: every method at its own best learning rate, and the same report."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cosnorm_lab.config import CNNConfig, MLPConfig, RunConfig
from cosnorm_lab.errors import LabError
from cosnorm_lab.methods import NORMALIZATIONS, rates
from cosnorm_lab.recipes.comparison import comparison
from cosnorm_lab.recipes.search import GRID, best_rates, further
from cosnorm_lab.records import Run

if TYPE_CHECKING:
    from cosnorm_lab.data import Dataset

NAME = "own"
PAPER = "paper"
CNN_SEEDS = 3  # its runs take minutes
SEEDS, EPOCHS, STEPS = 5, 20, 2000  # STEPS: passes over few samples are more, until there are so many steps
MOST_EPOCHS = 200
SEARCH_SHARE, LEAST_SEARCH = 4, 5  # a search trains for a quarter of the epochs, at least so many
# By network: what the runs have in common, and the learning rates, those of the paper's networks.
NETWORKS: Mapping[str, tuple[type[RunConfig], Mapping[str, Any], Mapping[str, float]]] = {
    "mlp": (MLPConfig, {"hidden": (256,), "standardize": True}, rates("mnist")),
    "cnn": (CNNConfig, {"crop": 0, "standardize": True}, rates("cifar", "cnn")),
}


def fit(dataset: "Dataset", network: str = "mlp", **_: Any) -> dict[str, Any]:
    """Arguments of `own` that follow from the data: epochs, seeds, and what a search holds back.

    Args:
        dataset: the data.
        network: as of `own`.
    """
    if network == "cnn":
        return {"epochs": EPOCHS, "seeds": CNN_SEEDS, "held_back": dataset.held_back}
    passes = math.ceil(STEPS * MLPConfig.batch_size / len(dataset.train_labels))
    return {"epochs": min(max(EPOCHS, passes), MOST_EPOCHS), "held_back": dataset.held_back}


def own(
    methods: Sequence[str] | None = None,
    *,
    network: str = "mlp",
    epochs: int = EPOCHS,
    seeds: int = SEEDS,
    learning_rates: Mapping[str, float] | str | None = None,
    held_back: int = 0,
    validation: int = 0,
    **fields: Any,
) -> list[RunConfig]:
    """The search for learning rates on held-back training samples; without one, the runs themselves.

    Args:
        methods: the methods to compare; by default all.
        network: "mlp", one hidden layer of 256 units (`hidden=512-256` for another), or "cnn", the paper's
            network for CIFAR on images of any size, whose epochs are 250 steps each.
        epochs: passes over the training samples, or evaluations of the convolutional network.
        seeds: number of seeds: 0, 1, …; the search has one.
        learning_rates: "paper": those of the paper's networks, without a search; or a rate by method, which
            then is not searched.
        held_back: training samples that the search counts errors on; 0: there is no search.
        validation: the same in place of `held_back`; without a search the runs count on them, not on the
            test.
        fields: other fields of `cosnorm_lab.config.MLPConfig` or `CNNConfig`; a list makes a run of each.
            `learning_rate` stands for a search.

    Raises:
        LabError: an unknown network, method or field, or a number out of range.
    """
    held = {"validation": validation} if validation else {}
    if not _searches(learning_rates, held_back, fields):
        known = None if learning_rates == PAPER else learning_rates
        return _runs(network, methods, seeds=seeds, epochs=epochs, learning_rates=known, **held, **fields)
    if lists := [name for name, value in fields.items() if isinstance(value, list)]:
        raise LabError(
            f"the search sweeps the learning rate; give one value of {', '.join(lists)}, or --lr too"
        )
    given = _given(learning_rates, methods)
    searched = [method for method in methods or NORMALIZATIONS if method not in given]
    if not searched:
        return _runs(network, methods, seeds=seeds, epochs=epochs, learning_rates=given, **held, **fields)
    return _runs(
        network,
        searched,
        seeds=1,
        epochs=min(epochs, max(LEAST_SEARCH, epochs // SEARCH_SHARE)),
        validation=validation or held_back,
        learning_rate=list(GRID),
        **fields,
    )


def then(
    runs: Sequence[Run],
    methods: Sequence[str] | None = None,
    *,
    learning_rates: Mapping[str, float] | str | None = None,
    held_back: int = 0,
    **arguments: Any,
) -> list[RunConfig]:
    """What follows: more rates where the best is at the edge, then the runs on the test at those that won.

    Args:
        runs: all so far.
        methods: as of `own`.
        learning_rates: as of `own`.
        held_back: as of `own`.
        arguments: the other arguments of `own`.

    Raises:
        LabError: no run of a method came to its end.
    """
    searches = _searches(learning_rates, held_back, arguments)
    if not searches or any(not run.config.validation for run in runs):
        return []
    if more := further(runs):
        return more
    best = {**best_rates(runs), **_given(learning_rates, methods)}
    return own(methods, learning_rates=best, **{**arguments, "validation": 0})


def _searches(
    learning_rates: Mapping[str, float] | str | None, held_back: int, fields: Mapping[str, Any]
) -> bool:
    return learning_rates != PAPER and held_back > 0 and "learning_rate" not in fields


def _given(learning_rates: object, methods: Sequence[str] | None) -> dict[str, float]:
    given = dict(learning_rates) if isinstance(learning_rates, Mapping) else {}
    if unused := sorted(set(given) - set(methods or NORMALIZATIONS)):
        raise LabError(f"a learning rate was given for {', '.join(unused)}, which does not run")
    return given


def _runs(network: str, methods: Sequence[str] | None, *, epochs: int, **options: Any) -> list[RunConfig]:
    if not isinstance(network, str) or network not in NETWORKS:
        raise LabError(f"network must be {' or '.join(NETWORKS)}; got {network!r}")
    kind, base, usual = NETWORKS[network]
    seeds, learning_rates = options.pop("seeds"), options.pop("learning_rates", None)
    return comparison(
        kind,
        {"recipe": NAME, "dataset": "own", **base, "epochs": epochs},
        usual,
        methods=methods,
        seeds=seeds,
        learning_rates=learning_rates,
        fields=options,
    )
