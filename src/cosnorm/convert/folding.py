"""Models for inference: cosine layers with unit weights."""

import copy

from torch import nn

from cosnorm.nn.conv import CosineConv1d, CosineConv2d, CosineConv3d
from cosnorm.nn.folded import FoldedCosineConv, FoldedCosineLinear
from cosnorm.nn.linear import CosineLinear


def fold(module: nn.Module) -> nn.Module:
    """A copy of a model in which every cosine layer has unit vectors for a weight.

    The weight's norms and means are computed once, here, and not again in each call. The outputs are those of
    the model within rounding; the copy does not learn, as its cosine layers have buffers for parameters.

    Args:
        module: a cosine layer, or a model with any number of them; it stays as it is.

    Returns:
        The copy, in evaluation mode.

    Raises:
        TypeError: `module` is no `torch.nn.Module`.

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
    return _fold(copy.deepcopy(module)).eval()


def _fold(module: nn.Module) -> nn.Module:
    if isinstance(module, CosineLinear):
        return FoldedCosineLinear(module)
    if isinstance(module, (CosineConv1d, CosineConv2d, CosineConv3d)):
        return FoldedCosineConv(module)
    for name, child in module.named_children():
        setattr(module, name, _fold(child))
    return module
