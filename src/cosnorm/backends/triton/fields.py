"""Cosines of receptive fields, and their gradients, around the vendor's convolutions.

Forward: one launch makes unit filters ŵ and, in one pass over the images, maps of Σ_c x² (centered: of Σ_c x
and of the extremes, too) in float64; a field's norm and mean are sums of the maps over its window; the
images as they are enter the convolution with ŵ; an epilogue divides by the norms. A centered filter does not
see the mean of a field but by its own rounding, which the epilogue takes off: ŵ·(x − μ) = ŵ·x − μ Σŵ.

Backward: with h = g / |x| and c the cosines, k = Σ h c / |x| over the filters of a group,

    ∂/∂x = Σ h ŵ − Σ k (x − μ)   over the windows that a place is in,     u = Σ h (x − μ),

and a filter receives the projection of u as any row does (`project` of the rows). h, k and ŵ are one launch.

Fields whose norms, or whose cotangents, float32 could not hold are computed again in float64, in kernels of
their own whose programs end at once where there are none: each field is exact for itself. One, two and three
dimensions are the same kernels (missing ones have size 1), and images with the channels last are read as they
lie.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from cosnorm.backends.geometry import Geometry, empty_output
from cosnorm.backends.triton import fields_back
from cosnorm.backends.triton.field_passes import field_norms, finish_fields, prepare_fields
from cosnorm.backends.triton.field_rare import fields_again
from cosnorm.backends.triton.images import AGAIN, FIELDS, FINISH_TILE, LIMIT, LOOKED_AT, MAP_TILE, Images
from cosnorm.backends.triton.launch import MOST, launch, writable
from cosnorm.norms import CONSTANT_EPS


def handles(x: Tensor, weight: Tensor, geometry: Geometry, centered: bool) -> bool:
    """Whether the kernels have these shapes and this layout: they have all that are not empty."""
    return x.numel() > 0


def saved(
    x: Tensor, weight: Tensor, geometry: Geometry, centered: bool, augment: float
) -> tuple[Tensor, Tensor]:
    """Memory for the cosines as exact as products are; and for norms (and means) of filters and fields."""
    dtype = torch.float32 if x.dtype == torch.float16 else x.dtype
    products = empty_output(x, weight, geometry, dtype)
    samples, _, *places = products.shape
    number = weight.shape[0]
    fields = samples * geometry.groups
    for length in places:
        fields = fields * length
    return products, x.new_empty((2 if centered else 1) * (number + fields), dtype=torch.float64)


def folded(x: Tensor, weight: Tensor, constant: Tensor | None, geometry: Geometry, **options: Any) -> None:
    """There is no kernel for filters that are unit vectors: torch's operators compute."""


def cosines(
    x: Tensor, weight: Tensor, geometry: Geometry, *, centered: bool, augment: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Cosine of each receptive field with each filter, (N, O, *T); the same kept; and norms and means."""
    dtype, eps = x.dtype, torch.finfo(x.dtype).eps
    like = empty_output(x, weight, geometry, dtype)
    statistics = saved(x, weight, geometry, centered, augment)[1]
    images = Images.of(x, weight, geometry)
    of_filters, of_fields = images.split(statistics)
    wide, unit, sums = images.working(dtype)
    rows, groups = images.rows, geometry.groups
    number = 2 if centered else 1
    maps = torch.empty((number, rows, images.places), dtype=torch.float64, device=x.device)
    extremes = (
        torch.empty((2, rows, images.places), dtype=torch.float32, device=x.device) if centered else maps
    )
    bound = CONSTANT_EPS * eps
    across, deep = MAP_TILE[images.image_last]
    shape, programs = images.shape_of_filters()
    launch(
        prepare_fields,
        (rows * triton.cdiv(images.places, across) + programs,),
        images.x,
        wide,
        maps,
        extremes,
        images.weight,
        unit,
        of_filters,
        sums,
        rows,
        groups,
        weight.shape[1],
        images.places,
        *images.image_strides,
        len(weight),
        images.size,
        float(augment),
        bound,
        CENTERED=centered,
        WIDE=dtype == torch.float16,
        PLACES=across,
        CHANNELS=deep,
        **shape,
    )
    launch(
        field_norms,
        (rows * triton.cdiv(images.outputs, FIELDS),),
        maps,
        extremes,
        of_fields,
        rows,
        images.size,
        float(augment),
        bound,
        *images.sizes,
        *images.out_sizes[1:],
        images.outputs,
        **images.window,
        CENTERED=centered,
        BLOCK=FIELDS,
    )
    products = geometry.convolve(wide, unit).contiguous(memory_format=images.order)
    output = torch.empty_like(like, dtype=writable((), dtype, x.device).dtype)
    across, deep = FINISH_TILE[images.order != torch.contiguous_format]
    launch(
        finish_fields,
        (rows * triton.cdiv(images.outputs, across), triton.cdiv(images.filters, deep)),
        products,
        output,
        of_fields,
        of_filters,
        sums,
        rows,
        groups,
        images.filters,
        images.outputs,
        *images.output_strides,
        float(augment),
        CENTERED=centered,
        AUGMENTED=bool(augment),
        KEEP=keep,
        FIELDS=across,
        FILTERS=deep,
    )
    launch(
        fields_again,
        (rows * triton.cdiv(images.outputs, LOOKED_AT),),
        products,
        output,
        images.x,
        unit,
        of_fields,
        of_filters,
        rows,
        groups,
        weight.shape[1],
        images.filters,
        *images.image_strides,
        *images.weight_strides,
        *images.output_strides,
        float(augment),
        *images.sizes,
        *images.out_sizes[1:],
        images.outputs,
        registers=MOST,
        **images.window,
        CENTERED=centered,
        KEEP=keep,
        LIMIT=LIMIT,
        LOOK=LOOKED_AT,
        TILE=AGAIN,
    )
    kept = products.to(torch.float32 if dtype == torch.float16 else dtype) if keep else x.new_empty(0)
    return output.to(dtype), kept, statistics


def gradients(
    cotangent: Tensor,
    x: Tensor,
    weight: Tensor,
    products: Tensor,
    statistics: Tensor,
    geometry: Geometry,
    *,
    centered: bool,
    augment: float,
    needs: list[bool],
) -> tuple[Tensor, Tensor]:
    """The gradients in x and in the weight; an empty tensor for one that is not needed."""
    known = saved(x, weight, geometry, centered, augment)[1].shape
    if statistics.dtype != torch.float64 or statistics.shape != known or products.shape != cotangent.shape:
        _, products, statistics = cosines(x, weight, geometry, keep=True, centered=centered, augment=augment)
    options: Any = {"centered": centered, "augment": augment, "needs": needs}
    return fields_back.gradients(cotangent, x, weight, products, statistics, geometry, **options)
