"""The cosine of every receptive field with every filter, and its closed-form gradient.

With a field x of group γ, a filter w and the cotangent g of cos = w·x / (|w||x|), eqs. 9-12 read

    ∂/∂x = Σ h w − k x,   h = g / (|w||x|),   k = Σ h (w·x) / |x|²,

the sums over the filters of γ. Summed over overlapping fields that is a transposed convolution of h with w,
less x times a box filter of k: no field is ever unfolded. The products w·x are saved rather than the output,
so that an in-place ReLU may follow, as after torch's own layers.
"""

from typing import Any

import torch
from torch import Tensor

from cosnorm.functional.autocast import without_autocast
from cosnorm.functional.fields import Fields, Geometry, plain_fields, wide_fields
from cosnorm.functional.norms import (
    PlainRows,
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


def cosine_fields(x: Tensor, weight: Tensor, geometry: Geometry, *, centered: bool, augment: float) -> Tensor:
    """Cos of each field of x with each filter: (N, C, *S), (O, C/G, *K) → (N, O, *T).

    The arguments must be valid: the public functions check.
    """
    if torch.compiler.is_exporting():
        return _wide_cosine(x, weight, geometry, centered, augment)[0].to(x.dtype)
    output: Tensor = _CosineFields.apply(x, weight, *_listed(geometry), centered, augment)[0]
    return output


def _listed(geometry: Geometry) -> tuple[list[int], list[int], list[int], int]:
    # The kernel is that of the weight.
    return list(geometry.stride), list(geometry.padding), list(geometry.dilation), geometry.groups


def _geometry(
    weight: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> Geometry:
    return Geometry(tuple(weight.shape[2:]), tuple(stride), tuple(padding), tuple(dilation), groups)


def _by_filter(output: Tensor, groups: int) -> Tensor:
    """(N, O, *T) → (N, G, O/G, *T), beside which a number for each field is (N, G, 1, *T)."""
    return output.unflatten(1, (groups, output.shape[1] // groups))


def _beside(filters: Tensor, rank: int) -> Tensor:
    """A number for each filter, (O, 1), beside (N, O, *T)."""
    return filters.reshape(1, -1, *[1] * rank)


def _plain_products(fields: Fields, filters: PlainRows, shape: torch.Size) -> Tensor:
    products = fields.geometry.convolve(fields.values, filters.values.to(fields.values.dtype).reshape(shape))
    return _without_constant(products, fields)


def _without_constant(products: Tensor, fields: Fields) -> Tensor:
    if fields.constant is None:
        return products
    groups = fields.geometry.groups
    return _by_filter(products, groups).masked_fill(fields.constant.unsqueeze(2), 0).flatten(1, 2)


def _forward(
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    centered: bool,
    augment: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The cosines, the products w·x, 1/|x| for each field and 1/|w| for each filter.

    On a CPU it looks at the data. Where the plain form cannot be right, the factors are infinite, which
    tells the backward pass.
    """
    geometry = _geometry(weight, stride, padding, dilation, groups)
    with without_autocast(x.device):
        if x.device.type == "cpu":
            filters = plain_rows(weight.flatten(1), centered=centered, augment=augment)
            fields = plain_fields(x, geometry, centered=centered, augment=augment) if filters else None
            if filters and fields:
                products = _plain_products(fields, filters, weight.shape)
                output = products.to(accumulation_dtype(x.dtype)) * _beside(filters.factor, geometry.rank)
                if augment:
                    output.add_(augment**2 * _beside(filters.factor, geometry.rank))
                _by_filter(output, groups).mul_(fields.factor.unsqueeze(2))
                return output.clamp_(-1, 1).to(x.dtype), products, fields.factor, filters.factor
        output, fields, _ = _wide_cosine(x, weight, geometry, centered, augment)
        accumulation = accumulation_dtype(x.dtype)
        return (
            output.to(x.dtype),
            torch.zeros_like(output, dtype=product_dtype(x.dtype, x.device)),
            not_plain(fields.factor.to(accumulation)),
            not_plain(weight.new_empty((weight.shape[0], 1), dtype=accumulation)),
        )


def _wide_rows(x: Tensor, weight: Tensor, fields: Fields, centered: bool, augment: float) -> UnitRows:
    rows = weight.to(fields.values.dtype).flatten(1)
    return unit_rows(rows, centered=centered, augment=augment, stored=x.dtype)


def _wide_products(fields: Fields, filters: UnitRows, shape: torch.Size) -> Tensor:
    products = fields.geometry.convolve(fields.values, filters.values.reshape(shape))
    products = _without_constant(products, fields)
    if filters.extra is not None:
        products = products + fields.extra * _beside(filters.extra, fields.geometry.rank)
    return products


def _wide_cosine(
    x: Tensor, weight: Tensor, geometry: Geometry, centered: bool, augment: float
) -> tuple[Tensor, Fields, UnitRows]:
    fields = wide_fields(x, geometry, centered=centered, augment=augment)
    filters = _wide_rows(x, weight, fields, centered, augment)
    products = _wide_products(fields, filters, weight.shape)
    output = _by_filter(products, geometry.groups) * fields.factor.unsqueeze(2)
    return output.flatten(1, 2).clamp(-1, 1), fields, filters


def _backward(
    cotangent: Tensor,
    x: Tensor,
    weight: Tensor,
    products: Tensor,
    factor_x: Tensor,
    factor_w: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    centered: bool,
    augment: float,
    needs_x: bool,
    needs_w: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients in x and in the weight (an empty tensor for one that is not needed)."""
    geometry = _geometry(weight, stride, padding, dilation, groups)
    others = tuple(range(2, x.ndim))
    with without_autocast(x.device):
        plain = (
            x.device.type == "cpu"
            and was_plain(factor_x)
            and was_plain(factor_w)
            and plain_cotangent(cotangent, (1, *others), (0, *others))
        )
        if not plain:
            return wide_gradients(cotangent, x, weight, geometry, centered, augment, needs_x, needs_w)
        if centered:
            filters = plain_rows(weight.flatten(1), centered=True, augment=augment)
            fields = plain_fields(x, geometry, centered=True, augment=augment)
            assert filters is not None
            assert fields is not None
        else:
            dtype = product_dtype(x.dtype, x.device)
            filters = PlainRows(weight.flatten(1).to(dtype), factor_w)
            fields = Fields(x.to(dtype), geometry, factor_x, None, None, augment, None)
        h = cotangent * _beside(factor_w, geometry.rank)
        h = (_by_filter(h, groups) * factor_x.unsqueeze(2)).flatten(1, 2)
        gradient_x = gradient_w = x.new_empty(0)
        if needs_x:
            along = products + augment**2 if augment else products
            values_w = filters.values.reshape(weight.shape)
            gradient_x = geometry.crop_to(_field_gradient(h, along, fields, values_w), x).to(x.dtype)
        if needs_w:
            u = _filter_sums(h, fields, weight.shape, centered)
            extra = augment**2 * h.sum((0, *others)) if augment else None
            gradient_w = project_(u, filters.values, factor_w, extra)
            if centered:
                gradient_w -= gradient_w.mean(-1, keepdim=True)
            gradient_w = gradient_w.to(x.dtype)
        return gradient_x, gradient_w.reshape(weight.shape) if needs_w else gradient_w


def _field_gradient(h: Tensor, products: Tensor, fields: Fields, weight: Tensor) -> Tensor:
    """Σ over the fields of h w − k (x − μ), in the shape of the prepared values."""
    geometry, values = fields.geometry, fields.values
    along = _by_filter(h * products, geometry.groups).sum(2) * fields.factor.square()
    if fields.constant is not None:
        along = along.masked_fill(fields.constant, 0)
    through = geometry.input_gradient(values.shape, weight.to(values.dtype), h.to(values.dtype))
    through = _by_filter(through, geometry.groups).to(along.dtype)
    spread = geometry.box_adjoint(along, values.shape).unsqueeze(2)
    gradient = through - _by_filter(values, geometry.groups) * spread
    if fields.mean is not None:
        means = geometry.box_adjoint(along * fields.mean.to(along.dtype), values.shape)
        gradient = gradient + means.unsqueeze(2)
    return gradient.flatten(1, 2)


def _filter_sums(h: Tensor, fields: Fields, shape: torch.Size, centered: bool) -> Tensor:
    """Σ over the fields of h x for each filter, as rows (O, C/G·K); centered as the filters are."""
    values = fields.values
    h = _without_constant(h, fields)
    sums = fields.geometry.weight_gradient(values, shape, h.to(values.dtype)).flatten(1).to(h.dtype)
    return sums - sums.mean(-1, keepdim=True) if centered else sums


def wide_gradients(
    cotangent: Tensor,
    x: Tensor,
    weight: Tensor,
    geometry: Geometry,
    centered: bool,
    augment: float,
    needs_x: bool,
    needs_w: bool,
) -> tuple[Tensor, Tensor]:
    """The same for any input and cotangent; differentiable, so that second derivatives come from it."""
    fields = wide_fields(x, geometry, centered=centered, augment=augment)
    filters = _wide_rows(x, weight, fields, centered, augment)
    cotangent = cotangent.to(fields.values.dtype)
    others = tuple(range(2, x.ndim))
    assert fields.exponent is not None

    def scaled(dimensions: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        # Each sum is scaled by the largest cotangent that enters it.
        with torch.no_grad():
            if cotangent.numel() == 0:
                exponent = torch.zeros_like(cotangent.sum(dimensions, keepdim=True), dtype=torch.long)
            else:
                exponent = scale_exponent(cotangent.detach().abs().amax(dimensions, keepdim=True))
            scale = power_of_two(-exponent, cotangent.dtype)
        h = _by_filter(cotangent * scale, geometry.groups) * fields.factor.unsqueeze(2)
        return h.flatten(1, 2), exponent

    gradient_x = gradient_w = x.new_empty(0)
    if needs_x:
        h, exponent = scaled((1, *others))
        products = _wide_products(fields, filters, weight.shape)
        gradient = _field_gradient(h, products, fields, filters.values.reshape(weight.shape))
        gradient = scale_by_exponent(gradient, exponent - fields.exponent)
        gradient_x = saturate(geometry.crop_to(gradient, x), x.dtype)
    if needs_w:
        h, exponent = scaled((0, *others))
        u = _filter_sums(h, fields, weight.shape, centered)
        along = (filters.values * u).sum(-1, keepdim=True)
        if filters.extra is not None:
            along = along + filters.extra * (h * fields.extra).sum((0, *others)).unsqueeze(1)
        gradient = u - filters.values * along
        if centered:
            gradient = gradient - gradient.mean(-1, keepdim=True)
        exponent = exponent.reshape(-1, 1) - filters.exponent
        gradient = scale_by_exponent(gradient * filters.inverse_norm, exponent)
        gradient_w = saturate(gradient, x.dtype).reshape(weight.shape)
    return gradient_x, gradient_w


# Opaque to torch.compile: the graph stays whole, and the plain form stays open to compiled code.
_forward_op = torch.library.custom_op("cosnorm::cosine_fields", contiguous_results(_forward), mutates_args=())
_backward_op = torch.library.custom_op(
    "cosnorm::cosine_fields_backward", contiguous_results(_backward), mutates_args=()
)


@_forward_op.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    centered: bool,
    augment: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = _geometry(weight, stride, padding, dilation, groups).convolve(x, weight).shape
    output = x.new_empty(shape)
    dtype = accumulation_dtype(x.dtype)
    return (
        output,
        torch.empty_like(output, dtype=product_dtype(x.dtype, x.device)),
        output.new_empty((output.shape[0], groups, *output.shape[2:]), dtype=dtype),
        weight.new_empty((weight.shape[0], 1), dtype=dtype),
    )


@_backward_op.register_fake
def _(
    cotangent: Tensor,
    x: Tensor,
    weight: Tensor,
    products: Tensor,
    factor_x: Tensor,
    factor_w: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    centered: bool,
    augment: float,
    needs_x: bool,
    needs_w: bool,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape if needs_x else 0), weight.new_empty(weight.shape if needs_w else 0)


class _CosineFields(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
        centered: bool,
        augment: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        operator: Any = _forward_op if torch.compiler.is_compiling() else _forward
        return operator(x, weight, stride, padding, dilation, groups, centered, augment)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.options = inputs[2:]
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs[:2], *output[1:])

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *saved = ctx.saved_tensors
        needs = ctx.needs_input_grad[:2]
        if torch.compiler.is_compiling():
            gradients = _backward_op(cotangent, x, weight, *saved, *ctx.options, *needs)
        elif torch.is_grad_enabled():
            # A second derivative, or a function transform, may follow.
            *places, centered, augment = ctx.options
            geometry = _geometry(weight, *places)
            gradients = wide_gradients(cotangent, x, weight, geometry, centered, augment, *needs)
        else:
            gradients = _backward(cotangent, x, weight, *saved, *ctx.options, *needs)
        found = [gradient if needed else None for gradient, needed in zip(gradients, needs, strict=True)]
        return *found, None, None, None, None, None, None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        x: Tensor,
        weight: Tensor,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
        centered: bool,
        augment: float,
    ) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
        """Fold the mapped dimension into the samples (x alone is mapped) or into the groups."""
        size = info.batch_size
        dim_x, dim_w = in_dims[:2]
        options = (stride, padding, dilation)
        if dim_x is not None:
            x = x.movedim(dim_x, 0)
        if dim_w is None:
            outputs = _CosineFields.apply(x.flatten(0, 1), weight, *options, groups, centered, augment)
            return tuple(
                o if position == 3 else o.unflatten(0, (size, -1)) for position, o in enumerate(outputs)
            ), (0, 0, 0, None)
        weight = weight.movedim(dim_w, 0)
        if dim_x is not None:
            x = x.movedim(0, 1).flatten(1, 2)
            outputs = _CosineFields.apply(x, weight.flatten(0, 1), *options, size * groups, centered, augment)
            by_sample = [o.unflatten(1, (size, -1)).movedim(1, 0) for o in outputs[:3]]
            return (*by_sample, outputs[3].unflatten(0, (size, -1))), (0, 0, 0, 0)
        # The filters of one group, of all the mapped weights, stand together.
        filters = weight.unflatten(1, (groups, -1)).movedim(1, 0)
        outputs = _CosineFields.apply(x, filters.flatten(0, 2), *options, groups, centered, augment)
        sorted_back = [o.unflatten(1, (groups, size, -1)).movedim(2, 0).flatten(2, 3) for o in outputs[:2]]
        factor_w = outputs[3].unflatten(0, (groups, size, -1)).movedim(1, 0).flatten(1, 2)
        return (*sorted_back, outputs[2], factor_w), (0, 0, None, 0)
