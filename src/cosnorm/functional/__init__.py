"""Cosine similarity as functions: the mathematics of the library, exact at every scale."""

from cosnorm.functional.anchors import proxy_anchor_loss
from cosnorm.functional.batch_margins import (
    AdaFaceMargin,
    BatchMargin,
    Changed,
    CurricularMargin,
    ElasticMargin,
    MagFaceMargin,
    Targets,
)
from cosnorm.functional.class_sigmoid import class_sigmoid_loss
from cosnorm.functional.contrastive import contrastive_cross_entropy
from cosnorm.functional.conv import cosine_conv1d, cosine_conv2d, cosine_conv3d
from cosnorm.functional.linear import cosine_linear
from cosnorm.functional.margin import margin_cross_entropy
from cosnorm.functional.margins import (
    AdditiveAngle,
    AdditiveCosine,
    CombinedMargin,
    MultiplicativeAngle,
    NoMargin,
    ScheduledMargin,
)
from cosnorm.functional.sampling import sample_classes
from cosnorm.functional.schedules import Schedule
from cosnorm.functional.sigmoid import pairwise_sigmoid_loss
from cosnorm.functional.similarity import cosine_similarity, pairwise_cosine
from cosnorm.functional.topk import TopK, cosine_topk

__all__ = [
    "AdaFaceMargin",
    "AdditiveAngle",
    "AdditiveCosine",
    "BatchMargin",
    "Changed",
    "CombinedMargin",
    "CurricularMargin",
    "ElasticMargin",
    "MagFaceMargin",
    "MultiplicativeAngle",
    "NoMargin",
    "Schedule",
    "ScheduledMargin",
    "Targets",
    "TopK",
    "class_sigmoid_loss",
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
    "proxy_anchor_loss",
    "sample_classes",
]
