"""As `cosnorm.backends.triton.launch`, until the kernels here have moved."""

from cosnorm.backends.triton.launch import (
    COTANGENT_WINDOW,
    ROW_WINDOW,
    interpreting,
    product,
    readable,
    writable,
)

__all__ = ["COTANGENT_WINDOW", "ROW_WINDOW", "interpreting", "product", "readable", "writable"]
