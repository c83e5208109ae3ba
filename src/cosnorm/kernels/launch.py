"""Moved to `cosnorm.backends.triton.launch`."""

from cosnorm.backends.triton.launch import *  # noqa: F403
