"""Cosine similarity as functions: the mathematics of the library, exact at every scale."""

from cosnorm.functional.contrastive import contrastive_cross_entropy
from cosnorm.functional.conv import cosine_conv1d, cosine_conv2d, cosine_conv3d
from cosnorm.functional.linear import cosine_linear
from cosnorm.functional.margin import margin_cross_entropy, sample_classes
from cosnorm.functional.margins import AdditiveAngle, AdditiveCosine, NoMargin
from cosnorm.functional.sigmoid import pairwise_sigmoid_loss
from cosnorm.functional.similarity import cosine_similarity, pairwise_cosine
from cosnorm.functional.topk import TopK, cosine_topk

__all__ = [
    "AdditiveAngle",
    "AdditiveCosine",
    "NoMargin",
    "TopK",
    "contrastive_cross_entropy",
    "cosine_conv1d",
    "cosine_conv2d",
    "cosine_conv3d",
    "cosine_linear",
    "cosine_similarity",
    "cosine_topk",
    "margin_cross_entropy",
    "pairwise_cosine",
    "pairwise_sigmoid_loss",
    "sample_classes",
]
