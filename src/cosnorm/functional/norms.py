"""Safe norms: the one place where zero, overflow, underflow and half precision are decided.

Two forms of a row are used by every operation.

* `plain_rows` leaves the values as they are and gives the factor ``1/|x|``. It looks at the data and returns
  None unless every norm lies in a window in which no product can overflow or lose its digits. Nearly every
  batch of nearly every user takes it, and it costs one pass over the values.
* `unit_rows` scales each row by a power of two (which is exact), so that any finite row becomes a right unit
  vector. It never looks at the data, so it serves compiled graphs, `vmap` and accelerators, and it is made of
  differentiable operations, so second derivatives come from it.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor

# A row whose norm is 2^±exponent (columns: rows, cotangents). With two rows and a cotangent inside their
# windows every intermediate of the forward and the backward formula stays a normal number.
_WINDOW = {torch.float32: (30, 40), torch.float64: (200, 300)}
# Values of a block that is worked on twice: 1 MiB of float32.
_BLOCK = 2**18
_BITS = {torch.float32: (torch.int32, 23, 127), torch.float64: (torch.int64, 52, 1023)}


class PlainRows(NamedTuple):
    """Rows as they are: ``values * factor`` are unit vectors (less the appended component, if any)."""

    values: Tensor
    factor: Tensor


class UnitRows(NamedTuple):
    """Rows divided by their norms: ``x = values / (inverse_norm * 2^-exponent)``; zero rows stay zero."""

    values: Tensor
    extra: Tensor | None
    inverse_norm: Tensor
    exponent: Tensor


def contiguous_results(function: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """The function with results of the strides that compiled code is told of, whatever those of its input."""

    @wraps(function)
    def contiguous(*arguments: Any) -> tuple[Tensor, ...]:
        return tuple(result.contiguous() for result in function(*arguments))

    return contiguous


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums are taken: float32 for the half types, else `dtype` itself."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def product_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype in which large products are taken: float16 only where the hardware has it."""
    return torch.float32 if dtype == torch.float16 and device.type == "cpu" else dtype


def power_of_two(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """2^exponent, exactly, for exponents of normal numbers (built from bits: `pow` rounds)."""
    integer, mantissa, bias = _BITS[dtype]
    return ((exponent.to(integer) + bias) << mantissa).view(dtype)


def scale_exponent(largest: Tensor) -> Tensor:
    """An exponent e with `largest` · 2^-e near 1 and 2^-e a normal number, for any `largest` ≥ 0."""
    integer, mantissa, bias = _BITS[largest.dtype]
    # Subnormals come out as -bias: times 2^bias they still have squares far above the smallest normal.
    # NaN and inf come out as bias + 1, which has no reciprocal among the normal numbers.
    return ((largest.contiguous().view(integer) >> mantissa) - bias).clamp(max=bias - 1)


def scale_by_exponent(values: Tensor, exponent: Tensor) -> Tensor:
    """Multiply by 2^exponent in two exact steps, for exponents outside the normal range too."""
    bias = _BITS[values.dtype][2]
    first = (exponent >> 1).clamp(-bias + 1, bias)
    second = (exponent - (exponent >> 1)).clamp(-bias + 1, bias)
    return values * power_of_two(first, values.dtype) * power_of_two(second, values.dtype)


def split_exponent(values: Tensor) -> tuple[Tensor, Tensor]:
    """The values divided by a power of two so that the largest is near 1, and the exponent of that power."""
    if values.numel() == 0:
        return values, torch.zeros((), dtype=torch.long, device=values.device)
    exponent = scale_exponent(values.abs().amax())
    return values * power_of_two(-exponent, values.dtype), exponent


def saturate(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast a finished gradient; what exceeds the range becomes the largest number (float16: inf).

    float16 is left to overflow, because gradient scalers look for inf to lower their scale.
    """
    if dtype != torch.float16:
        gradient = gradient.clamp(torch.finfo(dtype).min, torch.finfo(dtype).max)
    return gradient.to(dtype)


def largest_norm(dtype: torch.dtype, *, cotangent: bool = False) -> float:
    """The largest norm that the plain form allows; the smallest is its reciprocal."""
    return 2.0 ** _WINDOW[dtype][cotangent]


def in_window(norms: Tensor, *, cotangent: bool = False) -> bool | None:
    """Whether all norms allow the plain form; None if that depends on the rows of norm 0 being truly 0."""
    if norms.numel() == 0:
        return True
    limit = largest_norm(norms.dtype, cotangent=cotangent)
    lowest, highest = (float(bound) for bound in torch.aminmax(norms))
    if not highest <= limit:  # NaN, too, ends here
        return False
    if lowest >= 1 / limit:
        return True
    if bool((norms >= 1 / limit).logical_or_(norms == 0).all()):
        return None
    return False


def plain_cotangent(cotangent: Tensor, *dimensions: tuple[int, ...]) -> bool:
    """Whether the vectors of a cotangent along each of `dimensions` may enter the plain gradient."""
    dtype = accumulation_dtype(cotangent.dtype)
    # What all of them sum over is summed once: a cotangent of images is as large as they are.
    common = [one for one in range(cotangent.ndim) if all(one in summed for summed in dimensions)]
    if common and cotangent.numel():
        magnitudes = torch.linalg.vector_norm(cotangent, 1, dim=common, keepdim=True, dtype=dtype)
    else:
        magnitudes = cotangent.to(dtype).abs()
    for summed in dimensions:
        # A sum of magnitudes is 0 only if all of them are: unlike squares they do not vanish.
        sums = magnitudes.sum(summed) if summed else magnitudes
        if in_window(sums, cotangent=True) is False:
            return False
    return True


def not_plain(factor: Tensor) -> Tensor:
    """What a forward pass saves in place of factors where it could not take the plain form."""
    return torch.full_like(factor, torch.inf)


def was_plain(factor: Tensor) -> bool:
    """Whether the forward pass that saved these factors took the plain form."""
    return factor.numel() == 0 or float(factor.flatten()[0]) != torch.inf


def project_(u: Tensor, values: Tensor, factor: Tensor, extra: Tensor | None = None) -> Tensor:
    """The rows u less v (v·u + extra) / |v|², for rows v with factors 1/|v|; u is overwritten.

    Blocks of rows stay in the cache between the two passes, and no product as large as u is ever made.
    """
    size = u.shape[-1]
    u = u.contiguous()  # sums over broadcast dimensions may leave it otherwise
    flat_u, flat_values, flat_factor = u.view(-1, size), values.reshape(-1, size), factor.reshape(-1, 1)
    step = max(1, _BLOCK // size)
    for start in range(0, flat_u.shape[0], step):
        block = slice(start, start + step)
        along = (flat_values[block] * flat_u[block]).sum(-1, keepdim=True)
        if extra is not None:
            along += extra.reshape(-1, 1)[block]
        along.mul_(flat_factor[block]).mul_(flat_factor[block])
        flat_u[block].addcmul_(flat_values[block], along, value=-1)
    return u


def normalized(x: Tensor) -> UnitRows:
    """The rows as unit vectors in the accumulation dtype, by the plain form where the data allow it."""
    looks = x.device.type == "cpu" and not torch.compiler.is_compiling()
    if looks and x.dtype == accumulation_dtype(x.dtype):
        plain = plain_rows(x, centered=False, augment=0.0)
        if plain is not None:
            exponent = torch.zeros((1,) * x.ndim, dtype=torch.long)
            return UnitRows(plain.values * plain.factor, None, plain.factor, exponent)
    return unit_rows(x, centered=False, augment=0.0)


def project_out_(gradient: Tensor, unit: UnitRows) -> Tensor:
    """The gradient in unit rows less its part along them, in place: that in the rows times their norms."""
    step = max(1, _BLOCK // max(1, gradient.shape[-1]))
    for part, values in zip(gradient.split(step), unit.values.split(step), strict=True):
        part.addcmul_(values, (part * values).sum(-1, keepdim=True), value=-1)
    return gradient


def finish_gradient(projected: Tensor, inverse_norm: Tensor, exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """What `project_out_` gave, divided by the norms, times 2^exponent, in the stored dtype.

    Block by block, so that no temporary is as large as the gradient.
    """
    finished = torch.empty_like(projected, dtype=dtype)
    step = max(1, _BLOCK // max(1, projected.shape[-1]))
    for start in range(0, len(projected), step):
        rows = slice(start, start + step)
        inverse, power = (one[rows] if one.numel() > 1 else one for one in (inverse_norm, exponent))
        finished[rows] = saturate(scale_by_exponent(projected[rows] * inverse, power), dtype)
    return finished


def is_constant(largest_deviation: Tensor, mean: Tensor, dtype: torch.dtype) -> Tensor:
    """The rule for centered zero: max|x − μ| ≤ 4·eps·|μ|, with eps of the stored dtype."""
    return largest_deviation <= 4 * torch.finfo(dtype).eps * mean.abs()


def center(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values less their mean along the last dimension, and the mean.

    Twice, because the first mean is rounded: for rows of mean 100 and deviation 0.01 in float32 its error
    would be left in every component as a common offset of 1e-6.
    """
    mean = values.mean(-1, keepdim=True)
    deviation = values - mean
    return deviation - deviation.mean(-1, keepdim=True), mean


def plain_rows(x: Tensor, *, centered: bool, augment: float) -> PlainRows | None:
    """The rows along the last dimension in the plain form, or None where it could be wrong."""
    accumulation = accumulation_dtype(x.dtype)
    values = x.to(product_dtype(x.dtype, x.device))
    constant = None
    if centered:
        values, mean = center(x.to(accumulation))
    norm = row_norms(values, accumulation)
    if centered:
        # |x - μ| ≤ √D · max|x - μ|: rows above this bound cannot be constant, and the others are looked at.
        bound = mean.abs() * (4 * torch.finfo(x.dtype).eps * values.shape[-1] ** 0.5)
        if not bool((norm > bound).all()):
            largest = values.abs().amax(-1, keepdim=True)
            constant = is_constant(largest, mean, x.dtype)
            values = values.masked_fill(constant, 0)
            norm = norm.masked_fill(constant, 0)
    allowed = in_window(norm)
    if allowed is None:
        allowed = not bool((values != 0).logical_and_(norm == 0).any())
    if not allowed:
        return None
    if augment:
        norm = norm.square_().add_(augment**2).sqrt_()
        return PlainRows(values, norm.reciprocal()) if in_window(norm) else None
    return PlainRows(values, norm.reciprocal().masked_fill_(norm == 0, 0))


def row_norms(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The norm of each row, (*, 1)."""
    if values.ndim == 2 and values.stride(0) == 1 < values.stride(1):
        # Rows that lie across the memory: torch's own reduction takes ten times as long.
        squares = values.new_zeros(len(values), dtype=dtype)
        for block in values.t().split(max(1, _BLOCK // max(1, len(values)))):
            squares += block.to(dtype).square().sum(0)
        return squares.sqrt_().unsqueeze(1)
    return torch.linalg.vector_norm(values, dim=-1, keepdim=True, dtype=dtype)


def unit_rows(x: Tensor, *, centered: bool, augment: float, stored: torch.dtype | None = None) -> UnitRows:
    """The rows along the last dimension as unit vectors, whatever their norms; differentiable.

    `stored` is the dtype whose eps decides which centered rows are constant: that of x, if not given.
    """
    values = x.to(accumulation_dtype(x.dtype))
    with torch.no_grad():
        largest = values.detach().abs().amax(-1, keepdim=True)
        exponent = scale_exponent(largest.clamp(min=abs(augment)) if augment else largest)
        scale = power_of_two(-exponent, values.dtype)
    values = values * scale
    if centered:
        deviation, mean = center(values)
        largest = deviation.detach().abs().amax(-1, keepdim=True)
        values = deviation.masked_fill(is_constant(largest, mean.detach(), stored or x.dtype), 0)
    squared = values.square().sum(-1, keepdim=True)
    extra = None
    if augment:
        extra = augment * scale
        squared = squared + extra.square()
    zero = squared == 0
    inverse_norm = squared.masked_fill(zero, 1).rsqrt().masked_fill(zero, 0)
    if extra is not None:
        extra = extra * inverse_norm
    return UnitRows(values * inverse_norm, extra, inverse_norm, exponent)
