"""20 Newsgroups: Table 3 of Luo et al., "Cosine Normalization", arXiv 1702.05870."""

from collections.abc import Mapping

from cosnorm_lab.config import MLPConfig
from cosnorm_lab.methods import rates
from cosnorm_lab.recipes.comparison import recipe

NAME = "news-table3"

# Table 3: mean of the error rate over the last 50 epochs, and its variance in millionths.
PAPER_TABLE3: Mapping[str, tuple[float, float]] = {
    "baseline": (0.457, 2.146),
    "cosine": (0.294, 0.301),
    "batch": (0.451, 4.749),
    "weight": (0.308, 0.312),
    "max": (0.299, 29.598),
}
TEST_DOCUMENTS = 7500
PAPER_ERRORS: Mapping[str, tuple[float, float]] = {
    method: (rate * TEST_DOCUMENTS, millionths * 1e-6 * TEST_DOCUMENTS**2)
    for method, (rate, millionths) in PAPER_TABLE3.items()
}


# 21566-1000-1000-20, batches of 100, on sparse input.
table3 = recipe(
    MLPConfig, {"recipe": NAME, "dataset": "20news", "hidden": (1000, 1000)}, rates("news"), epochs=60
)
