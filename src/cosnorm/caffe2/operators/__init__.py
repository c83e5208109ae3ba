"""The operators, a file for each family; importing this package registers them all."""

from cosnorm.caffe2.operators import (
    arithmetic,
    binary,
    criterion,
    dense,
    distances,
    fill,
    normalize,
    random_fill,
    reduce,
    trigonometry,
)

__all__ = [
    "arithmetic",
    "binary",
    "criterion",
    "dense",
    "distances",
    "fill",
    "normalize",
    "random_fill",
    "reduce",
    "trigonometry",
]
