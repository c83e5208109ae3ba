"""Similarities and distances of the rows of two tensors: CosineSimilarity, DotProduct, L2 and L1 distances.

Rows are the entries of dimension 0; the other dimensions are taken as one. A vector has rows of one element,
a single number is one row.
"""

import math

import torch
from torch import Tensor

from cosnorm.caffe2.arguments import Arguments
from cosnorm.caffe2.operators.common import EPS, as_column
from cosnorm.caffe2.registry import Kernel, gradient_of, operator


def rows(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both as matrices. Raises a RuntimeError unless every dimension is the same."""
    if x.dim() != y.dim():
        raise RuntimeError(f"X.dim() == Y.dim(). {x.dim()} vs {y.dim()}")
    for i, (one, other) in enumerate(zip(x.shape, y.shape, strict=True)):
        if one != other:
            raise RuntimeError(f"X.dim32(i) == Y.dim32(i). {one} vs {other}. dimension at {i}")
    sizes = (x.shape[0], math.prod(x.shape[1:])) if x.dim() else (1, 1)
    return x.reshape(sizes), y.reshape(sizes)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(1)


@operator(
    "CosineSimilarity", inputs=2, gradient=gradient_of("CosineSimilarityGradient", "X0 X1 dY0", "dX0 dX1")
)
def cosine_similarity(_: Arguments) -> Kernel:
    """x·y / sqrt(max(x·x, 1e-12) max(y·y, 1e-12)): the original's formula, with its overflow at 1e20.

    `cosnorm.functional.cosine_similarity` is exact at every scale; a net that wants this must be changed.
    """

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        x, y = rows(x, y)
        return _dot(x, y) / (_dot(x, x).clamp(min=EPS) * _dot(y, y).clamp(min=EPS)).sqrt()

    return kernel


@operator("CosineSimilarityGradient", inputs=3, outputs=2)
def cosine_similarity_gradient(_: Arguments) -> Kernel:
    def kernel(first: Tensor, second: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        x, y = rows(first, second)
        cotangent = as_column(cotangent, x.shape[0], "dCos")
        norm_x = _dot(x, x).clamp(min=EPS).sqrt().unsqueeze(1)
        norm_y = _dot(y, y).clamp(min=EPS).sqrt().unsqueeze(1)
        product = _dot(x, y).unsqueeze(1)
        scaled = cotangent / (norm_x * norm_y)
        gradient_x = scaled * y - scaled * product / norm_x.square() * x
        gradient_y = scaled * x - scaled * product / norm_y.square() * y
        return gradient_x.reshape(first.shape), gradient_y.reshape(second.shape)

    return kernel


@operator("DotProduct", inputs=2, gradient=gradient_of("DotProductGradient", "X0 X1 dY0", "dX0 dX1"))
def dot_product(_: Arguments) -> Kernel:
    def kernel(x: Tensor, y: Tensor) -> Tensor:
        empty = not x.numel()
        x, y = rows(x, y)
        return _dot(x, y)[:0] if empty else _dot(x, y)  # rows without elements: an empty output there, too

    return kernel


@operator("DotProductGradient", inputs=3, outputs=2)
def dot_product_gradient(_: Arguments) -> Kernel:
    def kernel(first: Tensor, second: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        x, y = rows(first, second)
        cotangent = as_column(cotangent, x.shape[0] if first.numel() else 0, "dDot")
        if not first.numel():
            return torch.zeros_like(first), torch.zeros_like(second)
        return (cotangent * y).reshape(first.shape), (cotangent * x).reshape(second.shape)

    return kernel


@operator(
    "SquaredL2Distance", inputs=2, gradient=gradient_of("SquaredL2DistanceGradient", "X0 X1 dY0", "dX0 dX1")
)
def squared_l2_distance(_: Arguments) -> Kernel:
    """½ |x − y|²."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        x, y = rows(x, y)
        return (x - y).square().sum(1) / 2

    return kernel


@operator("SquaredL2DistanceGradient", inputs=3, outputs=2)
def squared_l2_distance_gradient(_: Arguments) -> Kernel:
    def kernel(first: Tensor, second: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        x, y = rows(first, second)
        gradient = as_column(cotangent, x.shape[0], "dDistance") * (x - y)
        return gradient.reshape(first.shape), -gradient.reshape(second.shape)

    return kernel


@operator("L1Distance", inputs=2, gradient=gradient_of("L1DistanceGradient", "X0 X1 dY0", "dX0 dX1"))
def l1_distance(_: Arguments) -> Kernel:
    def kernel(x: Tensor, y: Tensor) -> Tensor:
        x, y = rows(x, y)
        return (x - y).abs().sum(1)

    return kernel


@operator("L1DistanceGradient", inputs=3, outputs=2)
def l1_distance_gradient(_: Arguments) -> Kernel:
    """The gradient with the sign of x − y; 0 where that is NaN, or at most 1e-12 from 0."""

    def kernel(first: Tensor, second: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        x, y = rows(first, second)
        difference, given = x - y, as_column(cotangent, x.shape[0], "dDistance")
        zero = torch.zeros_like(difference)
        gradient = torch.where(difference > EPS, given, torch.where(difference < -EPS, -given, zero))
        return gradient.reshape(first.shape), -gradient.reshape(second.shape)

    return kernel
