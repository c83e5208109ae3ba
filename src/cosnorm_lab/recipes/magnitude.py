"""The paper's central claim, tested directly: trained networks on test input that is scaled."""

from cosnorm_lab.config import MLPConfig
from cosnorm_lab.recipes.comparison import recipe
from cosnorm_lab.recipes.mnist import LEARNING_RATES

NAME = "magnitude"
FACTORS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


# The networks of Table 1, trained as there, on test images times 0.1 to 10.
magnitude = recipe(
    MLPConfig,
    {"recipe": NAME, "dataset": "mnist", "hidden": (1000, 1000), "factors": FACTORS},
    LEARNING_RATES,
    epochs=20,
)
