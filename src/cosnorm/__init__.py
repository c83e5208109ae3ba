"""Cosine similarity in neural networks: layers, losses and functions that are exact at every scale."""

from cosnorm import convert, functional, losses, nn

__all__ = ["convert", "functional", "losses", "nn"]
__version__ = "0.1.0"
