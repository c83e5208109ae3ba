"""The digits that scikit-learn ships: the comparison in a minute, without a download."""

from collections.abc import Mapping

from cosnorm_lab.config import MLPConfig
from cosnorm_lab.recipes.comparison import recipe

NAME = "digits"

# Errors among 297 held-back training images over the last 5 of 20 epochs, mean of two seeds, at this rate:
# baseline 6.6, cosine 5.9, centered 7.1, batch 6.8, layer 6.2, weight 7.3, max 6.4, mean-only 6.6.
LEARNING_RATES: Mapping[str, float] = {
    "baseline": 0.5,
    "cosine": 2.0,
    "centered": 2.0,
    "batch": 0.1,
    "layer": 0.2,
    "weight": 0.5,
    "max": 0.5,
    "mean-only": 1.0,
}


# The runs of the demo: 64-100-100-10, batches of 20.
digits = recipe(
    MLPConfig,
    {"recipe": NAME, "dataset": "digits", "hidden": (100, 100), "batch_size": 20},
    LEARNING_RATES,
    epochs=40,
)
