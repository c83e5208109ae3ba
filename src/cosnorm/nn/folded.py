"""Layers that no longer learn: the weight's normalization and centering stand in the weight."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from cosnorm.functional.folded import folded_conv, folded_linear, unit_inputs, unit_weight

# What others read of torch's layers.
_SIZES = (
    *("in_features", "out_features", "in_channels", "out_channels"),
    *("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"),
)


def check_foldable(where: str, layer: Any) -> None:
    """Raise unless the layer computes what its class does, from a weight of its own."""
    if "forward" in vars(layer):
        raise TypeError(f"{where}: somebody put a forward of its own around it, which would be lost")
    its_own = next(kind for kind in type(layer).__mro__ if "forward" in vars(kind))
    if not its_own.__module__.startswith("cosnorm.nn."):
        raise TypeError(
            f"{where}: {its_own.__name__} overrides forward, and what it adds would be lost; write it as a "
            "module that has a cosine layer and calls it"
        )
    computed = {"weight", "bias"} - layer._parameters.keys()
    if any(not parametrize.is_parametrized(layer, name) for name in computed):
        raise TypeError(
            f"{where}: its weight or bias is computed from others (old weight or spectral norm, pruning); "
            "make it one first: torch.nn.utils.remove_weight_norm, remove_spectral_norm or prune.remove"
        )


class _Folded(nn.Module):
    """Buffers in place of parameters: unit weights, their appended components, scale and bias."""

    weight: Tensor
    extra: Tensor | None
    bias: Tensor | None
    scale: Tensor | None

    def __init__(self, layer: Any) -> None:
        super().__init__()
        weight, extra = unit_weight(layer.weight, centered=layer.centered, augment=layer.augment)
        bias, learned = layer.bias, layer.scale.log_scale
        buffers = {
            "weight": weight,
            "extra": extra,
            "bias": None if bias is None else bias.detach().clone(),
            "scale": None if learned is None else learned.detach().exp(),
        }
        for name, value in buffers.items():
            # A buffer that is None confuses torch.export of a folded layer by itself (torch 2.13).
            if value is None:
                setattr(self, name, None)
            else:
                self.register_buffer(name, value)
        self.centered, self.augment = layer.centered, layer.augment
        self.factor = layer.scale.factor
        for name in _SIZES:
            if hasattr(layer, name):
                setattr(self, name, getattr(layer, name))

    def _finish(self, cosines: Tensor, rank: int) -> Tensor:
        output = cosines if self.factor is None else cosines * self.factor
        if self.scale is not None:
            output = cosines * self.scale.to(cosines.dtype)
        if self.bias is None:
            return output
        return output + self.bias.to(output.dtype).reshape(-1, *[1] * rank)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """A checkpoint of the layer that was not folded is folded here: its names may be the same."""
        weight, learned = state_dict.get(prefix + "weight"), state_dict.get(prefix + "scale.log_scale")
        folded = prefix + "extra" in state_dict  # only a folded layer has it
        if isinstance(weight, Tensor) and weight.shape == self.weight.shape and not folded:
            unit, extra = unit_weight(weight, centered=self.centered, augment=self.augment)
            # Without `augment` there is no such sign; what is folded stays as it is, to the bit.
            changed = (unit - weight).abs().amax() if weight.numel() else unit.new_zeros(())
            is_unit = (changed <= 4 * torch.finfo(weight.dtype).eps) & (extra is None)
            state_dict[prefix + "weight"] = torch.where(is_unit, weight.detach(), unit)
            if extra is not None:
                state_dict[prefix + "extra"] = extra
        if isinstance(learned, Tensor) and self.scale is not None:
            state_dict[prefix + "scale"] = learned.detach().exp().reshape(self.scale.shape)
            del state_dict[prefix + "scale.log_scale"]
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Sizes and options, for `print`."""
        scale = self.factor if self.scale is None else "learned"
        sizes = f"weight={tuple(self.weight.shape)}, bias={self.bias is not None}"
        return f"{sizes}, centered={self.centered}, augment={self.augment}, scale={scale}"


class FoldedCosineLinear(_Folded):
    """What `CosineLinear` computes, with unit rows for a weight; made by `CosineLinear.fold`.

    Its parameters are buffers: it does not learn, but passes gradients on to its input.

    Args:
        layer: the layer, which stays as it is.

    Shape: (*, in_features) → (*, out_features).

    Raises:
        TypeError: `layer` is no `CosineLinear`, overrides `forward`, or computes its weight from others.
        ValueError: an input of another size.

    Example:
        >>> import torch
        >>> from cosnorm.nn import CosineLinear
        >>> layer = CosineLinear(8, 3, centered=True, bias=True)
        >>> x = torch.randn(5, 8)
        >>> torch.allclose(FoldedCosineLinear(layer)(x), layer(x), atol=1e-6)
        True
    """

    def __init__(self, layer: nn.Linear) -> None:
        if not (isinstance(layer, nn.Linear) and hasattr(layer, "centered")):
            raise TypeError(f"FoldedCosineLinear: layer must be a CosineLinear, got {type(layer).__name__}")
        check_foldable("FoldedCosineLinear", layer)
        super().__init__(layer)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """The cosines, scaled, plus the bias."""
        options: Any = {"centered": self.centered, "augment": self.augment}
        return self._finish(folded_linear(input, self.weight, self.extra, **options), 0)


class UnitRows(nn.Module):
    """Rows as unit vectors, centered or with a constant component behind them: (*, D) → (*, D or D + 1).

    Args:
        centered: subtract the mean of a row first.
        augment: the constant component, if it is not 0.

    Example:
        >>> import torch
        >>> UnitRows()(torch.tensor([[3e30, 4e30], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """

    def __init__(self, centered: bool = False, augment: float = 0.0) -> None:
        super().__init__()
        self.centered, self.augment = centered, augment

    def forward(self, x: Tensor) -> Tensor:
        """The rows, in the dtype of x."""
        return unit_inputs(x, centered=self.centered, augment=self.augment)

    def extra_repr(self) -> str:
        """The options, for `print`."""
        return f"centered={self.centered}, augment={self.augment}"


class SeparateCosineLinear(nn.Sequential):
    """What `CosineLinear` computes, as unit rows and a `torch.nn.Linear` behind them, which quantizers find.

    The scale stands in that layer's weight, so that it learns nothing.

    Args:
        layer: the layer, which stays as it is.

    Shape: (*, in_features) → (*, out_features).

    Raises:
        TypeError: as `FoldedCosineLinear`.

    Example:
        >>> import torch
        >>> from cosnorm.nn import CosineLinear
        >>> layer = CosineLinear(8, 3, centered=True, bias=True, scale="unit")
        >>> x = torch.randn(5, 8)
        >>> torch.allclose(SeparateCosineLinear(layer)(x), layer(x), atol=1e-6)
        True
    """

    def __init__(self, layer: nn.Linear) -> None:
        folded = FoldedCosineLinear(layer)
        weight = (
            folded.weight if folded.extra is None else torch.cat([folded.weight, folded.extra[:, None]], 1)
        )
        factor = folded.factor if folded.scale is None else folded.scale.to(weight.dtype)
        weight = weight if factor is None else weight * factor
        made = nn.Linear(weight.shape[1], weight.shape[0], folded.bias is not None, device="meta")
        made.weight = nn.Parameter(weight, requires_grad=False)
        if folded.bias is not None:
            made.bias = nn.Parameter(folded.bias, requires_grad=False)
        super().__init__(UnitRows(folded.centered, folded.augment), made)


class FoldedCosineConv(_Folded):
    """What `CosineConv1d`, `2d` or `3d` computes, with unit filters; made by their `fold`.

    Args:
        layer: the layer, which stays as it is.

    Shape: as that of the layer.

    Raises:
        TypeError: `layer` is no cosine convolution, overrides `forward`, or computes its weight from others.
        ValueError: an input of another number of channels or dimensions.

    Example:
        >>> import torch
        >>> from cosnorm.nn import CosineConv2d
        >>> layer = CosineConv2d(3, 4, 3, padding=1)
        >>> x = torch.randn(2, 3, 6, 6)
        >>> torch.allclose(FoldedCosineConv(layer)(x), layer(x), atol=1e-6)
        True
    """

    def __init__(self, layer: Any) -> None:
        if not (isinstance(layer, nn.modules.conv._ConvNd) and hasattr(layer, "centered")):
            raise TypeError(f"FoldedCosineConv: layer must be a CosineConv, got {type(layer).__name__}")
        check_foldable("FoldedCosineConv", layer)
        super().__init__(layer)
        self._padding = layer._reversed_padding_repeated_twice
        self._mode = layer.padding_mode if layer.padding_mode != "zeros" else "constant"
        padding = (0,) * (layer.weight.ndim - 2)
        if self._mode == "constant" and self._padding[::2] == self._padding[1::2]:
            # Zeros on both sides alike are the convolution's own.
            padding, self._padding = tuple(reversed(self._padding[::2])), []
        self._places = layer.stride, padding, layer.dilation, layer.groups

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """The cosines, scaled, plus the bias."""
        rank = self.weight.ndim - 2
        x = input if input.ndim == rank + 2 else input.unsqueeze(0)
        if self._padding:
            x = F.pad(x, self._padding, mode=self._mode)
        options: Any = {"centered": self.centered, "augment": self.augment}
        output = self._finish(folded_conv(x, self.weight, self.extra, *self._places, **options), rank)
        return output if input.ndim == rank + 2 else output.squeeze(0)
