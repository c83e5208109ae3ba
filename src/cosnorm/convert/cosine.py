"""An existing model with cosine layers in place of its own, and the way back."""

import copy
import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from cosnorm.convert.bypasses import switch_bypasses_off, switch_bypasses_on
from cosnorm.convert.redundant import REMOVED, remove_norms
from cosnorm.functional.checks import check_augment, check_flag
from cosnorm.nn.conv import CosineConv1d, CosineConv2d, CosineConv3d
from cosnorm.nn.folded import FoldedCosineConv, FoldedCosineLinear, SeparateCosineLinear
from cosnorm.nn.linear import CosineLinear
from cosnorm.nn.scale import Scale

Filter = Callable[[nn.Module, str], bool]

_COSINE: dict[type, type] = {
    nn.Linear: CosineLinear,
    nn.Conv1d: CosineConv1d,
    nn.Conv2d: CosineConv2d,
    nn.Conv3d: CosineConv3d,
}
_PLAIN = {cosine: plain for plain, cosine in _COSINE.items()}
_WHERE = "to_cosine"


def to_cosine(
    module: nn.Module,
    *,
    filter_fn: Filter | None = None,
    centered: bool = True,
    scale: float | str | None = "unit",
    augment: float = 0.0,
    remove_norm: bool = False,
    inplace: bool = False,
) -> nn.Module:
    """A model with cosine layers in place of its own, to be trained at its own learning rate.

    Each chosen layer gets another class and stays the object that it was: its name, parameters (also those
    that are shared), bias, dtype, device, training flag, `requires_grad` and hooks. What it computes is
    another function of the same weights: a model that was trained must be trained again.

    Args:
        module: the model, or one layer.
        filter_fn: takes a layer and its name, and says whether it is replaced. None: all but the linear layer
            that was registered last (as a rule the head, whose outputs are no pre-activations); layers with
            so few numbers to a cosine that it is only a sign: one, or two if centered; layers of attention
            (below a module whose class has that in its name) and convolutions that cut their input into
            patches (stride and kernel are equal), since networks learned less with those replaced. A model
            that is one layer is replaced, if its cosines are more than signs.
        centered: of the new layers.
        scale: of the new layers, see `cosnorm.nn.CosineLinear`; "unit" suits the usual learning rates.
        augment: of the new layers.
        remove_norm: put `torch.nn.Identity` in the place of norms that a cosine layer makes needless. A batch
            norm goes if it takes nothing but what a layer with `scale="unit"` gives and its factor is still
            1; its bias becomes that of the layer. A layer or RMS norm goes if it gives to linear cosine
            layers alone and its learned factors, if any, are still 1 and 0: without `augment` a centered
            cosine does not feel shift and scale of a row, a plain one not its scale: the outputs stay.
            `torch.fx` finds who gives to whom, in training and evaluation, with optional arguments left out
            and, where it can, given; a model that it cannot trace keeps its norms (convert its parts then). A
            branch on an attribute of the model is not seen.
        inplace: change the model itself; else a deep copy. An optimizer that has its parameters goes on; a
            learned scale is a new one, of which it knows nothing.

    Returns:
        The model. The logger "cosnorm.convert" says at level INFO what was replaced, what was not, and why.

    Raises:
        TypeError: `module` is no `torch.nn.Module`, or scripted; a chosen layer is parametrized,
            weight-normed, pruned, quantized, fused, lazy or complex, or has a forward that somebody put
            around it: the message names it.
        ValueError: a wrong option.

    `torch.nn.MultiheadAttention` reads the weight of its `out_proj` itself, so that this stays a plain layer.
    `torch.nn.TransformerEncoderLayer` does so with its linear layers in inference: that path is switched off
    where one of them is replaced. What else takes a layer's weight instead of calling it (LoRA's merging, an
    own `F.linear(x, layer.weight)`) computes what it did.

    Source: Luo et al., "Cosine Normalization", arXiv 1702.05870, eqs. 4 and 17.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(784, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Linear(100, 10))
        >>> to_cosine(model, remove_norm=True)
        Sequential(
          (0): CosineLinear(
            in_features=784, out_features=100, bias=True, centered=True, augment=0.0
            (scale): Scale('unit')
          )
          (1): Identity()
          (2): ReLU()
          (3): Linear(in_features=100, out_features=10, bias=True)
        )
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"{_WHERE}: module must be a torch.nn.Module, got {type(module).__name__}")
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError(
            f"{_WHERE}: a scripted module cannot be changed; convert the model before it is scripted"
        )
    if filter_fn is not None and not callable(filter_fn):
        raise TypeError(f"{_WHERE}: filter_fn must take a layer and its name, got {filter_fn!r}")
    for name, flag in (("centered", centered), ("remove_norm", remove_norm), ("inplace", inplace)):
        check_flag(_WHERE, name, flag)
    augment = check_augment(_WHERE, augment)
    Scale(scale, 1, _WHERE)  # raises
    layers = dict(module.named_modules())
    left_out = {} if filter_fn else _left_out(layers, centered)
    names, lines = _choose(layers, filter_fn or (lambda _, name: name not in left_out), left_out)
    model = module if inplace else copy.deepcopy(module)
    layers = dict(model.named_modules())
    for name in names:
        _become_cosine(layers[name], centered=centered, augment=augment, scale=scale)
        lines.append(f"{name or 'the model'}: {type(layers[name]).__name__}")
    # Those that were there before are as good as new ones.
    cosine = {layer for layer in layers.values() if type(layer) in _PLAIN}
    lines += switch_bypasses_off(layers, cosine)
    removed = remove_norms(model, cosine) if remove_norm else []
    logger = logging.getLogger("cosnorm.convert")
    for line in [*lines, *removed]:
        logger.info(line)
    if remove_norm and not any(line.endswith(REMOVED) for line in removed):
        found = "; ".join(removed) or "none stands beside a cosine layer"
        logger.warning("remove_norm=True removed no norm: %s", found)
    return model


def to_plain(module: nn.Module, *, inplace: bool = False) -> nn.Module:
    """A model with torch's own layers in place of cosine layers: the way back from `to_cosine`.

    The layers keep their weights and biases, and lose their scales. Norms that were removed do not come back;
    folded layers, and cosine layers of a class of their own (parametrized ones), stay.

    Args:
        module: the model, or one layer.
        inplace: change the model itself; else a deep copy.

    Returns:
        The model.

    Raises:
        TypeError: `module` is no `torch.nn.Module`.

    Example:
        >>> from torch import nn
        >>> to_plain(to_cosine(nn.Linear(3, 2)))
        Linear(in_features=3, out_features=2, bias=True)
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"to_plain: module must be a torch.nn.Module, got {type(module).__name__}")
    model = module if inplace else copy.deepcopy(module)
    for layer in list(model.modules()):
        if type(layer) in _PLAIN:
            for name in ("centered", "augment", "scale", "impl", "precision"):
                if hasattr(layer, name):
                    delattr(layer, name)
            layer.__class__ = _PLAIN[type(layer)]
    ours = (*_PLAIN, FoldedCosineLinear, FoldedCosineConv, SeparateCosineLinear)
    for layer in model.modules():
        if not any(isinstance(one, ours) for one in layer.modules()):
            switch_bypasses_on(layer)
    return model


def _left_out(layers: dict[str, nn.Module], centered: bool) -> dict[str, str]:
    """The layers that stay by default, by name, and why."""
    linear = [
        layer for layer in layers.values() if isinstance(layer, nn.Linear) and not _is_of_attention(layer)
    ]
    last = linear[-1] if linear and len(layers) > 1 else None
    # Cosines of one number are signs, and so are centered ones of two.
    least = 3 if centered else 2
    found: dict[str, str] = {}
    for name, layer in layers.items():
        if layer is last:
            found[name] = "the last linear layer, whose outputs are no pre-activations"
        elif type(layer) not in _COSINE:
            continue
        elif _fan_in(layer) < least:
            found[name] = "a cosine of so few numbers is a sign"
        elif name and _cuts(layer):
            found[name] = "it cuts its input into patches, whose lengths say something"
        elif owner := _attention_around(layers, name):
            found[name] = f"of {owner}, which wants lengths; a filter_fn takes it in"
    return found


def _cuts(layer: Any) -> bool:
    """Whether it is a convolution whose fields lie side by side, as those of patches do."""
    return not isinstance(layer, nn.Linear) and layer.stride == layer.kernel_size and max(layer.stride) > 1


def _attention_around(layers: dict[str, nn.Module], name: str) -> str | None:
    """The class of a module below the model that a layer is part of, and that is attention by its name."""
    parts = name.split(".")
    around = (type(layers[".".join(parts[:count])]).__name__ for count in range(1, len(parts)))
    return next((kind for kind in around if "attention" in kind.lower()), None)


def _choose(
    layers: dict[str, nn.Module], accept: Filter, left_out: dict[str, str]
) -> tuple[list[str], list[str]]:
    """The names of the layers to replace, and a line for each that stays."""
    names, lines, refused = [], [], []
    for name, layer in layers.items():
        reason = _why_not(layer)
        if reason is None and type(layer) not in _COSINE:
            continue
        if not accept(layer, name):
            lines.append(f"{name}: left out{f' ({left_out[name]})' if name in left_out else ''}")
        elif reason is None:
            names.append(name)
        elif reason.startswith("stays"):
            lines.append(f"{name}: {reason}")
        else:
            refused.append(f"{name or 'the model'} ({type(layer).__name__}) {reason}")
    if refused:
        raise TypeError(f"{_WHERE}: {'; '.join(refused)}; or leave it out by a filter_fn")
    return names, lines


def _why_not(layer: Any) -> str | None:
    """Why a layer with a weight is not replaced; None: it is, or it is of no such kind."""
    if type(layer).__module__.startswith(("torch.ao.nn", "torch.nn.quantized", "torch.nn.intrinsic")):
        return (
            "is quantized or fused; convert the model before it is quantized" if _has_weight(layer) else None
        )
    if not isinstance(layer, tuple(_COSINE)) or type(layer) in _PLAIN:
        return None
    if parametrize.is_parametrized(layer):
        return "is parametrized; take that away first: torch.nn.utils.parametrize.remove_parametrizations"
    if type(layer) in _COSINE:
        if "forward" in vars(layer):
            return "has a forward of its own, which somebody put around it; take that away first"
        if "weight" not in layer._parameters or "bias" not in layer._parameters:
            return (
                "computes its weight or bias from others (weight norm, pruning); make it one first: "
                "torch.nn.utils.remove_weight_norm, remove_spectral_norm or prune.remove"
            )
        if layer.weight.is_complex():
            return "has complex weights; cosine layers take float16, bfloat16, float32 or float64"
        return None
    if _is_of_attention(layer):
        return "stays: torch.nn.MultiheadAttention reads its weight itself"
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        return "has no weight yet; call the model once first"
    return f"stays: {type(layer).__name__} is a class of its own, which may compute something else"


def _is_of_attention(layer: nn.Module) -> bool:
    return type(layer).__name__ == "NonDynamicallyQuantizableLinear"


def _fan_in(layer: Any) -> int:
    return math.prod(layer.weight.shape[1:])


def _has_weight(layer: nn.Module) -> bool:
    return hasattr(layer, "weight") or any(isinstance(one, tuple(_COSINE)) for one in layer.children())


def _become_cosine(layer: Any, *, centered: bool, augment: float, scale: float | str | None) -> None:
    kind = _COSINE[type(layer)]
    options: dict[str, Any] = {"centered": centered, "augment": augment, "impl": "auto"}
    if kind is CosineLinear:
        options["precision"] = None
    weight = layer.weight
    layer.scale = Scale(scale, _fan_in(layer), kind.__name__, weight.device, weight.dtype)
    layer.scale.requires_grad_(weight.requires_grad).train(layer.training)
    layer.__dict__.update(options)
    layer.__class__ = kind
