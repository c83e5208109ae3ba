"""Unit rows on a CPU by one look at the norms: where all are in their window, no scale is needed."""

import torch
from torch import Tensor

from cosnorm.backends.look.rows import fits, norms_of
from cosnorm.backends.torch.units import UnitRows
from cosnorm.norms import NORM_LIMIT, accumulation_dtype


def inverse_norms(x: Tensor) -> Tensor | None:
    """1/|x| of the rows, (N, 1), 0 for zero rows; None where a norm is out of its window."""
    accumulation = accumulation_dtype(x.dtype)
    norms = norms_of(x, accumulation)
    allowed = fits(norms, NORM_LIMIT[accumulation])
    if allowed is None:  # are the rows of norm 0 truly 0?
        allowed = not bool(x[(norms == 0).squeeze(-1)].any())
    return norms.reciprocal().masked_fill_(norms == 0, 0) if allowed else None


def unit_rows(x: Tensor) -> UnitRows | None:
    """The rows (N, D) in their accumulation dtype; None where a norm is out of its window."""
    inverse_norm = inverse_norms(x)
    if inverse_norm is None:
        return None
    return UnitRows(x * inverse_norm, None, inverse_norm, torch.ones_like(inverse_norm))


def quotients(divisors: Tensor, factor: Tensor) -> Tensor | None:
    """The quotients factor / |x|, (N, 1); None where they or a product with them could leave the range."""
    found = divisors[:, :1] * (factor / divisors[:, 1:])
    allowed = fits(found.abs(), NORM_LIMIT[found.dtype])
    if allowed is None:
        allowed = bool((found == 0).eq(divisors[:, :1] == 0).all())
    return found if allowed else None


def finish(u: Tensor, divisors: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor | None:
    """The rows u · factor / |x| in one pass; None where that could leave the range."""
    found = quotients(divisors, factor)
    return None if found is None else torch.mul(u, found, out=torch.empty_like(u, dtype=dtype))
