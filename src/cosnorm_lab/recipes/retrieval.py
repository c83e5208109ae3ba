"""Losses judged as metric learning judges: by the neighbours of images whose classes were never seen."""

from collections.abc import Mapping, Sequence
from typing import Any

from cosnorm_lab.config import RetrievalConfig, RunConfig
from cosnorm_lab.methods import RETRIEVAL
from cosnorm_lab.recipes.comparison import comparison

NAME = "retrieval"

# Of 50 classes and embeddings of 128: what the papers have for thousands of classes is too sharp for them.
# A method that is not named here takes the scale and the margin of `USUAL`.
OPTIONS: Mapping[str, Mapping[str, float]] = {
    "normface": {"scale": 16.0},
    "proxy-anchor": {"scale": 32.0, "margin": 0.1},  # the paper's, of 100 classes
    "sup-con": {"temperature": 0.1},
}
USUAL: Mapping[str, float] = {"scale": 16.0, "margin": 0.2, "temperature": 0.1}
RATE = 1e-3


def retrieval(
    methods: Sequence[str] | None = None,
    *,
    epochs: int = 15,
    seeds: int = 3,
    learning_rates: Mapping[str, float] | None = None,
    **fields: Any,
) -> list[RunConfig]:
    """CIFAR-100, its first 50 classes seen, the last 50 judged; a small network, Adam at one rate for all.

    Whether losses differ where all are tuned alike is asked by `--validation 5000 --sweep lr=…`, which holds
    back the last ten of the classes that are seen.

    Args:
        methods: losses, of `cosnorm_lab.methods.RETRIEVAL`; by default all.
        epochs: passes over the training images.
        seeds: number of seeds: 0, 1, …
        learning_rates: other learning rates of Adam, by method.
        fields: other fields of `cosnorm_lab.config.RetrievalConfig`; a list of values makes a run of each.

    Raises:
        LabError: an unknown method or field, or a number out of range.
    """
    return comparison(
        RetrievalConfig,
        {"recipe": NAME, "dataset": "cifar100", "epochs": epochs},
        dict.fromkeys(RETRIEVAL, RATE),
        methods=methods,
        variants=lambda method: [_options(method)],
        seeds=seeds,
        learning_rates=learning_rates,
        fields=fields,
    )


def _options(method: str) -> dict[str, float]:
    """Scale, margin and temperature for the methods that take them."""
    own = OPTIONS.get(method, {})
    return {name: own.get(name, USUAL[name]) for name in RETRIEVAL[method].takes}
