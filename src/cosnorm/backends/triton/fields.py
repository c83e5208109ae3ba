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

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from cosnorm.backends.geometry import Geometry, empty_output, memory_format
from cosnorm.backends.triton.field_gradients import (
    filters_again,
    finish_images,
    images_again,
    prepare_field_gradients,
)
from cosnorm.backends.triton.field_passes import field_norms, fields_again, finish_fields, prepare_fields
from cosnorm.backends.triton.launch import COTANGENT_LIMIT, MOST, interpreting, launch, writable
from cosnorm.backends.triton.rows import project_more
from cosnorm.backends.triton.units import (
    FILTER_TILE,
    tile,
)
from cosnorm.norms import CONSTANT_EPS, NORM_LIMIT

_LIMIT = NORM_LIMIT[torch.float32]
# Places and channels of a tile of images, by whether the channels are last; fields of a tile; fields and
# filters of a tile of the epilogue; and what the rare kernels look at and compute at once.
_MAP_TILE = {False: (128, 4), True: (32, 32)}
_FIELDS, _FINISH_TILE, _GRADIENT_TILE = (
    128,
    {False: (128, 8), True: (32, 32)},
    {False: (128, 4), True: (32, 32)},
)
_LOOKED_AT, _AGAIN = 512, 16


def handles(x: Tensor, weight: Tensor, geometry: Geometry, centered: bool) -> bool:
    """Whether the kernels have these shapes and this layout: they have all that are not empty."""
    return x.numel() > 0


def _three(numbers: tuple[int, ...], missing: int) -> tuple[int, int, int]:
    first, second, third = (missing,) * (3 - len(numbers)) + tuple(numbers)
    return first, second, third


def _laid(x: Tensor) -> tuple[Tensor, bool]:
    """Images as they lie, or contiguous; and whether the channels are last."""
    x = x.detach()
    order = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    last = order is not None and not x.is_contiguous() and x.is_contiguous(memory_format=order)
    x = x if last else x.contiguous()
    return x.float() if x.dtype == torch.bfloat16 and interpreting() else x, last


class _Images(NamedTuple):
    """Images and filters as the kernels read them, and what these are told of the places."""

    x: Tensor
    weight: Tensor
    geometry: Geometry
    order: torch.memory_format  # of products and output
    rows: int  # samples times groups
    outputs: int  # fields of a row
    sizes: tuple[int, int, int]
    out_sizes: tuple[int, int, int]
    image_strides: tuple[int, int]  # of a channel, of a place
    weight_strides: tuple[int, int]  # of a channel, of a tap
    output_strides: tuple[int, int]  # of a filter, of a field
    image_last: bool
    window: dict[str, Any]

    @classmethod
    def of(cls, x: Tensor, weight: Tensor, geometry: Geometry) -> "_Images":
        order, shape = memory_format(x, weight), geometry.shape(x.shape, weight.shape)
        (x, image_last), (weight, weight_last) = _laid(x), _laid(weight)
        outputs, places, taps = (
            int(torch.Size(one).numel()) for one in (shape[2:], x.shape[2:], weight.shape[2:])
        )
        last = order != torch.contiguous_format
        return cls(
            x,
            weight,
            geometry,
            order,
            x.shape[0] * geometry.groups,
            outputs,
            _three(tuple(x.shape[2:]), 1),
            _three(tuple(shape[2:]), 1),
            (1, x.shape[1]) if image_last else (places, 1),
            (1, weight.shape[1]) if weight_last else (taps, 1),
            (1, shape[1]) if last else (outputs, 1),
            image_last,
            {
                "KERNEL": _three(geometry.kernel, 1),
                "STRIDE": _three(geometry.stride, 1),
                "PAD": _three(geometry.padding, 0),
                "DILATION": _three(geometry.dilation, 1),
            },
        )

    @property
    def size(self) -> int:
        """Numbers of a field, and of a filter."""
        return self.weight[0].numel()

    @property
    def filters(self) -> int:
        """Those of a group."""
        return len(self.weight) // self.geometry.groups

    @property
    def places(self) -> int:
        """Those of an image."""
        return self.x[0, 0].numel()

    def shape_of_filters(self) -> tuple[dict[str, int], int]:
        """Tiles of filters as rows, and how many programs they are."""
        shape = tile(len(self.weight), self.size, FILTER_TILE)
        return shape, triton.cdiv(len(self.weight), shape["ROWS"])

    def split(self, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """Norms (and means) of the filters, and of the fields."""
        number = len(self.weight)
        both = len(statistics) // (number + self.rows * self.outputs)
        return statistics[: both * number], statistics[both * number :]

    def working(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Memory: images for the convolution (they themselves, if they serve), unit filters and their sums.

        A sum of float16 products may leave its range: they are taken in float32, where TF32 holds what
        enters them exactly.
        """
        wide = torch.empty_like(self.x, dtype=torch.float32) if dtype == torch.float16 else self.x
        unit = torch.empty_like(self.weight, dtype=wide.dtype)
        sums = torch.empty(len(self.weight), dtype=torch.float32, device=self.x.device)
        return wide, unit, sums


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
    images = _Images.of(x, weight, geometry)
    of_filters, of_fields = images.split(statistics)
    wide, unit, sums = images.working(dtype)
    rows, groups = images.rows, geometry.groups
    number = 2 if centered else 1
    maps = torch.empty((number, rows, images.places), dtype=torch.float64, device=x.device)
    extremes = (
        torch.empty((2, rows, images.places), dtype=torch.float32, device=x.device) if centered else maps
    )
    bound = CONSTANT_EPS * eps
    across, deep = _MAP_TILE[images.image_last]
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
        (rows * triton.cdiv(images.outputs, _FIELDS),),
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
        BLOCK=_FIELDS,
    )
    products = geometry.convolve(wide, unit).contiguous(memory_format=images.order)
    output = torch.empty_like(like, dtype=writable((), dtype, x.device).dtype)
    across, deep = _FINISH_TILE[images.order != torch.contiguous_format]
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
        (rows * triton.cdiv(images.outputs, _LOOKED_AT),),
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
        LIMIT=_LIMIT,
        LOOK=_LOOKED_AT,
        TILE=_AGAIN,
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
    dtype = x.dtype
    known = saved(x, weight, geometry, centered, augment)[1].shape
    if statistics.dtype != torch.float64 or statistics.shape != known or products.shape != cotangent.shape:
        options: Any = {"centered": centered, "augment": augment, "keep": True}
        _, products, statistics = cosines(x, weight, geometry, **options)
    images = _Images.of(x, weight, geometry)
    of_filters, of_fields = images.split(statistics)
    rows, groups = images.rows, geometry.groups
    cotangent, products = (
        one.detach().contiguous(memory_format=images.order) for one in (cotangent, products)
    )
    if interpreting() and dtype == torch.bfloat16:
        cotangent, products = cotangent.float(), products.float()
    wide, unit, sums = images.working(dtype)
    h = torch.empty_like(cotangent, dtype=wide.dtype)
    number = 2 if centered else 1
    along = torch.empty((number, rows, images.outputs), dtype=torch.float32, device=x.device)
    rare = torch.empty((rows, images.outputs), dtype=torch.int8, device=x.device)
    across, deep = _GRADIENT_TILE[images.order != torch.contiguous_format]
    flags_of_row = triton.cdiv(images.outputs, across)
    flags = torch.empty((rows, flags_of_row), dtype=torch.int32, device=x.device)
    shape, programs = images.shape_of_filters()
    copies = triton.cdiv(x.numel(), 1024) if dtype == torch.float16 else 0
    launch(
        prepare_field_gradients,
        (rows * flags_of_row + programs + copies,),
        cotangent,
        products,
        of_fields,
        h,
        along,
        rare,
        flags,
        images.x,
        wide,
        images.weight,
        unit,
        of_filters,
        sums,
        rows,
        groups,
        images.filters,
        images.outputs,
        *images.output_strides,
        len(weight),
        images.size,
        x.numel(),
        programs,
        float(augment),
        CENTERED=centered,
        WIDE=dtype == torch.float16,
        LIMIT=_LIMIT,
        COTANGENT_LIMIT=COTANGENT_LIMIT,
        FIELDS=across,
        FILTERS=deep,
        **shape,
    )
    through, sums_of_filters = geometry.adjoints(h, wide, unit, needs)
    # A scaler looks for inf in float16; the other types saturate.
    limit = torch.inf if dtype == torch.float16 else torch.finfo(dtype).max
    into_x = into_w = x.new_empty(0)
    working = writable((), dtype, x.device).dtype
    if through is not None:
        into_x = torch.empty_like(images.x, dtype=working)
        across, deep = _MAP_TILE[images.image_last]
        launch(
            finish_images,
            (rows * triton.cdiv(images.places, across),),
            _in_order(through, images.x),
            images.x,
            into_x,
            along,
            rows,
            groups,
            weight.shape[1],
            *images.image_strides,
            limit,
            *images.sizes,
            *images.out_sizes,
            **images.window,
            CENTERED=centered,
            PLACES=across,
            CHANNELS=deep,
        )
        launch(
            images_again,
            (rows * triton.cdiv(images.places, _LOOKED_AT),),
            into_x,
            images.x,
            cotangent,
            products,
            unit,
            of_fields,
            rare,
            flags,
            rows,
            groups,
            weight.shape[1],
            images.filters,
            *images.image_strides,
            *images.weight_strides,
            *images.output_strides,
            flags_of_row,
            limit,
            *images.sizes,
            *images.out_sizes,
            registers=MOST,
            **images.window,
            CENTERED=centered,
            LOOK=_LOOKED_AT,
            TILE=_AGAIN,
        )
    if sums_of_filters is not None:
        into_w = torch.empty_like(images.weight, dtype=working)
        more = torch.empty(images.weight.shape, dtype=torch.float64, device=x.device)
        more_appended = torch.empty(len(weight), dtype=torch.float64, device=x.device)
        columns = 4 * _AGAIN
        launch(
            filters_again,
            (triton.cdiv(images.size, columns), triton.cdiv(images.filters, _AGAIN), groups),
            more,
            more_appended,
            images.x,
            cotangent,
            of_fields,
            rare,
            flags,
            rows,
            groups,
            weight.shape[1],
            images.filters,
            images.size,
            *images.image_strides,
            *images.weight_strides,
            *images.output_strides,
            flags_of_row,
            *images.sizes,
            *images.out_sizes[1:],
            images.outputs,
            registers=MOST,
            **images.window,
            CENTERED=centered,
            LOOK=_LOOKED_AT,
            TILE=_AGAIN,
            COLUMNS=columns,
        )
        appended = more_appended
        if augment:
            appended = h.sum((0, *range(2, h.ndim)), dtype=torch.float32)
        project_more(
            _in_order(sums_of_filters, images.weight),
            more,
            unit,
            into_w,
            of_filters,
            (appended, more_appended),
            centered=centered,
            augment=augment,
            limit=limit,
        )
    return into_x.to(dtype), into_w.to(dtype)


def _in_order(gradient: Tensor, like: Tensor) -> Tensor:
    """A gradient in the memory order of what it belongs to, as convolutions mostly give it."""
    if gradient.stride() == like.stride():
        return gradient
    return torch.empty_like(like, dtype=gradient.dtype).copy_(gradient)
