"""Normalize (by the Euclidean norm) and NormalizeL1, along one axis."""

import torch
from torch import Tensor

from cosnorm.caffe2.arguments import Arguments
from cosnorm.caffe2.operators.common import EPS, axis_of, shaped
from cosnorm.caffe2.registry import Kernel, gradient_of, operator


@operator("Normalize", gradient=gradient_of("NormalizeGradient", "X0 dY0", "dX0"))
def normalize(arguments: Arguments) -> Kernel:
    """X / max(|x|, 1e-12)."""
    axis = arguments.integer("axis", -1)

    def kernel(x: Tensor) -> Tensor:
        return x / _norm(x, axis_of(axis, x.dim()))

    return kernel


@operator("NormalizeGradient", inputs=2)
def normalize_gradient(arguments: Arguments) -> Kernel:
    """With r = max(|x|, 1e-12): dY / r − x (x·dY) / r³, in the shape of dY."""
    axis = arguments.integer("axis", -1)

    def kernel(x: Tensor, cotangent: Tensor) -> Tensor:
        place = axis_of(axis, x.dim())
        given = shaped(cotangent, x.shape, "NormalizeGradient")
        norm = _norm(x, place)
        gradient = given / norm - x / norm * (x / norm * given).sum(place, keepdim=True) / norm
        return gradient.reshape(cotangent.shape)

    return kernel


@operator("NormalizeL1")
def normalize_l1(arguments: Arguments) -> Kernel:
    """X / Σ|x|; zeros stay zeros, where the original leaves the output unwritten."""
    axis = arguments.integer("axis", -1)

    def kernel(x: Tensor) -> Tensor:
        norm = x.abs().sum(axis_of(axis, x.dim()), keepdim=True)
        return x / norm.masked_fill(norm == 0, 1)

    return kernel


def _norm(x: Tensor, axis: int) -> Tensor:
    return torch.linalg.vector_norm(x, dim=axis, keepdim=True).clamp(min=EPS)
