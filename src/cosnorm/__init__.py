"""Cosine similarity in neural networks: layers, losses and functions that are exact at every scale."""

from cosnorm import convert, functional, losses, nn
from cosnorm.microbatches import microbatch

__all__ = ["convert", "functional", "losses", "microbatch", "nn"]
__version__ = "0.1.0"
