"""Moved to `cosnorm.backends.c.library`."""

from cosnorm.backends.c.library import CONSTANT, COTANGENT_LIMIT, LIMIT, library

__all__ = ["CONSTANT", "COTANGENT_LIMIT", "LIMIT", "library"]
