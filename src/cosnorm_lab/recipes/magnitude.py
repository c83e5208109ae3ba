"""The paper's central claim, tested directly: trained networks on test input that is scaled."""

from cosnorm_lab.config import MLPConfig
from cosnorm_lab.methods import rates
from cosnorm_lab.recipes.comparison import recipe

NAME = "magnitude"
NEWS_NAME = "magnitude-news"
FACTORS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


# The networks of Table 1, trained as there, on test images times 0.1 to 10.
magnitude = recipe(
    MLPConfig,
    {"recipe": NAME, "dataset": "mnist", "hidden": (1000, 1000), "factors": FACTORS},
    rates("mnist"),
    epochs=20,
)

# The networks of Table 3 on test documents times the same factors.
magnitude_news = recipe(
    MLPConfig,
    {"recipe": NEWS_NAME, "dataset": "20news", "hidden": (1000, 1000), "factors": FACTORS},
    rates("news"),
    epochs=20,
)
