"""Cosine similarity as functions: the mathematics of the library, exact at every scale."""

from cosnorm.functional.conv import cosine_conv1d, cosine_conv2d, cosine_conv3d
from cosnorm.functional.linear import cosine_linear
from cosnorm.functional.similarity import cosine_similarity, pairwise_cosine

__all__ = [
    "cosine_conv1d",
    "cosine_conv2d",
    "cosine_conv3d",
    "cosine_linear",
    "cosine_similarity",
    "pairwise_cosine",
]
