"""The compiled passes over receptive fields on tensors: float32 images of one or two dimensions on a CPU.

Images are contiguous, or, with one group, contiguous with the channels last; nothing is checked here. What
looks at the data returns None where the plain form could be wrong.
"""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from cosnorm.kernels.compiled import CONSTANT, COTANGENT_LIMIT, LIMIT, library


class Windows:
    """Where the receptive fields lie, as the library reads it.

    Args:
        shape: sizes of the map, one or two.
        fields: numbers of receptive fields.
        kernel: as the following ones, of torch's convolution.
        stride: numbers, one for each dimension.
        padding: the same.
        dilation: the same.
        groups: of channels and of filters.
        last: the channels come last in the memory.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        fields: tuple[int, ...],
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
        last: bool,
    ) -> None:
        neutral = (1, 1, 1, 1, 0, 1)
        numbers = [
            number
            for one, values in zip(neutral, (shape, fields, kernel, stride, padding, dilation), strict=True)
            for number in ((one, *values) if len(values) == 1 else values)
        ]
        self._array = (ctypes.c_longlong * 12)(*numbers)
        self.address = ctypes.addressof(self._array)
        self.fields, self.groups, self.last = numbers[2] * numbers[3], groups, last


class Prepared(NamedTuple):
    """What the passes know of filters and fields before the convolution.

    filters: what enters the convolution: the weight, or the weight less the means of its filters.
    factors: 1/√(|vector|² + extra), 0 for zero vectors: of the filters, then of the fields.
    mean: of each field; None where nothing is centered.
    constant: which fields count as zero although their values are not (bytes); None: no such field.
    """

    filters: Tensor
    factors: Tensor
    mean: Tensor | None = None
    constant: Tensor | None = None


def prepare_fields(
    x: Tensor, weight: Tensor, windows: Windows, extra: float, *, folded: bool = False
) -> Prepared | None:
    """The filters and fields as they are. Folded, the filters are unit vectors already."""
    planes, filters = x.shape[0] * windows.groups, weight.shape[0]
    factors = torch.empty(filters + planes * windows.fields)
    fine = library().cosnorm_prepare_fields(
        x.data_ptr(),
        0 if folded else weight.data_ptr(),
        planes,
        weight.shape[1],
        windows.address,
        windows.last,
        filters,
        extra,
        LIMIT,
        factors.data_ptr(),
        torch.get_num_threads(),
    )
    return Prepared(weight, factors) if fine else None


def prepare_centered(
    x: Tensor, weight: Tensor, windows: Windows, extra: float, *, folded: bool = False
) -> Prepared | None:
    """Filters and fields less their means. Folded, the filters are unit vectors of mean 0 already.

    None, too, for data that lies so close together that a shift should come first (it is exact then).
    """
    planes, filters = x.shape[0] * windows.groups, weight.shape[0]
    fields = planes * windows.fields
    centered = weight if folded else torch.empty_like(weight)
    factors, mean = torch.empty(filters + fields), torch.empty(fields)
    constant = torch.empty(fields, dtype=torch.uint8)
    found = library().cosnorm_prepare_centered(
        x.data_ptr(),
        0 if folded else weight.data_ptr(),
        planes,
        weight.shape[1],
        windows.address,
        windows.last,
        filters,
        extra,
        LIMIT,
        weight[0].numel() * CONSTANT,
        centered.data_ptr(),
        factors.data_ptr(),
        mean.data_ptr(),
        constant.data_ptr(),
        torch.get_num_threads(),
    )
    return Prepared(centered, factors, mean, constant if found == 2 else None) if found else None


def clear_fields(values: Tensor, constant: Tensor, windows: Windows) -> Tensor:
    """The values of images (N, O, *T), or numbers of fields, with zeros for the constant fields, in place."""
    planes = len(constant) // windows.fields
    library().cosnorm_clear_fields(
        values.data_ptr(),
        constant.data_ptr(),
        planes,
        values.numel() // len(constant),
        windows.fields,
        windows.last,
        torch.get_num_threads(),
    )
    return values


def finish_fields(
    products: Tensor, factors: Tensor, windows: Windows, extra: float, output: Tensor
) -> Tensor:
    """The cosines (products + extra) · factor_x · factor_w in [−1, 1], into `output` or in place."""
    samples, filters = products.shape[:2]
    addresses = (
        products.data_ptr(),
        extra,
        factors.data_ptr() + 4 * filters,
        factors.data_ptr(),
        output.data_ptr(),
    )
    groups, fields, threads = windows.groups, windows.fields, torch.get_num_threads()
    if windows.last:
        library().cosnorm_finish_rows(*addresses, samples * fields, filters, threads)
    else:
        library().cosnorm_finish_fields(
            *addresses, samples * groups, groups, filters // groups, fields, threads
        )
    return output


def weigh_fields(
    cotangent: Tensor, products: Tensor, factors: Tensor, windows: Windows, extra: float
) -> tuple[Tensor, Tensor] | None:
    """H = g f_x f_w, and −f² Σ h (p + extra) of each filter, then of each field."""
    h, along = torch.empty_like(products), torch.empty_like(factors)
    samples, filters = products.shape[:2]
    fine = library().cosnorm_weigh_fields(
        cotangent.data_ptr(),
        products.data_ptr(),
        extra,
        factors.data_ptr(),
        samples,
        windows.groups,
        filters // windows.groups,
        windows.fields,
        windows.last,
        COTANGENT_LIMIT,
        h.data_ptr(),
        along.data_ptr(),
        torch.get_num_threads(),
    )
    return (h, along) if fine else None


def correct_fields(
    gradient: Tensor, x: Tensor, along: Tensor, mean: Tensor | None, windows: Windows
) -> Tensor:
    """The gradient plus the sum of `along` (x − mean) over the windows of each position."""
    groups = windows.groups
    rest = (x.shape[0] * groups, x.shape[1] // groups, windows.address, windows.last, torch.get_num_threads())
    addresses = gradient.data_ptr(), x.data_ptr(), along.data_ptr()
    if mean is None:
        fine = library().cosnorm_correct_fields(*addresses, *rest)
    else:
        fine = library().cosnorm_correct_centered(*addresses, mean.data_ptr(), *rest)
    if not fine:
        raise MemoryError(f"cosine convolution: no memory for the gradient of an input of {tuple(x.shape)}")
    return gradient


def center_filters(weight: Tensor, output: Tensor) -> Tensor:
    """Each filter (O, …) less its mean, into `output`, also in place; filters lie apart in the memory."""
    filters = len(weight)
    library().cosnorm_center_rows(
        weight.data_ptr(), output.data_ptr(), filters, weight.numel() // filters, torch.get_num_threads()
    )
    return output
