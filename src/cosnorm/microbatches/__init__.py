"""Exact micro-batches: the gradient of a loss over a whole batch, in the memory of a part of it."""

from cosnorm.microbatches.step import microbatch

__all__ = ["microbatch"]
