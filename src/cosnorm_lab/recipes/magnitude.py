"""The paper's central claim, tested directly: trained networks on test input that is scaled."""

from collections.abc import Mapping, Sequence
from typing import Any

from cosnorm_lab.config import MLPConfig, RunConfig
from cosnorm_lab.recipes.comparison import comparison
from cosnorm_lab.recipes.mnist import LEARNING_RATES

NAME = "magnitude"
FACTORS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


def magnitude(
    methods: Sequence[str] | None = None,
    *,
    epochs: int = 20,
    seeds: int = 1,
    learning_rates: Mapping[str, float] | None = None,
    **fields: Any,
) -> list[RunConfig]:
    """The networks of Table 1, trained as there, on test images times 0.1 to 10.

    Arguments as for `mnist.table1`; `dataset=20news` takes documents in place of images.

    Raises:
        LabError: an unknown method or field, or a number out of range.
    """
    base = {"recipe": NAME, "dataset": "mnist", "hidden": (1000, 1000), "epochs": epochs, "factors": FACTORS}
    return comparison(
        MLPConfig,
        base,
        LEARNING_RATES,
        methods=methods,
        seeds=seeds,
        learning_rates=learning_rates,
        fields=fields,
    )
