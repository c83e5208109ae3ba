"""Kernels for a GPU. Only `choose` imports them, where they run."""
