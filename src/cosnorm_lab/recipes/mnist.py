"""MNIST: Tables 1 and 2 and Figure 5 of Luo et al., "Cosine Normalization", arXiv 1702.05870."""

from collections.abc import Mapping, Sequence
from typing import Any

from cosnorm_lab.config import MLPConfig, RunConfig
from cosnorm_lab.methods import rates
from cosnorm_lab.recipes.comparison import comparison
from cosnorm_lab.recipes.published import Published

NAME = "mnist-table1"
TABLE2_NAME = "mnist-table2"
DEPTH_NAME = "mnist-depth"

# Table 1: mean and variance of the test errors, of 10,000, over the last 50 of 200 epochs.
PAPER_TABLE1: Mapping[str, tuple[float, float]] = {
    "baseline": (196.588, 0.887),
    "cosine": (143.922, 0.074),
    "batch": (151.647, 85.753),
    "weight": (193.0, 0.0),
    "max": (150.588, 10.727),
}

NOTES_TABLE1: Mapping[str, str] = {
    "weight": "why is not known: neither initial weights nor learning rate explain it (docs/log)",
    "max": "with hidden biases; without them 155 in epochs 31 to 40, so that the paper's had none (docs/log)",
}

# The paper's "0.1 variance" at its word, with the same figures beside it.
_VARIANCE = "initial weights of variance 0.1, the text at its word; a standard deviation of 0.1 comes nearer"
OTHER_READING = tuple(
    Published({"method": method, "init_std": 0.316}, mean=mean, variance=variance, note=_VARIANCE)
    for method, (mean, variance) in PAPER_TABLE1.items()
)

# Table 2, by noise.
_READING = "dropping 0.8 of the input is not what the paper did: keeping 0.8 comes out as it says"
_SHORT = "ours ends before the errors have settled"
_RATE = "the paper does not state its learning rate; ours was found on a validation split"
PAPER_TABLE2 = (
    Published({"method": "baseline", "dropout": 0.5}, mean=127.333, variance=29.107, note=_SHORT),
    Published(
        {"method": "cosine", "dropout": 0.5, "input_dropout": 0.8},
        mean=113.647,
        variance=32.273,
        note=_READING,
    ),
    Published({"method": "cosine", "dropout": 0.5}, mean=113.647, variance=32.273, note=_SHORT),
    Published({"method": "cosine", "batch_size": 1}, mean=130.0, variance=0.0, note=_RATE),
    Published({"method": "cosine", "dropout": 0.0, "batch_size": 100}, mean=143.922, variance=0.074),
)

# Figure 5: the least errors of networks of 2, 3, 4 and 5 weight layers.
PAPER_DEPTH = tuple(
    Published({"method": "cosine", "layers": layers}, least=least)
    for layers, least in ((2, 155), (3, 143), (4, 140), (5, 129))
)


def table1(
    methods: Sequence[str] | None = None,
    *,
    epochs: int = 200,
    seeds: int = 1,
    learning_rates: Mapping[str, float] | None = None,
    **fields: Any,
) -> list[RunConfig]:
    """The runs of Table 1: 784-1000-1000-10, batches of 100, constant learning rate.

    The paper says "0.1 variance"; its figures fit a standard deviation of 0.1, the default here
    (`init_std=0.316` is the other reading). Layer normalization, centered cosine and mean-only batch
    normalization are not in its table: their learning rates are ours.

    Args:
        methods: the methods to run; by default all of `cosnorm_lab.methods.NORMALIZATIONS`.
        epochs: passes over the training images.
        seeds: number of seeds: 0, 1, …
        learning_rates: learning rates other than the paper's, by method.
        fields: other fields of `cosnorm_lab.config.MLPConfig`; a list of values makes a run of each.

    Raises:
        LabError: an unknown method or field, or a number out of range.
    """
    return comparison(
        MLPConfig,
        _base(NAME, epochs),
        rates("mnist"),
        methods=methods,
        seeds=seeds,
        learning_rates=learning_rates,
        fields=fields,
    )


def table2(
    methods: Sequence[str] | None = None,
    *,
    epochs: int = 60,
    seeds: int = 1,
    learning_rates: Mapping[str, float] | None = None,
    **fields: Any,
) -> list[RunConfig]:
    """The runs of Table 2 and Figure 4: dropout, and cosine with batches of one image.

    The paper's "drop rate 0.8, 0.5 for input and hidden" is run in both readings: 0.8 as the share of the
    input that is kept (0.2 dropped), and as the share that is dropped. The learning rates are the paper's, 1
    for the baseline with dropout; that of single images, 0.1, is ours, and 20 epochs of it are 1.2 million
    steps. Arguments as for `table1`.

    Raises:
        LabError: an unknown method or field, or a number out of range.
    """

    def variants(method: str) -> list[dict[str, Any]]:
        readings = [{"input_dropout": rate, "dropout": 0.5} for rate in (0.2, 0.8)]
        if method == "baseline":
            return readings
        return [*readings, {"batch_size": 1, "learning_rate": 0.1, "epochs": min(epochs, 20)}]

    return comparison(
        MLPConfig,
        _base(TABLE2_NAME, epochs),
        {"baseline": 1.0, "cosine": 10.0},
        methods=methods,
        variants=variants,
        seeds=seeds,
        learning_rates=learning_rates,
        fields=fields,
    )


def depth(
    methods: Sequence[str] | None = None,
    *,
    epochs: int = 60,
    seeds: int = 1,
    learning_rates: Mapping[str, float] | None = None,
    **fields: Any,
) -> list[RunConfig]:
    """The runs of Figure 5: networks of 2, 3, 4 and 5 weight layers. Arguments as for `table1`.

    The paper shows cosine; baseline and centered cosine stand beside it.

    Raises:
        LabError: an unknown method or field, or a number out of range.
    """
    return comparison(
        MLPConfig,
        _base(DEPTH_NAME, epochs),
        {method: rates("mnist")[method] for method in ("cosine", "baseline", "centered")},
        methods=methods,
        variants=lambda method: [{"hidden": (1000,) * hidden} for hidden in (1, 2, 3, 4)],
        seeds=seeds,
        learning_rates=learning_rates,
        fields=fields,
    )


def _base(recipe: str, epochs: int) -> dict[str, Any]:
    return {"recipe": recipe, "dataset": "mnist", "hidden": (1000, 1000), "epochs": epochs}
