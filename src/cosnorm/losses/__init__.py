"""Losses over cosine similarities, in bounded memory: functions, and thin modules that hold their options."""

from cosnorm.losses.centers import CenterLoss, CosineDistanceLoss, IslandLoss, center_loss, island_loss
from cosnorm.losses.clip import CLIPLoss, clip_loss
from cosnorm.losses.embedding import CosineEmbeddingLoss, cosine_embedding_loss
from cosnorm.losses.heads import AMSoftmaxLoss, ArcFaceLoss, CosFaceLoss, NormFaceLoss
from cosnorm.losses.info_nce import InfoNCELoss, info_nce_loss, sample_negatives
from cosnorm.losses.margin_heads import (
    AdaFaceLoss,
    CombinedMarginLoss,
    CurricularFaceLoss,
    ElasticFaceLoss,
    MagFaceLoss,
    SphereFaceLoss,
)
from cosnorm.losses.mining import mine_hard_negatives
from cosnorm.losses.nt_xent import NTXentLoss, nt_xent_loss
from cosnorm.losses.proxies import ProxyAnchorLoss, ProxyNCALoss, SphereFace2Loss
from cosnorm.losses.queue import Queue
from cosnorm.losses.siglip import SigLIPLoss
from cosnorm.losses.sup_con import SupConLoss, sup_con_loss

__all__ = [
    "AMSoftmaxLoss",
    "AdaFaceLoss",
    "ArcFaceLoss",
    "CLIPLoss",
    "CenterLoss",
    "CombinedMarginLoss",
    "CosFaceLoss",
    "CosineDistanceLoss",
    "CosineEmbeddingLoss",
    "CurricularFaceLoss",
    "ElasticFaceLoss",
    "InfoNCELoss",
    "IslandLoss",
    "MagFaceLoss",
    "NTXentLoss",
    "NormFaceLoss",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "Queue",
    "SigLIPLoss",
    "SphereFace2Loss",
    "SphereFaceLoss",
    "SupConLoss",
    "center_loss",
    "clip_loss",
    "cosine_embedding_loss",
    "info_nce_loss",
    "island_loss",
    "mine_hard_negatives",
    "nt_xent_loss",
    "sample_negatives",
    "sup_con_loss",
]
