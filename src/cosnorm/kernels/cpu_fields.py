"""The compiled passes over receptive fields on tensors: float32 images of one or two dimensions on a CPU.

Images are contiguous, or, with one group, contiguous with the channels last; nothing is checked here. What
looks at the data returns None where the plain form could be wrong.
"""

import ctypes

import torch
from torch import Tensor

from cosnorm.kernels.compiled import COTANGENT_LIMIT, LIMIT, library


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


def prepare_fields(
    x: Tensor, weight: Tensor, windows: Windows, extra: float, *, folded: bool = False
) -> Tensor | None:
    """The factors 1/√(|vector|² + extra), 0 for zero vectors: of the filters, then of the fields.

    Folded, the filters are unit vectors already.
    """
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
    return factors if fine else None


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


def correct_fields(gradient: Tensor, x: Tensor, along: Tensor, windows: Windows) -> Tensor:
    """The gradient plus x times the sum of `along`, a number a field, over the windows of each position."""
    groups = windows.groups
    fine = library().cosnorm_correct_fields(
        gradient.data_ptr(),
        x.data_ptr(),
        along.data_ptr(),
        x.shape[0] * groups,
        x.shape[1] // groups,
        windows.address,
        windows.last,
        torch.get_num_threads(),
    )
    if not fine:
        raise MemoryError(f"cosine convolution: no memory for the gradient of an input of {tuple(x.shape)}")
    return gradient
