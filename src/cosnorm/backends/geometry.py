"""Where the receptive fields of a convolution lie, and sums over them without unfolding.

A field is one window over all channels of a group. Its sum is a box filter (a sum over the window) of one
map, Σ_c, taken along one dimension after the other. Zero padding counts as zeros.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def by_group(x: Tensor, groups: int) -> Tensor:
    """(N, C, *S) → (N, G, C/G, *S), beside which a number for each field is (N, G, 1, *T)."""
    return x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])


def all_groups(x: Tensor) -> Tensor:
    """(N, G, C/G, *S) → (N, C, *S)."""
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])


@dataclass(frozen=True)
class Geometry:
    """Kernel, stride, padding and dilation, one number a dimension, and the groups; all as in torch's."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(
        cls, weight: Any, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int
    ) -> "Geometry":
        """That of a weight (O, C/G, *K), or of its shape."""
        kernel = weight.shape[2:] if isinstance(weight, Tensor) else weight[2:]
        return cls(tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), groups)

    @property
    def rank(self) -> int:
        """The number of spatial dimensions."""
        return len(self.kernel)

    @property
    def reach(self) -> tuple[int, ...]:
        """How far the last place of a field lies from its first."""
        return tuple(d * (k - 1) for k, d in zip(self.kernel, self.dilation, strict=True))

    def fields(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """How many fields there are in each dimension of images of such sizes."""
        places = zip(sizes, self.padding, self.reach, self.stride, strict=True)
        return tuple(
            (size + 2 * padding - reach - 1) // stride + 1 for size, padding, reach, stride in places
        )

    def shape(self, x: torch.Size, weight: torch.Size) -> tuple[int, ...]:
        """The shape of the output."""
        return (x[0], weight[0], *self.fields(x[2:]))

    def without_padding(self) -> "Geometry":
        """The same fields on an image that is padded already."""
        return Geometry(self.kernel, self.stride, (0,) * self.rank, self.dilation, self.groups)

    def pad(self, x: Tensor) -> Tensor:
        """Pad with zeros."""
        if not any(self.padding):
            return x
        return F.pad(x, [amount for padding in reversed(self.padding) for amount in (padding, padding)])

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """The plain convolution."""
        options = self.stride, self.padding, self.dilation, False, (0,) * self.rank, self.groups
        return torch.convolution(x, weight, None, *options)

    def adjoints(
        self, h: Tensor, x: Tensor, weight: Tensor, needs: Sequence[bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of the plain convolution in x and in the weight, for a cotangent h."""
        options = self.stride, self.padding, self.dilation, False, (0,) * self.rank, self.groups
        found = torch.ops.aten.convolution_backward(h, x, weight, None, *options, (*needs, False))
        return found[0], found[1]

    def box(self, maps: Tensor, reduce: Callable[..., Tensor] = torch.sum) -> Tensor:
        """Sum over each window of each map, or what else reduces it: (…, *S) → (…, *T)."""
        return windows(self, self.pad(maps), reduce)

    def spread(self, numbers: Tensor, sizes: Sequence[int], *, at_once: bool = False) -> Tensor:
        """The adjoint of `box`: a number for each field is added to all its places, (…, *T) → (…, *S).

        `at_once`: along all dimensions in one launch, which reads more.
        """
        for dimension, stride in enumerate(self.stride, start=-self.rank):
            if stride > 1:
                # As many zeros behind each as the next field is away.
                behind = [0, 0] * (-dimension - 1) + [0, stride - 1]
                shape = [*numbers.shape]
                shape[dimension] *= stride
                numbers = F.pad(numbers.unsqueeze(dimension), behind).reshape(shape)
        amounts: list[int] = []
        for own, size, reach, padding in zip(
            numbers.shape[-self.rank :], sizes, self.reach, self.padding, strict=True
        ):
            amounts = [reach - padding, size - own + padding, *amounts]
        every_place = Geometry(self.kernel, (1,) * self.rank, (0,) * self.rank, self.dilation, 1)
        return windows(every_place, F.pad(numbers, amounts), torch.sum, at_once=at_once)


def crop(padded: Tensor, shape: torch.Size) -> Tensor:
    """Take padding off again, as much at either side, from (N, C, *S + 2P) to a shape (N, C, *S)."""
    for dimension, size in enumerate(shape):
        if padded.shape[dimension] != size:
            padded = padded.narrow(dimension, (padded.shape[dimension] - size) // 2, size)
    return padded


def windows(
    geometry: Geometry,
    padded: Tensor,
    reduce: Callable[..., Tensor],
    *,
    at_once: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Each window of padded maps reduced, (…, *S) → (…, *T); into `out`, if given.

    Along one dimension after the other, or `at_once` along all of them: one launch, which reads more.
    """
    maps, unfolded = padded, 0
    places = zip(geometry.kernel, geometry.stride, geometry.dilation, strict=True)
    for dimension, (k, s, d) in enumerate(places, start=-geometry.rank):
        if k > 1 or s > 1:
            maps = maps.unfold(dimension - unfolded, d * (k - 1) + 1, s)
            maps = maps[..., ::d] if d > 1 else maps
            unfolded += 1
            if not at_once:
                last = out if out is not None and _is_last(geometry, dimension) else None
                maps, unfolded = _reduced(reduce, maps, -1, last), 0
    if unfolded:
        return _reduced(reduce, maps, tuple(range(-unfolded, 0)), out)
    return maps if out is None or maps is out else out.copy_(maps)


def _is_last(geometry: Geometry, dimension: int) -> bool:
    """Whether no dimension behind has windows."""
    behind = dimension + 1
    return behind == 0 or all(
        k == 1 and s == 1 for k, s in zip(geometry.kernel[behind:], geometry.stride[behind:], strict=True)
    )


def _reduced(
    reduce: Callable[..., Tensor], maps: Tensor, dim: int | tuple[int, ...], out: Tensor | None
) -> Tensor:
    return reduce(maps, dim=dim) if out is None else reduce(maps, dim=dim, out=out)


def memory_format(x: Tensor, weight: Tensor) -> torch.memory_format:
    """The order in memory of torch's convolution: channels last if one of the two has them last.

    All layers that follow are in it then, too; pooling is several times faster.
    """
    last = _LAST.get(x.ndim)
    if last is not None:
        for one in (x, weight):
            if one.is_contiguous(memory_format=last) and not one.is_contiguous():
                return last
    return torch.contiguous_format


def empty_output(x: Tensor, weight: Tensor, geometry: Geometry, dtype: torch.dtype) -> Tensor:
    """Memory for a number for each field and filter, in that order."""
    shape, order = geometry.shape(x.shape, weight.shape), memory_format(x, weight)
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=order)
