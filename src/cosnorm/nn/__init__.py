"""Layers: parameters and one functional call, with the signatures and parameter names of torch's own."""

from cosnorm.nn.batch_norm import MeanOnlyBatchNorm1d, MeanOnlyBatchNorm2d, MeanOnlyBatchNorm3d
from cosnorm.nn.conv import CosineConv1d, CosineConv2d, CosineConv3d
from cosnorm.nn.folded import FoldedCosineConv, FoldedCosineLinear
from cosnorm.nn.linear import CosineLinear
from cosnorm.nn.max_norm import MaxNorm

__all__ = [
    "CosineConv1d",
    "CosineConv2d",
    "CosineConv3d",
    "CosineLinear",
    "FoldedCosineConv",
    "FoldedCosineLinear",
    "MaxNorm",
    "MeanOnlyBatchNorm1d",
    "MeanOnlyBatchNorm2d",
    "MeanOnlyBatchNorm3d",
]
