"""The operators, a file for each family; importing this package registers them all."""

from cosnorm.caffe2.operators import (
    arithmetic,
    criterion,
    dense,
    distances,
    fill,
    normalize,
    reduce,
    trigonometry,
)

__all__ = ["arithmetic", "criterion", "dense", "distances", "fill", "normalize", "reduce", "trigonometry"]
