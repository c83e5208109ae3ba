"""A user's own data: the same comparison, the same report."""

from collections.abc import Mapping, Sequence
from typing import Any

from cosnorm_lab.config import CNNConfig, MLPConfig, RunConfig
from cosnorm_lab.errors import LabError
from cosnorm_lab.methods import rates
from cosnorm_lab.recipes.comparison import comparison

NAME = "own"
# By network: what the runs have in common, and the learning rates, those of the paper's networks.
NETWORKS: Mapping[str, tuple[type[RunConfig], Mapping[str, Any], Mapping[str, float]]] = {
    "mlp": (MLPConfig, {"hidden": (256,)}, rates("mnist")),
    "cnn": (CNNConfig, {"crop": 0}, rates("cifar", "cnn")),
}


def own(
    methods: Sequence[str] | None = None,
    *,
    network: str = "mlp",
    epochs: int = 20,
    seeds: int = 1,
    learning_rates: Mapping[str, float] | None = None,
    **fields: Any,
) -> list[RunConfig]:
    """All methods on data of any kind. Choose learning rates of your own: `--sweep lr=… --validation N`.

    Args:
        methods: the methods to compare; by default all.
        network: "mlp", one hidden layer of 256 units (`hidden=512-256` for another), or "cnn", the paper's
            network for CIFAR on images of any size, whose epochs are 250 steps each.
        epochs: passes over the training samples, or evaluations of the convolutional network.
        seeds: number of seeds: 0, 1, …
        learning_rates: learning rates other than the recipe's, by method.
        fields: other fields of `cosnorm_lab.config.MLPConfig` or `CNNConfig`; a list makes a run of each.

    Raises:
        LabError: an unknown network, method or field, or a number out of range.
    """
    if not isinstance(network, str) or network not in NETWORKS:
        raise LabError(f"network must be {' or '.join(NETWORKS)}; got {network!r}")
    kind, base, rates = NETWORKS[network]
    return comparison(
        kind,
        {"recipe": NAME, "dataset": "own", **base, "epochs": epochs},
        rates,
        methods=methods,
        seeds=seeds,
        learning_rates=learning_rates,
        fields=fields,
    )
