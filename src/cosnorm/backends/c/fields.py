"""Cosines of receptive fields by the compiled passes around torch's convolution: float32 images on a CPU.

The formulas are those of `cosnorm.backends.torch.fields` with the filters as they are: with h = g f_x f_w,

    ∂/∂w_o = Σ h x − f_o² A_o w_o,   A_o = Σ h p over the fields of the filter,
    ∂/∂x   = Σ h w − x Σ f² A        over the windows that a position is in,   A = Σ h p over the filters.

Both convolutions of the backward pass are one call, and each correction is added to what it gave. Centered,
w_o stands for the filter less its mean and x for the field less its own, which such a filter does not see:
the images themselves enter the convolutions, and what is left of the means is taken off behind them.

Images have one or two dimensions and are contiguous, or, with one group, have the channels last.
"""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cosnorm.backends.c.library import CONSTANT, library
from cosnorm.backends.geometry import Geometry, memory_format
from cosnorm.norms import COTANGENT_LIMIT, NORM_LIMIT

_LIMIT, _COTANGENT_LIMIT = NORM_LIMIT[torch.float32], COTANGENT_LIMIT[torch.float32]


def handles(x: Tensor, weight: Tensor, geometry: Geometry, centered: bool) -> bool:
    """Whether the passes have these dtypes and shapes."""
    single = x.dtype == weight.dtype == torch.float32
    return single and weight.is_cpu and geometry.rank <= 2 and x.numel() > 0


def saved(
    x: Tensor, weight: Tensor, geometry: Geometry, centered: bool, augment: float
) -> tuple[Tensor, Tensor]:
    """Empty products and statistics of the shapes that `cosines` returns with `keep`."""
    samples, filters, *places = geometry.shape(x.shape, weight.shape)
    fields = samples * geometry.groups
    for length in places:
        fields = fields * length
    number = filters + 2 * fields + 1 if centered else filters + fields
    order = torch.channels_last if _has_channels_last(x, weight, geometry) else torch.contiguous_format
    shape = samples, filters, *places
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=order), x.new_empty(number)


def cosines(
    x: Tensor, weight: Tensor, geometry: Geometry, *, centered: bool, augment: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The cosines; the products x·w; and the factors of filters and fields, with `centered` their means, too.

    The last number says then whether there are constant fields.
    """
    images = _Images(x, weight, geometry)
    prepared = images.prepare(centered=centered, augment=augment, folded=False)
    if prepared is None:
        return None
    products = images.products(prepared, augment)
    output = torch.empty_like(products) if keep else products
    images.finish(products, prepared.factors, augment, output)
    if not keep:
        return output, x.new_empty(0), x.new_empty(0)
    return output, products, prepared.statistics


def folded(
    x: Tensor, weight: Tensor, constant: Tensor | None, geometry: Geometry, *, centered: bool, augment: float
) -> Tensor | None:
    """The cosines with filters that are unit vectors; None with appended components."""
    if augment:
        return None
    images = _Images(x, weight, geometry)
    prepared = images.prepare(centered=centered, augment=0.0, folded=True)
    if prepared is None:
        return None
    products = images.products(prepared, 0.0)
    return images.finish(products, prepared.factors, 0.0, products)


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
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor] | None:
    """The gradients in x and in the weight; None if `cosines` declined, or this cotangent must be."""
    shape = saved(x, weight, geometry, centered, augment)[1].shape
    if statistics.shape != shape or statistics[0] == torch.inf:
        return None
    images = _Images(x, weight, geometry)
    prepared = images.known(statistics, centered=centered)
    weighed = images.weigh(images.in_order(cotangent), products, prepared.factors, augment)
    if weighed is None:
        return None
    h, along = weighed
    along_w, along_x = along[: len(weight)], along[len(weight) :]
    filters = prepared.filters
    if centered and augment and statistics[-1] != 0:
        again = images.prepare(centered=True, augment=augment, folded=False)
        assert again is not None
        constant = again.constant
        assert constant is not None
        # What passes through a field that counts as zero reaches x, and the filters not at all.
        into_x, into_w = geometry.adjoints(h, images.x, filters, (needs[0], False))
        images.clear(along_x, constant)
        images.clear(h, constant)
        if needs[1]:
            _, into_w = geometry.adjoints(h, images.x, filters, (False, True))
    else:
        into_x, into_w = geometry.adjoints(h, images.x, filters, needs)
    nothing = x.new_empty(0)
    if into_x is not None:
        into_x = images.correct(images.in_order(into_x), along_x, prepared.mean)
    if into_w is not None:
        if centered:
            into_w = into_w if _has_filters_apart(into_w) else into_w.contiguous()
            _center(into_w, into_w)
        into_w.addcmul_(filters, along_w.reshape(-1, *[1] * (geometry.rank + 1)))
    return nothing if into_x is None else into_x, nothing if into_w is None else into_w


class _Prepared(NamedTuple):
    """What the passes know of filters and fields before the convolution.

    filters: what enters the convolution: the weight, or the weight less the means of its filters.
    factors: 1/√(|vector|² + augment²), 0 for zero vectors: of the filters, then of the fields.
    mean: of each field; None where nothing is centered.
    constant: which fields count as zero although their values are not (bytes); None: no such field.
    statistics: the memory of the factors and means.
    """

    filters: Tensor
    factors: Tensor
    mean: Tensor | None
    constant: Tensor | None
    statistics: Tensor


class _Images:
    """Images and filters in the order of memory that the passes read, and the passes over them."""

    def __init__(self, x: Tensor, weight: Tensor, geometry: Geometry) -> None:
        self.geometry, groups = geometry, geometry.groups
        self.last = _has_channels_last(x, weight, geometry)
        self.x = self.in_order(x)
        self.weight = weight if _has_filters_apart(weight) else weight.contiguous()
        fields = geometry.fields(x.shape[2:])
        # Height before width; images of one dimension have height 1.
        rows = (x.shape[2:], 1), (fields, 1), (geometry.kernel, 1), (geometry.stride, 1)
        pairs = (*rows, (geometry.padding, 0), (geometry.dilation, 1))
        numbers = [
            number
            for values, missing in pairs
            for number in ((missing, *values) if len(values) == 1 else values)
        ]
        self.places = (ctypes.c_longlong * 12)(*numbers)
        self.fields, self.groups = numbers[2] * numbers[3], groups
        self.planes, self.filters = x.shape[0] * groups, len(weight)
        self.layout = self.planes, weight.shape[1], ctypes.addressof(self.places), self.last

    def in_order(self, image: Tensor) -> Tensor:
        """An image in that order."""
        return image.contiguous(memory_format=torch.channels_last if self.last else torch.contiguous_format)

    def prepare(self, *, centered: bool, augment: float, folded: bool) -> _Prepared | None:
        """Filters and fields, with `centered` less their means; None where the form could be wrong.

        Folded, the filters are unit vectors already, of mean 0 if centered. None, too, for centered data that
        lies so close together that a shift should come first (it is exact then).
        """
        fields, weight = self.planes * self.fields, self.weight
        number = self.filters + 2 * fields + 1 if centered else self.filters + fields
        statistics = self.x.new_empty(number)
        factors = statistics[: self.filters + fields]
        given = self.x.data_ptr(), 0 if folded else weight.data_ptr(), *self.layout, self.filters
        limits = augment * augment, _LIMIT
        if not centered:
            fine = library().cosnorm_prepare_fields(
                *given, *limits, factors.data_ptr(), torch.get_num_threads()
            )
            return _Prepared(weight, factors, None, None, statistics) if fine else None
        filters = weight if folded else torch.empty_like(weight)
        mean = statistics[self.filters + fields : -1]
        constant = torch.empty(fields, dtype=torch.uint8, device="cpu")
        found = library().cosnorm_prepare_centered(
            *given,
            *limits,
            weight[0].numel() * CONSTANT,
            filters.data_ptr(),
            factors.data_ptr(),
            mean.data_ptr(),
            constant.data_ptr(),
            torch.get_num_threads(),
        )
        if not found:
            return None
        statistics[-1] = found == 2
        return _Prepared(filters, factors, mean, constant if found == 2 else None, statistics)

    def known(self, statistics: Tensor, *, centered: bool) -> _Prepared:
        """The same from the statistics of the forward pass; centered filters are made again."""
        number = self.filters + self.planes * self.fields
        if not centered:
            return _Prepared(self.weight, statistics, None, None, statistics)
        filters = _center(self.weight, torch.empty_like(self.weight))
        return _Prepared(filters, statistics[:number], statistics[number:-1], None, statistics)

    def products(self, prepared: _Prepared, augment: float) -> Tensor:
        """The plain convolution; without `augment` the factors of constant fields are 0."""
        products = self.in_order(self.geometry.convolve(self.x, prepared.filters))
        if prepared.constant is not None and augment:
            self.clear(products, prepared.constant)
        return products

    def clear(self, values: Tensor, constant: Tensor) -> None:
        """Set values of images (N, O, *T), or numbers of fields, to zero for the constant fields."""
        each = values.numel() // len(constant)
        rest = self.planes, each, self.fields, self.last, torch.get_num_threads()
        library().cosnorm_clear_fields(values.data_ptr(), constant.data_ptr(), *rest)

    def finish(self, products: Tensor, factors: Tensor, augment: float, output: Tensor) -> Tensor:
        """The cosines (products + augment²) f_x f_w in [−1, 1], into `output` or in place."""
        f_w = factors.data_ptr()
        given = products.data_ptr(), augment * augment, f_w + 4 * self.filters, f_w, output.data_ptr()
        threads = torch.get_num_threads()
        if self.last:
            library().cosnorm_finish_rows(*given, self.planes * self.fields, self.filters, threads)
        else:
            each = self.filters // self.groups
            library().cosnorm_finish_fields(*given, self.planes, self.groups, each, self.fields, threads)
        return output

    def weigh(
        self, cotangent: Tensor, products: Tensor, factors: Tensor, augment: float
    ) -> tuple[Tensor, Tensor] | None:
        """H = g f_x f_w, and −f² Σ h (p + augment²) of each filter, then of each field."""
        h, along = torch.empty_like(products), torch.empty_like(factors)
        fine = library().cosnorm_weigh_fields(
            cotangent.data_ptr(),
            products.data_ptr(),
            augment * augment,
            factors.data_ptr(),
            self.planes // self.groups,
            self.groups,
            self.filters // self.groups,
            self.fields,
            self.last,
            _COTANGENT_LIMIT,
            h.data_ptr(),
            along.data_ptr(),
            torch.get_num_threads(),
        )
        return (h, along) if fine else None

    def correct(self, gradient: Tensor, along: Tensor, mean: Tensor | None) -> Tensor:
        """The gradient plus the sum of `along` (x − mean) over the windows of each position."""
        given = gradient.data_ptr(), self.x.data_ptr(), along.data_ptr()
        threads = torch.get_num_threads()
        if mean is None:
            fine = library().cosnorm_correct_fields(*given, *self.layout, threads)
        else:
            fine = library().cosnorm_correct_centered(*given, mean.data_ptr(), *self.layout, threads)
        if not fine:
            shape = tuple(self.x.shape)
            raise MemoryError(f"cosine convolution: no memory for the gradient of an input of {shape}")
        return gradient


def _has_channels_last(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether the passes read the channels last: with one group, where torch's convolution has them so."""
    return geometry.groups == 1 and memory_format(x, weight) is torch.channels_last


def _has_filters_apart(weight: Tensor) -> bool:
    """Whether the values of each filter lie together in the memory."""
    return weight.is_contiguous() or (
        weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    )


def _center(weight: Tensor, output: Tensor) -> Tensor:
    """Each filter (O, …) less its mean, into `output`, also in place; filters lie apart in the memory."""
    filters = len(weight)
    library().cosnorm_center_rows(
        weight.data_ptr(), output.data_ptr(), filters, weight.numel() // filters, torch.get_num_threads()
    )
    return output
