"""A user's own data: the same comparison, the same report."""

from cosnorm_lab.config import MLPConfig
from cosnorm_lab.recipes.comparison import recipe
from cosnorm_lab.recipes.mnist import LEARNING_RATES

NAME = "own"


# An MLP of one hidden layer of 256 units; `--set hidden=512-256` for another. The learning rates are those of
# Table 1: choose your own on held-back samples (`--validation`).
own = recipe(MLPConfig, {"recipe": NAME, "dataset": "own", "hidden": (256,)}, LEARNING_RATES, epochs=20)
