"""Cosines of rows on a CPU by torch's operators and one look at the norms, the twin of the passes in C.

With products p = x·y (+ a²) and factors f = 1/|row|, the cosine is p f_x f_y, and for the cotangent g, with
h = g f_x f_y,

    ∂/∂x_i = Σ_j h_ij y_j − f_i² A_i x_i,   A_i = Σ_j h_ij p_ij   (eqs. 9-12),

and the same in y: the projection rides on the matrix products, and no unit row is ever made. Where a norm is
out of its window this declines.
"""

import torch
from torch import Tensor

from cosnorm.backends.torch.contraction import Contraction
from cosnorm.backends.torch.units import center
from cosnorm.norms import (
    COTANGENT_LIMIT,
    NORM_LIMIT,
    accumulation_dtype,
    constant_bound,
    product_dtype,
)

# Values of a block that is worked on twice: 1 MiB of float32.
_BLOCK = 2**18


def fits(norms: Tensor, limit: float) -> bool | None:
    """Whether all norms are within [1/limit, limit]; None if they are but for zeros, to be looked at."""
    if not norms.numel():
        return True
    low, high = (float(bound) for bound in torch.aminmax(norms))
    if not high <= limit:  # NaN, too, ends here
        return False
    if low >= 1 / limit:
        return True
    return None if bool((norms >= 1 / limit).logical_or_(norms == 0).all()) else False


def norms_of(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """The norm of each row, (*, 1)."""
    if rows.ndim == 2 and rows.stride(0) == 1 < rows.stride(1):
        # Rows that lie across the memory: torch's own reduction takes ten times as long.
        squares = rows.new_zeros(len(rows), dtype=dtype)
        for block in rows.t().split(max(1, _BLOCK // max(1, len(rows)))):
            squares += block.to(dtype).square().sum(0)
        return squares.sqrt_().unsqueeze(1)
    return torch.linalg.vector_norm(rows, dim=-1, keepdim=True, dtype=dtype)


def prepare(x: Tensor, *, centered: bool, augment: float) -> tuple[Tensor, Tensor] | None:
    """Rows as they enter the product (less their means) and their factors 1/|row|, 0 for zero rows."""
    accumulation = accumulation_dtype(x.dtype)
    limit = NORM_LIMIT[accumulation]
    values = x.to(product_dtype(x.dtype, x.device))
    if centered:
        values, mean = center(x.to(accumulation))
    norms = norms_of(values, accumulation)
    if centered:
        # |x − μ| ≤ √D · max|x − μ|: only rows below this can be constant, and those are looked at.
        bound = constant_bound(mean, x.dtype)
        if not bool((norms > bound * values.shape[-1] ** 0.5).all()):
            constant = values.abs().amax(-1, keepdim=True) <= bound
            values, norms = values.masked_fill(constant, 0), norms.masked_fill(constant, 0)
    allowed = fits(norms, limit)
    if allowed is None:
        allowed = not bool((values != 0).logical_and_(norms == 0).any())
    if not allowed:
        return None
    if augment:
        norms = norms.square_().add_(augment**2).sqrt_()
        return (values, norms.reciprocal()) if fits(norms, limit) else None
    return values, norms.reciprocal().masked_fill_(norms == 0, 0)


def _keeps(x: Tensor, y: Tensor, contraction: Contraction) -> bool:
    """Whether products are kept: where they spare two passes over both matrices."""
    exact = x.dtype == product_dtype(x.dtype, x.device) == accumulation_dtype(x.dtype)
    return exact and contraction.keeps_products and x.ndim == y.ndim == 2


def handles(x: Tensor, y: Tensor, contraction: Contraction, keep: bool) -> bool:
    """Whether this form has these shapes and this layout."""
    return True


def saved(x: Tensor, y: Tensor, contraction: Contraction, centered: bool) -> tuple[Tensor, Tensor]:
    """Empty products and statistics of the shapes that `cosines` returns with `keep`."""
    dtype = accumulation_dtype(x.dtype)
    products = contraction.shape(x.shape, y.shape) if _keeps(x, y, contraction) else 0
    number = x[..., 0].numel() + y[..., 0].numel()
    return x.new_empty(products, dtype=dtype), x.new_empty(number, dtype=dtype)


def cosines(
    x: Tensor, y: Tensor, contraction: Contraction, *, centered: bool, augment: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The cosines, the products, and the factors of x and then of y."""
    rows_x = prepare(x, centered=centered, augment=augment)
    rows_y = prepare(y, centered=centered, augment=augment) if rows_x else None
    if rows_x is None or rows_y is None:
        return None
    accumulation = accumulation_dtype(x.dtype)
    dtype = product_dtype(x.dtype, x.device) if contraction.is_product else accumulation
    products = contraction.dot(rows_x[0].to(dtype), rows_y[0].to(dtype)).to(accumulation)
    if augment:
        products.add_(augment**2)
    kept = keep and _keeps(x, y, contraction)
    output = torch.mul(products, contraction.beside_x(rows_x[1]), out=None if kept else products)
    output.mul_(contraction.beside_y(rows_y[1])).clamp_(-1, 1)
    nothing = x.new_empty(0, dtype=accumulation)
    statistics = torch.cat([rows_x[1].flatten(), rows_y[1].flatten()]) if keep else nothing
    return output.to(x.dtype), products if kept else nothing, statistics


def folded(
    x: Tensor, weight: Tensor, constant: Tensor | None, *, centered: bool, augment: float
) -> Tensor | None:
    """The cosines with unit rows, whose appended components are `constant`, (M, 1)."""
    rows_x = prepare(x, centered=centered, augment=augment)
    if rows_x is None:
        return None
    dtype = product_dtype(x.dtype, x.device)
    products = (rows_x[0].to(dtype) @ weight.to(dtype).mT).to(accumulation_dtype(x.dtype))
    if constant is not None:
        products.add_(constant.mT, alpha=augment)
    return products.mul_(rows_x[1]).clamp_(-1, 1).to(x.dtype)


def gradients(
    cotangent: Tensor,
    x: Tensor,
    y: Tensor,
    products: Tensor,
    statistics: Tensor,
    contraction: Contraction,
    *,
    centered: bool,
    augment: float,
    needs: list[bool],
) -> tuple[Tensor, Tensor] | None:
    """The gradients in x and y; None if `cosines` declined, or this cotangent must be."""
    if statistics.numel() and statistics[0] == torch.inf:
        return None
    numbers = [x[..., 0].numel(), y[..., 0].numel()]
    pairs = zip(statistics.split(numbers), (x, y), strict=True)
    factor_x, factor_y = (factor.view(*rows.shape[:-1], 1) for factor, rows in pairs)
    beside_x, beside_y = contraction.beside_x(factor_x), contraction.beside_y(factor_y)
    if not cotangent_fits(cotangent, beside_x.shape, beside_y.shape):
        return None
    accumulation = accumulation_dtype(x.dtype)
    dtype = product_dtype(x.dtype, x.device) if contraction.is_product else accumulation
    values_x, values_y = x.to(dtype), y.to(dtype)
    if centered:
        rows_x, rows_y = (prepare(rows, centered=True, augment=augment) for rows in (x, y))
        assert rows_x is not None
        assert rows_y is not None
        values_x, values_y = rows_x[0], rows_y[0]
    h = (cotangent * beside_x).mul_(beside_y)
    into_x = into_y = x.new_empty(0)
    if products.numel():
        along = h * products
        if needs[0]:
            into_x = values_x * along.sum(1, keepdim=True).mul_(factor_x).mul_(factor_x).neg_()
            into_x.addmm_(h, values_y)
        if needs[1]:
            into_y = values_y * along.sum(0).unsqueeze(1).mul_(factor_y).mul_(factor_y).neg_()
            into_y.addmm_(h.mT, values_x)
    else:
        if needs[0]:
            into_x = contraction.into_x(h.to(dtype), x.shape, values_y.to(dtype)).to(accumulation)
            appended = augment**2 * h.sum_to_size(beside_x.shape) if augment else None
            into_x = _project(into_x, values_x, factor_x, appended)
        if needs[1]:
            into_y = contraction.into_y(h.to(dtype), values_x.to(dtype), y.shape).to(accumulation)
            appended = augment**2 * h.sum_to_size(beside_y.shape) if augment else None
            into_y = _project(into_y, values_y, factor_y, appended)
    if centered:
        for gradient, needed in zip((into_x, into_y), needs, strict=True):
            if needed:
                gradient.sub_(gradient.mean(-1, keepdim=True))
    # The window leaves nothing to saturate.
    return into_x.to(x.dtype), into_y.to(y.dtype)


def cotangent_fits(cotangent: Tensor, *shapes: tuple[int, ...]) -> bool:
    """Whether the sums of magnitudes that enter each row are in their window; shapes as beside the products.

    A sum of magnitudes is 0 only if all of them are: unlike squares they do not vanish.
    """
    dtype = accumulation_dtype(cotangent.dtype)
    magnitudes = cotangent.to(dtype).abs()
    return all(fits(magnitudes.sum_to_size(one), COTANGENT_LIMIT[dtype]) is not False for one in shapes)


def _project(u: Tensor, values: Tensor, factor: Tensor, appended: Tensor | None) -> Tensor:
    """The rows u less v (v·u + appended) / |v|², for rows v with factors 1/|v|; u is overwritten.

    Blocks of rows stay in the cache between the two passes, and no product as large as u is ever made.
    """
    size = u.shape[-1]
    u = u.contiguous()  # sums over broadcast dimensions may leave it otherwise
    flat_u, flat_values, flat_factor = u.view(-1, size), values.reshape(-1, size), factor.reshape(-1, 1)
    step = max(1, _BLOCK // size)
    for start in range(0, flat_u.shape[0], step):
        block = slice(start, start + step)
        along = (flat_values[block] * flat_u[block]).sum(-1, keepdim=True)
        if appended is not None:
            along += appended.reshape(-1, 1)[block]
        along.mul_(flat_factor[block]).mul_(flat_factor[block])
        flat_u[block].addcmul_(flat_values[block], along, value=-1)
    return u
