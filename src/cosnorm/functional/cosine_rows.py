"""The cosine of broadcast rows and its closed-form gradient: the one core below similarity and linear.

With unit vectors x̂ = x/|x| and ŷ = y/|y| and the cotangent g of cos = x̂·ŷ, the paper's eqs. 9-12 read

    ∂/∂x = (u − x̂ (x̂·u)) / |x|,   u = Σ g ŷ   (the sum goes over what x was broadcast to),

the projection of u on the plane orthogonal to x. x, y and their inverse norms are saved, never the output
(so that an in-place ReLU may follow, as after torch's own layers) nor any normalized copy. A linear layer
saves the products x·y besides where they are no more than its weight: x̂·u is then a sum of them, and the
projection rides on the matrix product instead of taking two more passes over the weight.
"""

from typing import Any

import torch
from torch import Tensor

from cosnorm.functional.autocast import without_autocast
from cosnorm.functional.norms import (
    UnitRows,
    accumulation_dtype,
    contiguous_results,
    not_plain,
    plain_cotangent,
    plain_rows,
    power_of_two,
    product_dtype,
    project_,
    saturate,
    scale_by_exponent,
    scale_exponent,
    unit_rows,
    was_plain,
)


def cosine_rows(x: Tensor, y: Tensor, *, centered: bool = False, augment: float = 0.0) -> Tensor:
    """cos(x, y) over the last dimension; the others broadcast: (*, D), (*, D) → (*).

    ``(…, N, 1, D), (M, D)`` is a matrix product. The arguments must be valid: the public functions check.
    """
    if x.shape[-1] == 0:
        # Empty vectors are zero vectors; one zero component makes them ordinary ones.
        x, y = torch.nn.functional.pad(x, (0, 1)), torch.nn.functional.pad(y, (0, 1))
    if torch.compiler.is_exporting():
        # An exported graph holds torch's own operators, so that any runtime can read it.
        return unit_cosine(x, y, centered, augment)[0]
    output: Tensor = _Cosine.apply(x, y, centered, augment)[0]
    return output


def _is_matrix_product(x: Tensor, y: Tensor) -> bool:
    return x.ndim >= 3 and x.shape[-2] == 1 and (y.ndim == 2 or (y.ndim >= 3 and y.shape[-3] == 1))


def _matrix(y: Tensor) -> Tensor:
    return y if y.ndim == 2 else y.squeeze(-3)


def _saves_products(x: Tensor, y: Tensor) -> bool:
    exact = x.dtype == product_dtype(x.dtype, x.device) == accumulation_dtype(x.dtype)
    return exact and x.ndim == 3 and x.shape[1] == 1 and y.ndim == 2 and x.shape[0] <= x.shape[2]


def _dot(x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """Σ_d x·y in the accumulation dtype; a matrix product takes its operands in `dtype`."""
    accumulation = accumulation_dtype(dtype)
    if _is_matrix_product(x, y):
        return torch.matmul(x.squeeze(-2).to(dtype), _matrix(y).to(dtype).mT).to(accumulation)
    return (x.to(accumulation) * y.to(accumulation)).sum(-1)


def _dot_adjoint_x(h: Tensor, x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """Σ h·y over what x was broadcast to, in the shape of x."""
    accumulation = accumulation_dtype(dtype)
    if _is_matrix_product(x, y):
        product = torch.matmul(h.to(dtype), _matrix(y).to(dtype)).unsqueeze(-2).to(accumulation)
    else:
        product = h.unsqueeze(-1) * y.to(accumulation)
    return product.sum_to_size(x.shape)


def _dot_adjoint_y(h: Tensor, x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """Σ h·x over what y was broadcast to, in the shape of y."""
    accumulation = accumulation_dtype(dtype)
    if _is_matrix_product(x, y):
        product = torch.matmul(h.mT.to(dtype), x.squeeze(-2).to(dtype)).to(accumulation)
        product = product if y.ndim == 2 else product.unsqueeze(-3)
    else:
        product = h.unsqueeze(-1) * x.to(accumulation)
    return product.sum_to_size(y.shape)


def unit_cosine(x: Tensor, y: Tensor, centered: bool, augment: float) -> tuple[Tensor, UnitRows, UnitRows]:
    """The cosines of any rows, and the unit rows that they are products of; differentiable."""
    unit_x = unit_rows(x, centered=centered, augment=augment)
    unit_y = unit_rows(y, centered=centered, augment=augment)
    output = _dot(unit_x.values, unit_y.values, product_dtype(x.dtype, x.device))
    if unit_x.extra is not None and unit_y.extra is not None:
        output = output + (unit_x.extra * unit_y.extra).squeeze(-1)
    return output.clamp(-1, 1).to(x.dtype), unit_x, unit_y


def _forward(x: Tensor, y: Tensor, centered: bool, augment: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The cosine, x·y (or nothing), 1/|x| and 1/|y|.

    On a CPU it looks at the data and takes the plain form where it may. Where it may not the factors are
    infinite, which tells the backward pass.
    """
    with without_autocast(x.device):
        if x.device.type == "cpu":
            plain_x = plain_rows(x, centered=centered, augment=augment)
            plain_y = plain_rows(y, centered=centered, augment=augment) if plain_x else None
            if plain_x and plain_y:
                products = _dot(plain_x.values, plain_y.values, product_dtype(x.dtype, x.device))
                if augment:
                    products.add_(augment**2)
                output = products * plain_x.factor.squeeze(-1)
                output.mul_(plain_y.factor.squeeze(-1)).clamp_(-1, 1)
                saved = products if _saves_products(x, y) else products.new_empty(0)
                return output.to(x.dtype), saved, plain_x.factor, plain_y.factor
        output, unit_x, unit_y = unit_cosine(x, y, centered, augment)
        saved = output.new_zeros(output.shape if _saves_products(x, y) else 0)
        return output, saved, not_plain(unit_x.inverse_norm), not_plain(unit_y.inverse_norm)


def _summed_dimensions(cotangent: Tensor, rows: Tensor) -> tuple[int, ...]:
    """The dimensions of the cotangent along which these rows were broadcast."""
    lead = cotangent.ndim - (rows.ndim - 1)
    return tuple(d for d in range(cotangent.ndim) if d < lead or rows.shape[d - lead] != cotangent.shape[d])


def _backward(
    cotangent: Tensor,
    x: Tensor,
    y: Tensor,
    products: Tensor,
    factor_x: Tensor,
    factor_y: Tensor,
    centered: bool,
    augment: float,
    needs_x: bool,
    needs_y: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients in x and y (an empty tensor for one that is not needed)."""
    with without_autocast(x.device):
        plain = (
            x.device.type == "cpu"
            and was_plain(factor_x)
            and plain_cotangent(cotangent, _summed_dimensions(cotangent, x), _summed_dimensions(cotangent, y))
        )
        if plain:
            return _plain_gradients(
                cotangent, x, y, products, factor_x, factor_y, centered, augment, needs_x, needs_y
            )
        return unit_gradients(cotangent, x, y, centered, augment, needs_x, needs_y)


def _plain_gradients(
    cotangent: Tensor,
    x: Tensor,
    y: Tensor,
    products: Tensor,
    factor_x: Tensor,
    factor_y: Tensor,
    centered: bool,
    augment: float,
    needs_x: bool,
    needs_y: bool,
) -> tuple[Tensor, Tensor]:
    dtype = product_dtype(x.dtype, x.device)
    values_x, values_y = x.to(dtype), y.to(dtype)
    if centered:
        plain_x = plain_rows(x, centered=True, augment=augment)
        plain_y = plain_rows(y, centered=True, augment=augment)
        assert plain_x is not None
        assert plain_y is not None
        values_x, values_y = plain_x.values, plain_y.values
    h = (cotangent * factor_x.squeeze(-1)).mul_(factor_y.squeeze(-1))
    gradient_x = gradient_y = x.new_empty(0)
    # The window leaves nothing to saturate.

    if products.numel():
        # u − v (v·u)/|v|²: v times its number first, then the matrix product on top of it.
        values_x, factor_x = values_x.squeeze(1), factor_x.squeeze(1)
        along = h * products
        if needs_x:
            along_x = along.sum(1, keepdim=True).mul_(factor_x).mul_(factor_x).neg_()
            gradient_x = _less_mean((values_x * along_x).addmm_(h, values_y), centered).unsqueeze(1)
        if needs_y:
            along_y = along.sum(0).unsqueeze(1).mul_(factor_y).mul_(factor_y).neg_()
            gradient_y = _less_mean((values_y * along_y).addmm_(h.mT, values_x), centered)
        return gradient_x, gradient_y

    def finish(u: Tensor, rows: Tensor, values: Tensor, factor: Tensor) -> Tensor:
        extra = augment**2 * h.sum_to_size(rows.shape[:-1]) if augment else None
        return _less_mean(project_(u, values, factor, extra), centered).to(rows.dtype)

    if needs_x:
        gradient_x = finish(_dot_adjoint_x(h, values_x, values_y, dtype), x, values_x, factor_x)
    if needs_y:
        gradient_y = finish(_dot_adjoint_y(h, values_x, values_y, dtype), y, values_y, factor_y)
    return gradient_x, gradient_y


def _less_mean(gradient: Tensor, centered: bool) -> Tensor:
    return gradient.sub_(gradient.mean(-1, keepdim=True)) if centered else gradient


def unit_gradients(
    cotangent: Tensor, x: Tensor, y: Tensor, centered: bool, augment: float, needs_x: bool, needs_y: bool
) -> tuple[Tensor, Tensor]:
    """The same for any input and cotangent; differentiable, so that second derivatives come from it."""
    dtype = product_dtype(x.dtype, x.device)
    unit_x = unit_rows(x, centered=centered, augment=augment)
    unit_y = unit_rows(y, centered=centered, augment=augment)
    cotangent = cotangent.to(accumulation_dtype(x.dtype))

    def scaled(rows: Tensor) -> tuple[Tensor, Tensor]:
        # Each row's sum is scaled by the largest cotangent that enters it.
        with torch.no_grad():
            dimensions = _summed_dimensions(cotangent, rows)
            largest = cotangent.detach().abs()
            largest = largest.amax(dimensions, keepdim=True) if dimensions else largest
            exponent = scale_exponent(largest)
            scale = power_of_two(-exponent, cotangent.dtype)
        return cotangent * scale, exponent.reshape((*rows.shape[:-1], 1))

    def finish(u: Tensor, h: Tensor, exponent: Tensor, rows: UnitRows, other: UnitRows) -> Tensor:
        along = (rows.values * u).sum(-1, keepdim=True)
        if rows.extra is not None and other.extra is not None:
            summed = (h.unsqueeze(-1) * other.extra).sum_to_size(along.shape)
            along = along + rows.extra * summed
        gradient = u - rows.values * along
        if centered:
            gradient = gradient - gradient.mean(-1, keepdim=True)
        gradient = scale_by_exponent(gradient * rows.inverse_norm, exponent - rows.exponent)
        return saturate(gradient, x.dtype)

    gradient_x = gradient_y = x.new_empty(0)
    if needs_x:
        h, exponent = scaled(x)
        u = _dot_adjoint_x(h, unit_x.values, unit_y.values, dtype)
        gradient_x = finish(u, h, exponent, unit_x, unit_y)
    if needs_y:
        h, exponent = scaled(y)
        u = _dot_adjoint_y(h, unit_x.values, unit_y.values, dtype)
        gradient_y = finish(u, h, exponent, unit_y, unit_x)
    return gradient_x, gradient_y


# Opaque to torch.compile: the graph stays whole, and the plain form stays open to compiled code.
_forward_op = torch.library.custom_op("cosnorm::cosine", contiguous_results(_forward), mutates_args=())
_backward_op = torch.library.custom_op(
    "cosnorm::cosine_backward", contiguous_results(_backward), mutates_args=()
)


@_forward_op.register_fake
def _(x: Tensor, y: Tensor, centered: bool, augment: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = accumulation_dtype(x.dtype)
    shape = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    factor_x, factor_y = (rows.new_empty((*rows.shape[:-1], 1), dtype=dtype) for rows in (x, y))
    products = x.new_empty(shape if _saves_products(x, y) else 0, dtype=dtype)
    return x.new_empty(shape), products, factor_x, factor_y


@_backward_op.register_fake
def _(
    cotangent: Tensor,
    x: Tensor,
    y: Tensor,
    products: Tensor,
    factor_x: Tensor,
    factor_y: Tensor,
    centered: bool,
    augment: float,
    needs_x: bool,
    needs_y: bool,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape if needs_x else 0), y.new_empty(y.shape if needs_y else 0)


class _Cosine(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, y: Tensor, centered: bool, augment: float) -> tuple[Tensor, ...]:
        operator = _forward_op if torch.compiler.is_compiling() else _forward
        return operator(x, y, centered, augment)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, y, ctx.centered, ctx.augment = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, y, *output[1:])

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, y, *saved = ctx.saved_tensors
        needs_x, needs_y = ctx.needs_input_grad[:2]
        options: Any = (ctx.centered, ctx.augment, needs_x, needs_y)
        if torch.compiler.is_compiling():
            gradients = _backward_op(cotangent, x, y, *saved, *options)
        elif torch.is_grad_enabled():
            # A second derivative, or a function transform, may follow.
            gradients = unit_gradients(cotangent, x, y, *options)
        else:
            gradients = _backward(cotangent, x, y, *saved, *options)
        return gradients[0] if needs_x else None, gradients[1] if needs_y else None, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, y: Tensor, centered: bool, augment: float
    ) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
        # Broadcasting does the rest, once the mapped dimension stands in front of all others.
        rank = max(rows.ndim - (dim is not None) for rows, dim in ((x, in_dims[0]), (y, in_dims[1])))

        def to_front(rows: Tensor, dim: int | None) -> Tensor:
            if dim is None:
                return rows
            rows = rows.movedim(dim, 0)
            return rows.reshape(rows.shape[0], *[1] * (rank + 1 - rows.ndim), *rows.shape[1:])

        output, products, factor_x, factor_y = _Cosine.apply(
            to_front(x, in_dims[0]), to_front(y, in_dims[1]), centered, augment
        )

        def like(factor: Tensor, rows: Tensor, dim: int | None) -> Tensor:
            if dim is None:
                return factor
            shape = rows.movedim(dim, 0).shape
            return factor.reshape(*shape[:-1], 1)

        factors = like(factor_x, x, in_dims[0]), like(factor_y, y, in_dims[1])
        mapped = [None if dim is None else 0 for dim in in_dims[:2]]
        # With a mapped dimension in front nothing is a matrix of products.
        return (output, products, *factors), (0, None, *mapped)
