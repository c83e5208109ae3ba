"""The digits that scikit-learn ships: the comparison in a minute, without a download."""

from cosnorm_lab.config import MLPConfig
from cosnorm_lab.methods import rates
from cosnorm_lab.recipes.comparison import recipe

NAME = "digits"


# The runs of the demo: 64-100-100-10, batches of 20.
digits = recipe(
    MLPConfig,
    {"recipe": NAME, "dataset": "digits", "hidden": (100, 100), "batch_size": 20},
    rates("digits"),
    epochs=40,
)
