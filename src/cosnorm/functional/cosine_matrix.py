"""`cosine_rows` of two matrices on a CPU, in as few passes and calls as the closed form allows.

With products p = x·w (+ a²) and factors f_x = 1/|x|, f_w = 1/|w|, the cosine is p f_x f_w, and for the
cotangent g, with H = g f_x f_w,

    ∂/∂w_j = Σ_i H_ij x_i − f_j² A_j w_j,   A_j = Σ_i H_ij p_ij   (eqs. 9-12),

and the same in x. The second term is written first, and the matrix product added onto it by the library, so
that a gradient is written once. Centered, only x is: with deviations x̃ the products are those of x̃ with w as
it is, for the deviations of a row sum to 0, and |w̃|² = |w|² − D μ².

All this is the plain form: it looks at the data, and leaves to the unit form what it could get wrong.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from cosnorm.functional import row_passes
from cosnorm.functional.cosine_rows import unit_cosine, unit_gradients
from cosnorm.kernels import cpu_rows
from cosnorm.kernels.compiled import library

_PLAIN, _DTYPES = (Tensor, nn.Parameter), (torch.float32, torch.float64)
_COMPILED = (*_DTYPES, torch.bfloat16, torch.float16)


def matrix_cosine(
    x: Tensor, weight: Tensor, centered: bool, augment: float, *, folded: bool = False
) -> Tensor | None:
    """Cosine of each row of x (*, D) with each row of the weight (M, D); None where another form must do it.

    Folded, the rows of the weight are unit vectors already, and nothing learns.

    It takes what every step of a training on a CPU has: outside of compiled code, autocast, function
    transforms and forward mode. Its checks are few and plain: after a matrix product the caches hold
    nothing of this, and the first touch of every line costs microseconds.
    """
    if (
        torch.compiler.is_dynamo_compiling()  # first, so that it sees no more; other tracers have own types
        or type(x) not in _PLAIN
        or type(weight) not in _PLAIN
        or type(centered) is not bool
        or type(augment) is not float
    ):
        return None
    dtype = x.dtype
    if dtype is not weight.dtype or dtype not in _COMPILED or not x.is_cpu or not weight.is_cpu:
        return None
    shape, (columns, size) = x.shape, weight.shape if weight.ndim == 2 else (0, 0)
    if (
        len(shape) < 2
        or shape[-1] != size
        or not columns
        or not 0 <= augment <= 1e18  # as check_augment has it
        or not x.numel()
        or x.layout is not torch.strided
        or weight.layout is not torch.strided
        or torch._C._is_any_autocast_enabled()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0  # the other forms refuse it; this one would lose the tangents
    ):
        return None
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    rows = x if len(shape) == 2 else x.flatten(0, -2)
    if learns and folded:
        return None
    if learns:
        return _shaped(_MatrixCosine.apply(rows, weight, centered, augment), shape)
    found = _cosines(rows, weight, centered, augment, folded, keep=False)
    return None if found is None else _shaped(found[0], shape)


def _shaped(output: Tensor, shape: torch.Size) -> Tensor:
    return output if len(shape) == 2 else output.unflatten(0, shape[:-1])


def _has_passes(x: Tensor, weight: Tensor) -> bool:
    return x.dtype in _COMPILED and x.is_contiguous() and weight.is_contiguous() and library() is not None


def _cosines(
    x: Tensor, weight: Tensor, centered: bool, augment: float, folded: bool, *, keep: bool
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The cosines, the products and the statistics, by compiled passes or by those of torch's operators."""
    if _has_passes(x, weight):
        return cpu_rows.cosines(x, weight, centered=centered, augment=augment, folded=folded, keep=keep)
    if x.dtype not in _DTYPES:
        return None
    extra = augment * augment
    if not centered:
        return row_passes.cosine_rows(x, weight, extra, folded, keep=keep)
    prepared = row_passes.prepare_rows(x, weight, extra, folded)
    if prepared is None:
        return None
    products = F.linear(prepared[0], weight)
    output = torch.empty_like(products) if keep else products
    return row_passes.finish_rows(products, prepared[1], extra, output), products, prepared[1]


class _MatrixCosine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, centered: bool, augment: float) -> Tensor:
        ctx.options = centered, augment
        found = _cosines(x, weight, centered, augment, False, keep=True)
        if found is None:
            ctx.save_for_backward(x, weight, None, None)
            return unit_cosine(x.unsqueeze(1), weight, centered, augment)[0]
        output, products, statistics = found
        ctx.save_for_backward(x, weight, products, statistics)
        return output

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, products, statistics = ctx.saved_tensors
        (centered, augment), (needs_x, needs_w) = ctx.options, ctx.needs_input_grad[:2]
        found = None
        if statistics is None or torch.is_grad_enabled():  # then a second derivative may follow
            pass
        elif _has_passes(x, weight):
            found = cpu_rows.gradients(
                cotangent,
                x,
                weight,
                products,
                statistics,
                centered=centered,
                augment=augment,
                needs_x=needs_x,
                needs_w=needs_w,
            )
        else:
            values, needs = row_passes.center_rows(x) if centered else x, (needs_x, needs_w)
            found = row_passes.row_gradients(
                cotangent, products, statistics, values, weight, centered, augment * augment, needs
            )
        if found is not None:
            return *found, None, None
        rows = x.unsqueeze(1)
        into_x, into_w = unit_gradients(cotangent, rows, weight, centered, augment, needs_x, needs_w)
        return into_x.squeeze(1) if needs_x else None, into_w if needs_w else None, None, None
