"""Plain formulas that the library is compared with: slow, obvious, and written without it.

Everything takes the stored values and computes in float64, which holds every square and product of float32
and the half types without overflow; `exact_cosine` does the same in mpmath for the range of float64.
"""

import itertools
import math

import mpmath
import torch
from torch import Tensor
from torch.nn import functional as F


def _center(values: Tensor, centered: bool) -> Tensor:
    return values - values.mean(-1, keepdim=True) if centered else values


def cosine(x: Tensor, y: Tensor, centered: bool = False, augment: float = 0.0) -> Tensor:
    """cos over the last dimension of broadcast float64 rows, 0 where a row is zero."""
    x, y = _center(x.double(), centered), _center(y.double(), centered)
    dot = (x * y).sum(-1) + augment**2
    squared = (x.square().sum(-1) + augment**2, y.square().sum(-1) + augment**2)
    norm_x, norm_y = (s.where(s > 0, torch.ones_like(s)).sqrt() for s in squared)
    nonzero = (squared[0] > 0).logical_and(squared[1] > 0)
    return torch.where(nonzero, dot / norm_x / norm_y, torch.zeros_like(dot))


def linear(x: Tensor, weight: Tensor, centered: bool = False, augment: float = 0.0) -> Tensor:
    """cos of each row of x with each row of the weight."""
    return cosine(x.unsqueeze(-2), weight, centered, augment)


def unfold(x: Tensor, kernel: tuple, stride: tuple, padding: tuple, dilation: tuple) -> Tensor:
    """Every receptive field: (N, C, *S) → (N, C, K, *O), zeros where the padding is."""
    x = F.pad(x, [p for amount in reversed(padding) for p in (amount, amount)])
    sizes = [
        (size - d * (k - 1) - 1) // s + 1
        for size, k, s, d in zip(x.shape[2:], kernel, stride, dilation, strict=True)
    ]
    taps = []
    for offset in itertools.product(*map(range, kernel)):
        window = x
        for dimension, (o, s, d, size) in enumerate(
            zip(offset, stride, dilation, sizes, strict=True), start=2
        ):
            window = window.narrow(dimension, o * d, (size - 1) * s + 1)
            window = window[(slice(None),) * dimension + (slice(None, None, s),)]
        taps.append(window)
    return torch.stack(taps, 2)


def conv(
    x: Tensor,
    weight: Tensor,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    centered: bool = False,
    augment: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """cos of each unfolded receptive field with each filter, in any number of dimensions."""
    kernel = tuple(weight.shape[2:])
    places = (
        (number,) * len(kernel) if isinstance(number, int) else number
        for number in (stride, padding, dilation)
    )
    fields = unfold(x.to(dtype), kernel, *places)
    samples, channels, taps, *places = fields.shape
    rows = fields.reshape(samples, groups, channels // groups * taps, -1).movedim(2, -1).unsqueeze(2)
    filters = weight.to(dtype).reshape(groups, weight.shape[0] // groups, 1, -1)
    if dtype == torch.float64:
        result = cosine(rows, filters, centered, augment)
    else:
        rows, filters = _center(rows, centered), _center(filters, centered)
        result = F.normalize(rows, dim=-1) @ F.normalize(filters, dim=-1).mT
        result = result.squeeze(-1) if result.shape[-1] == 1 else result
    return result.reshape(samples, weight.shape[0], *places)


def exact_cosine(x: list[float], y: list[float], centered: bool = False, augment: float = 0.0) -> float:
    """The cosine of two vectors of floats in arithmetic of 1,000 digits, and rounded once."""
    with mpmath.workdps(1000):
        u, v = ([mpmath.mpf(value) for value in vector] for vector in (x, y))
        if centered:
            u, v = ([value - mpmath.fsum(vector) / len(vector) for value in vector] for vector in (u, v))
        u, v = [*u, mpmath.mpf(augment)], [*v, mpmath.mpf(augment)]
        norms = mpmath.sqrt(mpmath.fdot(u, u)) * mpmath.sqrt(mpmath.fdot(v, v))
        return float(mpmath.fdot(u, v) / norms) if norms else 0.0


def exact_gradient(x: list[float], y: list[float], cotangent: float) -> list[float]:
    """Eq. 12 in arithmetic of 1,000 digits: the gradient in x, as floats (inf beyond their range)."""
    with mpmath.workdps(1000):
        u, v = ([mpmath.mpf(value) for value in vector] for vector in (x, y))
        norm_u, norm_v = mpmath.sqrt(mpmath.fdot(u, u)), mpmath.sqrt(mpmath.fdot(v, v))
        dot = mpmath.fdot(u, v)
        gradient = [
            cotangent * (b / (norm_u * norm_v) - a * dot / (norm_u**3 * norm_v))
            for a, b in zip(u, v, strict=True)
        ]
        largest = mpmath.mpf(2) ** 1024
        return [float(g) if abs(g) < largest else math.copysign(math.inf, g) for g in gradient]
