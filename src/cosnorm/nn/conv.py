"""Convolutional layers whose outputs are cosines."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosnorm.backends.choose import check_impl
from cosnorm.functional import cosine_conv1d, cosine_conv2d, cosine_conv3d
from cosnorm.functional.checks import (
    check_augment,
    check_count,
    check_dtype,
    check_flag,
    check_numbers,
    check_tensors,
)
from cosnorm.nn.folded import FoldedCosineConv
from cosnorm.nn.scale import Scale

Size = int | tuple[int, ...]


# Untyped, because the next constructor in line is not this class's but Conv1d's, Conv2d's or Conv3d's.
_ConvNd: Any = nn.modules.conv._ConvNd


class _CosineConv(_ConvNd):
    """What the three layers share: torch's constructor and padding modes, our options and the call."""

    _cosine_conv: Any
    _rank: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
        padding_mode: str = "zeros",
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        centered: bool = False,
        augment: float = 0.0,
        scale: float | str | None = None,
        impl: str = "auto",
    ) -> None:
        name = type(self).__name__
        check_count(name, "in_channels", in_channels)
        check_count(name, "out_channels", out_channels)
        check_count(name, "groups", groups)
        check_numbers(name, "kernel_size", kernel_size, self._rank, 1)
        check_numbers(name, "stride", stride, self._rank, 1)
        check_numbers(name, "dilation", dilation, self._rank, 1)
        if not isinstance(padding, str):
            check_numbers(name, "padding", padding, self._rank, 0)
        check_flag(name, "bias", bias)
        check_flag(name, "centered", centered)
        check_dtype(name, dtype)
        check_augment(name, augment)
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        self.centered = centered
        self.augment = float(augment)
        self.scale = Scale(scale, math.prod(self.weight.shape[1:]), name, device, dtype)
        check_impl(name, impl)
        self.impl = impl

    def reset_parameters(self) -> None:
        """Initialize as torch's layer does, and set a learned scale back to its first value."""
        super().reset_parameters()
        if hasattr(self, "scale"):  # torch's constructor calls this before the scale exists
            self.scale.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """The cosines, scaled, plus the bias."""
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            self._check_before_padding(input)
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)  # noqa: A001
            padding = 0
        output: Tensor = self._cosine_conv(
            input,
            self.weight,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            centered=self.centered,
            augment=self.augment,
            impl=self.impl,
        )
        if not self.scale.is_one:
            output = self.scale(output)
        if self.bias is None:
            return output
        return output + self.bias.to(output.dtype).reshape(-1, *[1] * (self.weight.ndim - 2))

    def fold(self) -> nn.Module:
        """A layer for inference with unit filters; see `cosnorm.convert.fold`."""
        return FoldedCosineConv(self).eval()

    def _check_before_padding(self, input: Tensor) -> None:  # noqa: A002
        name = type(self).__name__
        check_tensors(name, input=input)
        rank = self._rank
        if input.ndim not in (rank + 1, rank + 2) or min(input.shape[-rank:]) < 1:
            raise ValueError(
                f"{name}: the input must have shape (N, C, …) or (C, …) with {rank} spatial dimensions, none "
                f"of them 0, got {tuple(input.shape)}"
            )

    def extra_repr(self) -> str:
        """The text of torch's layer and our options."""
        return f"{super().extra_repr()}, centered={self.centered}, augment={self.augment}"


class CosineConv1d(_CosineConv, nn.Conv1d):
    """`CosineConv2d` in one dimension; takes the place of `torch.nn.Conv1d`.

    Everything is said there. Shape: (N, C, L) or (C, L) → (N, O, L').

    Example:
        >>> import torch
        >>> CosineConv1d(3, 8, kernel_size=3, padding="same")(torch.randn(2, 3, 10)).shape
        torch.Size([2, 8, 10])
    """

    _cosine_conv = staticmethod(cosine_conv1d)
    _rank = 1


class CosineConv2d(_CosineConv, nn.Conv2d):
    r"""Cosine similarity of each receptive field with each filter; takes the place of `torch.nn.Conv2d`.

    .. math:: y_{o,p} = s \, \frac{w_o \cdot x_p + a^2}{\sqrt{|w_o|^2 + a^2}\,\sqrt{|x_p|^2 + a^2}} + b_o

    with s = `scale`, a = `augment` and x_p the receptive field at position p, all channels of its group.
    Parameter names are those of `torch.nn.Conv2d`, so its checkpoints load.

    Args:
        in_channels: as in `torch.nn.Conv2d`.
        out_channels: as in `torch.nn.Conv2d`.
        kernel_size: as in `torch.nn.Conv2d`.
        stride: as in `torch.nn.Conv2d`.
        padding: as in `torch.nn.Conv2d`: numbers, "same" or "valid".
        dilation: as in `torch.nn.Conv2d`.
        groups: as in `torch.nn.Conv2d`.
        bias: add a learned bias after the scale (the paper has none).
        padding_mode: as in `torch.nn.Conv2d`; padded values count in the norm and the mean of a field.
        device: as in `torch.nn.Conv2d`.
        dtype: as in `torch.nn.Conv2d`.
        centered: subtract the mean of each filter and of each receptive field first (eq. 17).
        augment: the paper's constant extra component, appended after centering; the paper uses 1e-4.
        scale: as in `cosnorm.nn.CosineLinear`: None for the paper's layer and its learning rate of 10, "unit"
            (√ of kernel × channels of a group) for hidden layers at the learning rates of plain ones,
            "learned" for the last layer, or a positive number.
        impl: as in `cosnorm.functional.cosine_conv2d`.

    Shape: (N, C, H, W) or (C, H, W) → (N, O, H', W').

    A zero field (centered: a constant one) gives 0 (plus the bias) and sends back gradient 0.

    Raises:
        TypeError: input that is no floating-point tensor or of another dtype than the weight.
        ValueError: an input of another shape or device, a `scale` that is not positive, a negative `augment`.

    Source: Luo et al., "Cosine Normalization", arXiv 1702.05870, eqs. 4, 8-12 and 17.

    Example:
        >>> import torch
        >>> layer = CosineConv2d(3, 64, kernel_size=5, padding=2, augment=1e-4)
        >>> layer(torch.rand(8, 3, 24, 24)).shape
        torch.Size([8, 64, 24, 24])
    """

    _cosine_conv = staticmethod(cosine_conv2d)
    _rank = 2


class CosineConv3d(_CosineConv, nn.Conv3d):
    """`CosineConv2d` in three dimensions; takes the place of `torch.nn.Conv3d`.

    Everything is said there. Shape: (N, C, D, H, W) or (C, D, H, W) → (N, O, D', H', W').

    Example:
        >>> import torch
        >>> CosineConv3d(1, 4, kernel_size=2)(torch.randn(2, 1, 4, 4, 4)).shape
        torch.Size([2, 4, 3, 3, 3])
    """

    _cosine_conv = staticmethod(cosine_conv3d)
    _rank = 3
