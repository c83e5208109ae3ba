"""A user's own data: the same comparison, the same report."""

from collections.abc import Mapping, Sequence
from typing import Any

from cosnorm_lab.config import MLPConfig, RunConfig
from cosnorm_lab.recipes.comparison import comparison
from cosnorm_lab.recipes.mnist import LEARNING_RATES

NAME = "own"


def own(
    methods: Sequence[str] | None = None,
    *,
    epochs: int = 20,
    seeds: int = 1,
    learning_rates: Mapping[str, float] | None = None,
    **fields: Any,
) -> list[RunConfig]:
    """All methods on an MLP of one hidden layer of 256 units; `hidden=512-256` for another.

    The learning rates are those of Table 1: choose your own on held-back samples (`--validation`). Arguments
    as for `mnist.table1`.

    Raises:
        LabError: an unknown method or field, or a number out of range.
    """
    base = {"recipe": NAME, "dataset": "own", "hidden": (256,), "epochs": epochs}
    return comparison(
        MLPConfig,
        base,
        LEARNING_RATES,
        methods=methods,
        seeds=seeds,
        learning_rates=learning_rates,
        fields=fields,
    )
