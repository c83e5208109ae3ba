"""Models for inference: cosine layers with unit weights."""

import copy
from typing import Any

from torch import nn

from cosnorm.convert.bypasses import switch_bypasses_off
from cosnorm.functional.checks import check_flag
from cosnorm.nn.conv import CosineConv1d, CosineConv2d, CosineConv3d
from cosnorm.nn.folded import FoldedCosineConv, FoldedCosineLinear, SeparateCosineLinear, check_foldable
from cosnorm.nn.linear import CosineLinear

_LAYERS = (CosineLinear, CosineConv1d, CosineConv2d, CosineConv3d)
# What a layer hands over to its folded form: its forward and backward hooks.
_MOVED = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_is_full_backward_hook",
    "_backward_pre_hooks",
)


def fold(module: nn.Module, *, quantizable: bool = False) -> nn.Module:
    """A copy of a model in which every cosine layer has unit vectors for a weight.

    The weight's norms and means are computed once, here, and not again in each call. The outputs are those of
    the model within rounding; the copy does not learn, as its cosine layers have buffers for parameters. A
    layer that stands in several places is folded once, and keeps its forward and backward hooks. One of 8-bit
    products (`precision="fp8"`) computes in the dtype of its input then.

    Args:
        module: a cosine layer, or a model with any number of them; it stays as it is.
        quantizable: make two modules of a linear cosine layer, unit rows and a `torch.nn.Linear` of unit
            weights behind them: what `quantize_dynamic` and torchao look for. In float that is slower.
            Convolutions, which these leave alone, are folded as without.

    Returns:
        The copy, in evaluation mode.

    Raises:
        TypeError: `module` is no `torch.nn.Module`; a cosine layer has a `forward` of its own, by its class
            or put around it, or computes its weight or bias from others (old weight norm, pruning): the
            message names it.

    Example:
        >>> import torch
        >>> from cosnorm.nn import CosineLinear
        >>> model = torch.nn.Sequential(CosineLinear(8, 16), torch.nn.ReLU(), CosineLinear(16, 3))
        >>> x = torch.randn(5, 8)
        >>> torch.allclose(fold(model)(x), model(x), atol=1e-6)
        True
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"fold: module must be a torch.nn.Module, got {type(module).__name__}")
    for name, layer in module.named_modules():
        if isinstance(layer, _LAYERS):
            check_foldable(f"fold: {name or 'the model'}", layer)
    check_flag("fold", "quantizable", quantizable)
    linear = SeparateCosineLinear if quantizable else FoldedCosineLinear
    model = _fold(copy.deepcopy(module), linear, {})
    layers = dict(model.named_modules())
    folded = (linear, FoldedCosineConv)
    switch_bypasses_off(layers, {layer for layer in layers.values() if isinstance(layer, folded)})
    return model.eval()


def _fold(module: nn.Module, linear: Any, done: dict[nn.Module, nn.Module]) -> nn.Module:
    if module not in done:
        if isinstance(module, _LAYERS):
            kind = linear if isinstance(module, CosineLinear) else FoldedCosineConv
            done[module] = kind(module)
            for name in _MOVED:
                setattr(done[module], name, getattr(module, name))
        else:
            done[module] = module
            for name, child in module._modules.items():
                module._modules[name] = None if child is None else _fold(child, linear, done)
    return done[module]
