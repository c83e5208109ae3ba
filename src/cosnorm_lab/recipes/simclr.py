"""Contrastive training on MNIST, and what the batch size does: the negatives come from the batch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cosnorm_lab.config import ContrastiveConfig, RunConfig
from cosnorm_lab.recipes.comparison import comparison

NAME = "simclr-mnist"
BATCH_SIZES = (256, 512, 1024, 2048, 4096, 8192)
LEARNING_RATES: Mapping[str, float] = {"nt-xent": 1e-3, "decoupled": 1e-3, "untrained": 1e-3}


def simclr(
    methods: Sequence[str] | None = None,
    *,
    epochs: int = 3,
    seeds: int = 1,
    learning_rates: Mapping[str, float] | None = None,
    **fields: Any,
) -> list[RunConfig]:
    """NT-Xent and its decoupled form at batch sizes from 256 to 8,192, and the encoder as it began.

    The learning rate of Adam is 1e-3 at 256 and grows with the square root of the batch size.

    Args:
        methods: "nt-xent", "decoupled", "untrained"; by default all.
        epochs: passes over the training images, whatever the batch size.
        seeds: number of seeds: 0, 1, …
        learning_rates: other learning rates by method, the same for each batch size.
        fields: other fields of `cosnorm_lab.config.ContrastiveConfig`; a list of values makes a run of each.

    Raises:
        LabError: an unknown method or field, or a number out of range.
    """
    base = {"recipe": NAME, "dataset": "mnist", "epochs": epochs}
    wanted = fields.pop("batch_size", list(BATCH_SIZES))
    sizes = wanted if isinstance(wanted, list) else [wanted]

    def variants(method: str) -> list[dict[str, Any]]:
        if method == "untrained":
            return [{"epochs": 1}]
        return [
            {"batch_size": size, "learning_rate": round(1e-3 * math.sqrt(size / 256), 6)} for size in sizes
        ]

    return comparison(
        ContrastiveConfig,
        base,
        LEARNING_RATES,
        methods=methods,
        variants=variants,
        seeds=seeds,
        learning_rates=learning_rates,
        fields=fields,
    )
