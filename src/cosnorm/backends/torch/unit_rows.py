"""The way of gradients back through unit rows, block by block: no temporary is as large as a gradient."""

import torch
from torch import Tensor

from cosnorm.backends.torch import units
from cosnorm.backends.torch.units import UnitRows
from cosnorm.devices import at_once, is_accelerator
from cosnorm.norms import accumulation_dtype, saturate

__all__ = ["finish", "inverse_norms", "project_", "quotients", "unit_rows"]

# Values of a block that is worked on twice: 1 MiB of float32.
_BLOCK = 2**18


def unit_rows(x: Tensor) -> UnitRows:
    """The rows of x (N, D) as unit vectors, in their accumulation dtype."""
    if not _is_wide(x):
        return units.unit_rows(x)
    dtype = accumulation_dtype(x.dtype)
    (unit,), _ = units.wide_rows((x,), dtype, centered=False, augment=0.0)
    # The norm, or the end of the range beyond which it lies, and what that leaves; 0 for zero rows.
    scale = unit.norm.clamp(torch.finfo(dtype).tiny, torch.finfo(dtype).max)
    return UnitRows(unit.values, None, (scale / unit.norm).to(dtype), scale.to(dtype))


def _is_wide(x: Tensor) -> bool:
    return is_accelerator(x.device) and x.device.type != "mps" and x.dtype != torch.float64


def inverse_norms(x: Tensor) -> None:
    """None: norms alone do not make unit rows of every scale."""
    return


def quotients(divisors: Tensor, factor: Tensor) -> None:
    """None: a quotient may be out of range where the result is not."""
    return


def project_(u: Tensor, values: Tensor) -> Tensor:
    """Take from each row of u (N, D) its part along the unit row, in place; gives u·v of each, (N,).

    Blocks of rows stay in the cache between the two passes, and no product as large as u is ever made.
    """
    if is_accelerator(u.device):
        dots = torch.bmm(u.unsqueeze(1), values.unsqueeze(2)).squeeze(2)
        u.addcmul_(values, dots, value=-1)
        return dots.squeeze(1)
    along = u.new_empty(len(u))
    step = max(1, at_once(u.device, _BLOCK) // max(1, u.shape[-1]))
    for part, unit, result in zip(u.split(step), values.split(step), along.split(step), strict=True):
        result.copy_((part * unit).sum(-1))
        part.addcmul_(unit, result.unsqueeze(-1), value=-1)
    return along


def finish(u: Tensor, divisors: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """The rows u (N, D) · factor / |x|, saturated, in the stored dtype; block by block.

    `divisors` (N, 2) holds `inverse_norm` and `scale` of the rows x.
    """
    finished = torch.empty_like(u, dtype=dtype)
    if _is_wide(u):
        inverse_norm, scale = divisors.to(torch.float64).split(1, 1)
        return saturate(torch.mul(u, inverse_norm * factor / scale, out=finished), dtype)
    # factor / scale may be out of range where the result is not: its root is not. What is not finite is NaN.
    root = (factor.abs().sqrt() / divisors[:, 1:].sqrt()).clamp(max=torch.finfo(u.dtype).max)
    signed = divisors[:, :1] * (factor.sign() + (factor - factor))
    step = max(1, at_once(u.device, _BLOCK) // max(1, u.shape[-1]))
    for start in range(0, len(u), step):
        rows = slice(start, start + step)
        finished[rows] = saturate((u[rows] * signed[rows]).mul_(root[rows]).mul_(root[rows]), dtype)
    return finished
