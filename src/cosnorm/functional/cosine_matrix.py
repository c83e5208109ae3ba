"""`cosine_rows` of two matrices on a CPU, in as few passes and calls as the closed form allows.

With products p = x·w (+ a²) and factors f_x = 1/|x|, f_w = 1/|w|, the cosine is p f_x f_w, and for the
cotangent g, with H = g f_x f_w,

    ∂/∂w_j = Σ_i H_ij x_i − f_j² A_j w_j,   A_j = Σ_i H_ij p_ij   (eqs. 9-12),

and the same in x. The second term is written first, and the matrix product added onto it by the library, so
that a gradient is written once. Centered, only x is: with deviations x̃ the products are those of x̃ with w as
it is, for the deviations of a row sum to 0, and |w̃|² = |w|² − D μ².

All this is the plain form: it looks at the data, and declines what it could get wrong. Numbers of x and of w
that belong to rows stand in one tensor, those of x first: each call costs as much as a pass over a small
batch.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from cosnorm.functional.cosine_rows import unit_gradients
from cosnorm.functional.norms import center, in_window, row_norms

# Values of a block of cosines that is finished while it is in the cache; smaller products are slow.
_BLOCK = 2**22


class Prepared(NamedTuple):
    """What the plain form needs of both matrices.

    values: the rows of x, centered if they shall be, (N, D).
    factors: 1/norm of each row of x, then of the weight, 0 for zero rows, (N + M, 1).
    mean: of each row of the weight if centered, (M, 1).
    """

    values: Tensor
    factors: Tensor
    mean: Tensor | None


def matrix_cosine(x: Tensor, weight: Tensor, *, centered: bool, augment: float) -> Tensor | None:
    """Cosine of each row of x (N, D) with each row of the weight (M, D); None where another form must do it.

    float32 and float64 on a CPU, outside of compiled code, function transforms and forward mode.
    """
    if (
        x.device.type != "cpu"
        or x.dtype not in (torch.float32, torch.float64)
        or not x.numel()
        or not weight.numel()
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0  # the other forms refuse it; this one would lose the tangents
    ):
        return None
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if learns and len(x) > x.shape[1]:
        return None  # the products would be more than the weight: they are not saved
    prepared = _prepare(x.detach(), weight.detach(), centered, augment)
    if prepared is None:
        return None
    if not learns:
        return _cosines(prepared, weight, augment)
    output: Tensor = _MatrixCosine.apply(x, weight, prepared, centered, augment)
    return output


def _prepare(x: Tensor, weight: Tensor, centered: bool, augment: float) -> Prepared | None:
    """Norms, or None where the plain form could be wrong."""
    mean = None
    norms = [row_norms(x, x.dtype), row_norms(weight, x.dtype)]
    if centered:
        x, first = center(x)
        norms[0] = row_norms(x, x.dtype)
        mean = weight.mean(1, keepdim=True)
        # Where the mean is at most half of the row, |w|² − D μ² keeps its digits. The deviations of x must
        # be far above those of what could be a constant row (clause 3 of the contract).
        squared, offset = norms[1].square(), mean.square() * x.shape[1]
        limit = first.abs() * (64 * torch.finfo(x.dtype).eps * x.shape[1])
        if not bool((norms[0] > limit).all()) or not bool((offset <= squared / 2).all()):
            return None
        norms[1] = squared.sub_(offset).sqrt_()
    both = torch.cat(norms)
    allowed = in_window(both)
    zero = None
    if allowed is None and not centered:
        zero = both == 0
        rows, columns = zero.squeeze(1).split([len(x), len(weight)])
        allowed = not bool(x[rows].any()) and not bool(weight[columns].any())
    if not allowed:
        return None
    if augment:
        both = both.square_().add_(augment**2).sqrt_()
        return Prepared(x, both.reciprocal_(), mean) if in_window(both) else None
    factors = both.reciprocal_()
    return Prepared(x, factors if zero is None else factors.masked_fill_(zero, 0), mean)


def _cosines(prepared: Prepared, weight: Tensor, augment: float) -> Tensor:
    """The cosines alone, each block finished while it is in the cache."""
    values, factors, _ = prepared
    factor_x, factor_w = factors.split([len(values), len(weight)])
    factor_w = factor_w.t()
    scaled, other = values * factor_x, weight.t()
    step = max(256, _BLOCK // len(weight))
    if step >= len(values):
        output = F.linear(scaled, weight)
        if augment:
            output.add_(factor_x, alpha=augment**2)
        return output.mul_(factor_w).clamp_(-1, 1)
    output = values.new_empty(len(values), len(weight))
    for start in range(0, len(values), step):
        part = slice(start, start + step)
        block = torch.mm(scaled[part], other, out=output[part])
        if augment:
            block.add_(factor_x[part], alpha=augment**2)
        block.mul_(factor_w).clamp_(-1, 1)
    return output


class _MatrixCosine(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, prepared: Prepared, centered: bool, augment: float
    ) -> Tensor:
        factor_x, factor_w = prepared.factors.split([len(x), len(weight)])
        products = F.linear(prepared.values, weight)
        if augment:
            products += augment**2
        ctx.save_for_backward(x, weight, products, prepared.factors, prepared.mean)
        ctx.options = centered, augment
        return (products * factor_x).mul_(factor_w.t()).clamp_(-1, 1)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, products, factors, mean = ctx.saved_tensors
        needs = ctx.needs_input_grad[:2]
        buffer = None if torch.is_grad_enabled() else _magnitudes(cotangent)
        if buffer is None:
            # A second derivative may follow, or the cotangent is out of its window.
            into_x, into_w = unit_gradients(cotangent, x.unsqueeze(1), weight, *ctx.options, *needs)
            return into_x.squeeze(1) if needs[0] else None, into_w if needs[1] else None, None, None, None
        return *_gradients(cotangent, x, weight, products, factors, mean, buffer, needs), None, None, None


def _magnitudes(cotangent: Tensor) -> Tensor | None:
    """|g|, whose memory may be used again; None where a row or a column is out of the window."""
    magnitudes = cotangent.abs()
    # A sum of magnitudes is 0 only if all of them are: unlike squares they do not vanish.
    sums = torch.cat((magnitudes.sum(1), magnitudes.sum(0)))
    return None if in_window(sums, cotangent=True) is False else magnitudes


def _gradients(
    cotangent: Tensor,
    x: Tensor,
    weight: Tensor,
    products: Tensor,
    factors: Tensor,
    mean: Tensor | None,
    buffer: Tensor,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients in x and in the weight; `buffer` is overwritten."""
    sizes = [len(x), len(weight)]
    factor_x, factor_w = factors.split(sizes)
    h = (cotangent * factor_x).mul_(factor_w.t())
    torch.mul(h, products, out=buffer)
    # −A f² of each row of x, then of the weight.
    along = torch.cat([buffer.sum(1), buffer.sum(0)]).unsqueeze_(1)
    along_x, along_w = along.mul_(factors).mul_(factors).neg_().split(sizes)
    into_x = into_w = None
    values = x if mean is None else center(x)[0]
    if needs[0]:
        into_x = values * along_x
        if mean is not None:
            into_x -= h @ mean
        into_x.addmm_(h, weight)
    if needs[1]:
        into_w = weight * along_w if mean is None else (weight - mean).mul_(along_w)
        into_w.addmm_(h.t(), values)
    return into_x, into_w
