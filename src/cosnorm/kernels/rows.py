"""Moved to `cosnorm.backends.triton.units`."""

from cosnorm.backends.triton.units import *  # noqa: F403
