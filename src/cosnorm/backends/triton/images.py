"""Images and filters as the kernels read them: how they lie, and how they are cut into tiles."""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from cosnorm.backends.geometry import Geometry, memory_format
from cosnorm.backends.triton.launch import interpreting
from cosnorm.backends.triton.units import FILTER_TILE, tile
from cosnorm.norms import NORM_LIMIT

LIMIT = NORM_LIMIT[torch.float32]
# Places and channels of a tile of images, by whether the channels are last; fields of a tile; fields and
# filters of a tile of the epilogue; and what the rare kernels look at and compute at once.
MAP_TILE = {False: (128, 4), True: (32, 32)}
FIELDS = 128
FINISH_TILE = {False: (128, 8), True: (32, 32)}
GRADIENT_TILE = {False: (128, 4), True: (32, 32)}
LOOKED_AT, AGAIN = 512, 16


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


class Images(NamedTuple):
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
    def of(cls, x: Tensor, weight: Tensor, geometry: Geometry) -> "Images":
        """What a call has."""
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
