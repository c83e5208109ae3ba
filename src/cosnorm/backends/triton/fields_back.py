"""The gradients of the cosines of receptive fields; `fields.py` says what is computed."""

import torch
import triton
from torch import Tensor

from cosnorm.backends.geometry import Geometry
from cosnorm.backends.triton.field_gradients import finish_images, prepare_field_gradients
from cosnorm.backends.triton.field_rare import filters_again, images_again
from cosnorm.backends.triton.images import AGAIN, GRADIENT_TILE, LIMIT, LOOKED_AT, MAP_TILE, Images
from cosnorm.backends.triton.launch import COTANGENT_LIMIT, MOST, interpreting, launch, writable
from cosnorm.backends.triton.rows import project_more


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
    """The gradients in x and in the weight, from the cosines and statistics of `fields.cosines`."""
    dtype = x.dtype
    images = Images.of(x, weight, geometry)
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
    across, deep = GRADIENT_TILE[images.order != torch.contiguous_format]
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
        LIMIT=LIMIT,
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
        across, deep = MAP_TILE[images.image_last]
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
            (rows * triton.cdiv(images.places, LOOKED_AT),),
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
            LOOK=LOOKED_AT,
            TILE=AGAIN,
        )
    if sums_of_filters is not None:
        into_w = torch.empty_like(images.weight, dtype=working)
        more = torch.empty(images.weight.shape, dtype=torch.float64, device=x.device)
        more_appended = torch.empty(len(weight), dtype=torch.float64, device=x.device)
        columns = 4 * AGAIN
        launch(
            filters_again,
            (triton.cdiv(images.size, columns), triton.cdiv(images.filters, AGAIN), groups),
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
            LOOK=LOOKED_AT,
            TILE=AGAIN,
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
