"""What a conversion does to networks as people have them, at the learning rates that they have."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cosnorm_lab.config import DropInConfig, RunConfig
from cosnorm_lab.methods import CONVERSIONS
from cosnorm_lab.recipes.comparison import comparison

NAME, TEXT_NAME = "drop-in", "drop-in-text"
# Usual ones of networks with norms. Nothing is tuned; smaller batches have them scaled as is usual, SGD's by
# the size, AdamW's by its root.
RATES: Mapping[str, float] = {"sgd": 0.05, "adamw": 0.002}
BATCH = 100
SMALL_BATCHES = (8, 2)
OTHERS = ("vit", "gpt")  # with layers that stay by default besides the last


def _images() -> list[dict[str, Any]]:
    usual = [(network, BATCH) for network in ("mlp", "cnn", "resnet", "vit")]
    small = [(network, size) for size in SMALL_BATCHES for network in ("cnn", "resnet")]
    return [
        {
            "network": network,
            "optimizer": optimizer,
            "batch_size": size,
            "learning_rate": _rate(network, optimizer, size),
            **({} if size == BATCH else {"epochs": 2}),
        }
        for network, size in usual + small
        for optimizer in RATES
    ]


def _rate(network: str, optimizer: str, size: int) -> float:
    rate = 0.001 if (network, optimizer) == ("vit", "adamw") else RATES[optimizer]
    share = size / BATCH
    return round(rate * (share if optimizer == "sgd" else math.sqrt(share)), 6)


def _text() -> list[dict[str, Any]]:
    rates = {"adamw": (0.001, 0.003, 0.006), "sgd": (0.05,)}
    return [
        {"network": "gpt", "optimizer": optimizer, "learning_rate": rate}
        for optimizer, found in rates.items()
        for rate in found
    ]


def _recipe(
    base: Mapping[str, Any], usual: int, variants: Callable[[], list[dict[str, Any]]]
) -> Callable[..., list[RunConfig]]:
    def configs(
        methods: Sequence[str] | None = None,
        *,
        epochs: int | None = None,
        seeds: int = 3,
        learning_rates: Mapping[str, float] | None = None,
        **fields: Any,
    ) -> list[RunConfig]:
        given = {} if epochs is None else {"epochs": epochs}
        return comparison(
            DropInConfig,
            {**base, "epochs": usual},
            dict.fromkeys(CONVERSIONS, RATES["sgd"]),
            methods=methods,
            variants=lambda method: [
                {**one, **given}
                for one in variants()
                if method != "converted-all" or one["network"] in OTHERS
            ],
            seeds=seeds,
            learning_rates=learning_rates,
            fields=fields,
        )

    return configs


images = _recipe({"recipe": NAME, "dataset": "cifar10", "batch_size": BATCH}, 8, _images)
text = _recipe(
    {"recipe": TEXT_NAME, "dataset": "tinyshakespeare", "batch_size": 32, "steps": 100, "weight_decay": 0.0},
    5,
    _text,
)
