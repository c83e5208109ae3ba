"""How training goes: what embeddings, weights and the temperature look like, as numbers for any logger."""

from cosnorm.diagnostics.embeddings import alignment, effective_rank, embedding_norms, uniformity
from cosnorm.diagnostics.pairs import false_negative_share, saturation
from cosnorm.diagnostics.step import diagnose
from cosnorm.diagnostics.weights import AngularSteps, effective_rates, learned_temperatures

__all__ = [
    "AngularSteps",
    "alignment",
    "diagnose",
    "effective_rank",
    "effective_rates",
    "embedding_norms",
    "false_negative_share",
    "learned_temperatures",
    "saturation",
    "uniformity",
]
