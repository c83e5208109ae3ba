"""One hidden layer or convolution up to the ReLU, by normalization; `cosnorm_lab.methods` names them.

Each makes a layer of a weight (out, in) or, for a convolution that keeps the size, (out, in, height, width),
which is copied. Their options are the same: `augment`, the constant extra component of the cosine layers;
`bias`, whether a layer without a bias of its own gets one, zero at first; `linear`, the class of a plain
linear layer.
"""

from typing import Any

import torch
from torch import Tensor, nn

import cosnorm.nn
from cosnorm_lab.sparse_linear import SparseLinear, SparseWeightNorm


def plain(weight: Tensor, *, bias: bool = True, linear: type[nn.Linear] = nn.Linear, **_: Any) -> nn.Module:
    """Not normalized."""
    fan_out, fan_in, *kernel = weight.shape
    layer: nn.Linear | nn.Conv2d
    if kernel:
        layer = nn.Conv2d(fan_in, fan_out, (kernel[0], kernel[1]), padding=kernel[0] // 2, bias=bias)
    else:
        layer = linear(fan_in, fan_out, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is not None:
            layer.bias.zero_()
    return layer


def cosine(weight: Tensor, *, augment: float, centered: bool = False, **_: Any) -> nn.Module:
    """The cosine of input and weight, without a bias."""
    fan_out, fan_in, *kernel = weight.shape
    options: dict[str, Any] = {"centered": centered, "augment": augment}
    layer = (
        cosnorm.nn.CosineConv2d(fan_in, fan_out, kernel[0], padding=kernel[0] // 2, **options)
        if kernel
        else cosnorm.nn.CosineLinear(fan_in, fan_out, **options)
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def centered(weight: Tensor, **options: Any) -> nn.Module:
    """Pearson's correlation of input and weight, without a bias."""
    return cosine(weight, **options, centered=True)


def batch(weight: Tensor, **options: Any) -> nn.Module:
    """Batch normalization, which brings the bias."""
    norm = nn.BatchNorm2d if weight.ndim == 4 else nn.BatchNorm1d
    return nn.Sequential(_without_bias(weight, options), norm(len(weight)))


def layer(weight: Tensor, **options: Any) -> nn.Module:
    """Layer normalization, which brings the bias; in a convolution over all channels and places."""
    norm = nn.GroupNorm(1, len(weight)) if weight.ndim == 4 else nn.LayerNorm(len(weight))
    return nn.Sequential(_without_bias(weight, options), norm)


def mean_only(weight: Tensor, **options: Any) -> nn.Module:
    """Mean-only batch normalization, which brings the bias."""
    norm = cosnorm.nn.MeanOnlyBatchNorm2d if weight.ndim == 4 else cosnorm.nn.MeanOnlyBatchNorm1d
    return nn.Sequential(_without_bias(weight, options), norm(len(weight)))


def weight(weight: Tensor, **options: Any) -> nn.Module:
    """Weight normalization with a gain that stays 1, as the paper has it, and without a bias."""
    if options.get("linear") is SparseLinear:
        return plain(weight, bias=False, linear=SparseWeightNorm)
    made = _without_bias(weight, options)
    nn.utils.parametrizations.weight_norm(made)
    gain = made.get_parameter("parametrizations.weight.original0")
    gain.data.fill_(1.0)
    gain.requires_grad_(False)
    return made


def _without_bias(weight: Tensor, options: dict[str, Any]) -> nn.Module:
    return plain(weight, **{**options, "bias": False})
