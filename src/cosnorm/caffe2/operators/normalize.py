"""Normalize (by the Euclidean norm) and NormalizeL1, along one axis."""

import torch
from torch import Tensor

from cosnorm.caffe2.arguments import Arguments
from cosnorm.caffe2.registry import Kernel, gradient_of, operator

EPS = 1e-12


def axis_of(axis: int, dimensions: int) -> int:
    """The axis counted from the front. Raises a RuntimeError where there is none."""
    if not -dimensions <= axis < dimensions:
        bound = "axis_index < ndims" if axis >= 0 else "axis_index >= -ndims"
        raise RuntimeError(
            f"Expected {bound} to be true, but got false: axis {axis} of {dimensions} dimensions"
        )
    return axis % dimensions


@operator("Normalize", gradient=gradient_of("NormalizeGradient", "X0 dY0", "dX0"))
def normalize(arguments: Arguments) -> Kernel:
    """X / max(|x|, 1e-12)."""
    axis = arguments.integer("axis", -1)

    def kernel(x: Tensor) -> Tensor:
        return x / _norm(x, axis_of(axis, x.dim()))

    return kernel


@operator("NormalizeGradient", inputs=2)
def normalize_gradient(arguments: Arguments) -> Kernel:
    """DY / r − x (x·dY) / r³ with r = max(|x|, 1e-12)."""
    axis = arguments.integer("axis", -1)

    def kernel(x: Tensor, cotangent: Tensor) -> Tensor:
        place = axis_of(axis, x.dim())
        if x.shape != cotangent.shape:
            raise RuntimeError(
                f"NormalizeGradient: dY must have X's shape, {list(x.shape)}, got {list(cotangent.shape)}"
            )
        norm = _norm(x, place)
        return cotangent / norm - x / norm * (x / norm * cotangent).sum(place, keepdim=True) / norm

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
