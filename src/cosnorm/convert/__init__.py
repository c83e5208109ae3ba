"""Models from and to other forms: plain layers, cosine layers, unit weights, exported programs."""

from cosnorm.convert.cosine import to_cosine, to_plain
from cosnorm.convert.folding import fold
from cosnorm.convert.programs import decompose

__all__ = ["decompose", "fold", "to_cosine", "to_plain"]
