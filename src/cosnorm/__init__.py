"""Cosine similarity in neural networks: layers and functions that are exact at every scale."""

from cosnorm import functional, nn

__all__ = ["functional", "nn"]
__version__ = "0.1.0"
