"""Losses for embeddings of classes: digits in three dimensions that can be drawn, and facial expressions."""

from collections.abc import Mapping, Sequence
from typing import Any

from cosnorm_lab.config import HeadsConfig, RunConfig
from cosnorm_lab.methods import HEADS
from cosnorm_lab.recipes.comparison import comparison

MNIST_NAME = "heads-mnist"
FACES_NAME = "faces"

# Wu et al., Laser & Optoelectronics Progress 56(24), 241502, 2019, vary s at m = 0.35 and m at s = 10.
MARGIN_OF_SCALES, SCALE_OF_MARGINS = 0.35, 10.0
SCALES = (5.0, 10.0, 20.0, 30.0)
MARGINS = (0.2, 0.35, 0.5)
SWEPT = ("am-softmax", "cosine-distance")


def heads_mnist(
    methods: Sequence[str] | None = None,
    *,
    epochs: int = 12,
    seeds: int = 1,
    learning_rates: Mapping[str, float] | None = None,
    **fields: Any,
) -> list[RunConfig]:
    """Seven losses over an embedding of three dimensions, which the report draws.

    With `embedding_size=2` the losses without a linear layer do badly: on a circle classes cannot pass each
    other, and ten of them lie so close that s = 10 does not tell them apart (figures:
    docs/log/2026-11-21-heads-on-digits.md).

    Args:
        methods: losses, of `cosnorm_lab.methods.HEADS`; by default all.
        epochs: passes over the training images.
        seeds: number of seeds: 0, 1, …
        learning_rates: other learning rates of Adam, by method.
        fields: other fields of `cosnorm_lab.config.HeadsConfig`; a list of values makes a run of each.

    Raises:
        LabError: an unknown method or field, or a number out of range.
    """
    base = {"recipe": MNIST_NAME, "dataset": "mnist", "epochs": epochs, "batch_size": 128}
    return comparison(
        HeadsConfig,
        base,
        dict.fromkeys(HEADS, 2e-3),
        methods=methods,
        variants=lambda method: [_options(method, scale=10.0, margin=0.35)],
        seeds=seeds,
        learning_rates=learning_rates,
        fields=fields,
    )


def faces(
    methods: Sequence[str] | None = None,
    *,
    epochs: int = 8,
    seeds: int = 1,
    learning_rates: Mapping[str, float] | None = None,
    **fields: Any,
) -> list[RunConfig]:
    """Facial expressions by mini-Xception: the seven losses; s varies at m = 0.35, m at s = 10.

    Args:
        methods: losses, of `cosnorm_lab.methods.HEADS`; by default all. `SWEPT` run with every s and m.
        epochs: passes over the training images.
        seeds: number of seeds: 0, 1, …
        learning_rates: other learning rates of Adam, by method.
        fields: other fields of `cosnorm_lab.config.HeadsConfig`; a list of values makes a run of each.

    Raises:
        LabError: an unknown method or field, or a number out of range.
    """
    base = {
        "recipe": FACES_NAME,
        "dataset": "faces",
        "network": "mini-xception",
        "embedding_size": 64,
        "epochs": epochs,
        "batch_size": 64,
    }

    def variants(method: str) -> list[dict[str, Any]]:
        if method not in SWEPT:
            return [_options(method, SCALE_OF_MARGINS, MARGIN_OF_SCALES)]
        by_scale = [{"scale": scale, "margin": MARGIN_OF_SCALES} for scale in SCALES]
        return by_scale + [{"scale": SCALE_OF_MARGINS, "margin": margin} for margin in MARGINS]

    return comparison(
        HeadsConfig,
        base,
        dict.fromkeys(HEADS, 1e-3),
        methods=methods,
        variants=variants,
        seeds=seeds,
        learning_rates=learning_rates,
        fields=fields,
    )


def _options(method: str, scale: float, margin: float) -> dict[str, float]:
    """Scale and margin for the methods that take them."""
    return {
        name: value for name, value in (("scale", scale), ("margin", margin)) if name in HEADS[method].takes
    }
