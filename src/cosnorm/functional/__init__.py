"""Cosine similarity as functions: the mathematics of the library, exact at every scale."""

from cosnorm.functional.linear import cosine_linear
from cosnorm.functional.similarity import cosine_similarity, pairwise_cosine

__all__ = ["cosine_linear", "cosine_similarity", "pairwise_cosine"]
