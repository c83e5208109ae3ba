"""Cosine similarity in neural networks: layers, losses and functions that are exact at every scale."""

from cosnorm import functional, losses, nn

__all__ = ["functional", "losses", "nn"]
__version__ = "0.1.0"
