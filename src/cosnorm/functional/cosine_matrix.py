"""`cosine_rows` of two matrices on a CPU, in as few passes and calls as the closed form allows.

With products p = x·w (+ a²) and factors f_x = 1/|x|, f_w = 1/|w|, the cosine is p f_x f_w, and for the
cotangent g, with H = g f_x f_w,

    ∂/∂w_j = Σ_i H_ij x_i − f_j² A_j w_j,   A_j = Σ_i H_ij p_ij   (eqs. 9-12),

and the same in x. The second term is written first, and the matrix product added onto it by the library, so
that a gradient is written once. Centered, only x is: with deviations x̃ the products are those of x̃ with w as
it is, for the deviations of a row sum to 0, and |w̃|² = |w|² − D μ².

All this is the plain form: it looks at the data, and leaves to the unit form what it could get wrong.
"""

from types import ModuleType
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


def matrix_cosine(
    x: Tensor, weight: Tensor, centered: bool, augment: float, *, folded: bool = False
) -> Tensor | None:
    """Cosine of each row of x (*, D) with each row of the weight (M, D); None where another form must do it.

    Folded, the rows of the weight are unit vectors already, and nothing learns.

    It takes what every step of a training on a CPU has: float32 or float64, outside of compiled code,
    autocast, function transforms and forward mode. Its checks are few and plain: after a matrix product the
    caches hold nothing of this, and the first touch of every line costs microseconds.
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
    if dtype is not weight.dtype or dtype not in _DTYPES or not x.is_cpu or not weight.is_cpu:
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
    contiguous = rows.is_contiguous() and weight.is_contiguous()
    passes = cpu_rows if dtype is torch.float32 and contiguous and library() else row_passes
    extra = augment * augment
    if learns:
        output: Tensor | None = _MatrixCosine.apply(rows, weight, passes, centered, augment)
    else:
        output = _cosines(passes, rows, weight, centered, extra, folded)
    if output is None:
        return None
    return output if len(shape) == 2 else output.unflatten(0, shape[:-1])


def _cosines(
    passes: ModuleType, x: Tensor, weight: Tensor, centered: bool, extra: float, folded: bool
) -> Tensor | None:
    """The cosines alone."""
    if centered:
        prepared = passes.prepare_rows(x, weight, extra, folded)
        if prepared is None:
            return None
        products = F.linear(prepared[0], weight)
        return passes.finish_rows(products, prepared[1], extra, products)
    found = passes.cosine_rows(x, weight, extra, folded, keep=False)
    return None if found is None else found[0]


class _MatrixCosine(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, passes: ModuleType, centered: bool, augment: float
    ) -> Tensor:
        extra, products, factors = augment * augment, None, None
        if not centered:
            found = passes.cosine_rows(x, weight, extra, False, keep=True)
            if found is not None:
                output, products, factors = found
        else:
            prepared = passes.prepare_rows(x, weight, extra, False)
            if prepared is not None:
                values, factors = prepared
                products = F.linear(values, weight)
                output = passes.finish_rows(products, factors, extra, torch.empty_like(products))
        ctx.passes, ctx.options = passes, (centered, augment)
        if factors is None:
            ctx.save_for_backward(x, weight, None, None)
            return unit_cosine(x.unsqueeze(1), weight, centered, augment)[0]
        ctx.save_for_backward(x, weight, products, factors)
        return output

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, products, factors = ctx.saved_tensors
        (centered, augment), needs = ctx.options, ctx.needs_input_grad[:2]
        if factors is not None and not torch.is_grad_enabled():  # else a second derivative may follow
            values = ctx.passes.center_rows(x) if centered else x
            found = ctx.passes.row_gradients(
                cotangent.contiguous(), products, factors, values, weight, centered, augment * augment, needs
            )
            if found is not None:
                return *found, None, None, None
        into_x, into_w = unit_gradients(cotangent, x.unsqueeze(1), weight, centered, augment, *needs)
        return into_x.squeeze(1) if needs[0] else None, into_w if needs[1] else None, *[None] * 3
