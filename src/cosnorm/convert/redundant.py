"""Norms that a cosine layer makes needless, found by who gives to whom."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import fx, nn

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_LAYER_NORMS = (nn.LayerNorm, nn.RMSNorm)


def remove_norms(model: nn.Module, cosine: set[nn.Module]) -> list[str]:
    """Put `Identity` in the place of needless norms; a line for each, and for each that has to stay."""
    lines: list[str] = []
    names = {layer: name for name, layer in model.named_modules()}
    try:
        edges = list(_traced(model))
    except Exception as error:  # a model may do anything while it is traced
        found = (str(error) or type(error).__name__).splitlines()[0]
        lines.append(
            f"torch.fx cannot trace the model ({found}): only neighbours in Sequential were looked at"
        )
        edges = list(_neighbours(model))
    for norm, givers, takers in edges:
        reason = _why_not(norm, givers, takers, cosine)
        if reason is None:
            if isinstance(norm, _BATCH_NORMS):
                _hand_bias_over(norm, givers[0])
            for name in _names_of(norm, model):
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, nn.Identity())
        if reason != "":
            lines.append(f"{names[norm]}: {reason or 'needless, removed'}")
    return lines


def _why_not(norm: Any, givers: list[Any], takers: list[Any], cosine: set[nn.Module]) -> str | None:
    """Why a norm stays; empty if it has nothing to do with cosine layers; None if it goes."""
    if isinstance(norm, _BATCH_NORMS):
        if len(givers) != 1 or givers[0] not in cosine:
            return ""
        same = norm.num_features == len(givers[0].weight)
        return None if same else "stays: it norms another dimension than that of the channels"
    ours = [taker for taker in takers if taker in cosine]
    if not ours:
        return ""
    if len(ours) < len(takers):
        return "stays: others than cosine layers take what it gives"
    if not all(
        isinstance(one, nn.Linear) and tuple(norm.normalized_shape) == (one.in_features,) for one in ours
    ):
        return "stays: it norms other dimensions than those of a row"
    if isinstance(norm, nn.LayerNorm) and not all(one.centered for one in ours):
        return "stays: cosines that are not centered feel the shift"
    weight, bias = norm.weight, getattr(norm, "bias", None)
    if (weight is not None and bool((weight != 1).any())) or (bias is not None and bool((bias != 0).any())):
        return "stays: its learned factors differ from 1 and 0"
    return None


def _hand_bias_over(norm: Any, layer: Any) -> None:
    """A batch norm takes the bias in front of it out, and adds its own."""
    bias = layer.weight.new_zeros(len(layer.weight)) if norm.bias is None else norm.bias.detach().clone()
    layer.bias = nn.Parameter(bias.to(layer.weight), requires_grad=layer.weight.requires_grad)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__module__.startswith("cosnorm.") or super().is_leaf_module(m, module_qualified_name)


def _traced(model: nn.Module) -> Iterator[tuple[nn.Module, list[Any], list[Any]]]:
    """Each norm that is called once, the modules whose results it takes, and those that take its own."""
    graph = _Tracer().trace(model)
    called = [node.target for node in graph.nodes if node.op == "call_module"]

    def module_of(node: fx.Node) -> Any:
        return model.get_submodule(str(node.target)) if node.op == "call_module" else None

    for node in graph.nodes:
        norm = module_of(node)
        if isinstance(norm, (*_BATCH_NORMS, *_LAYER_NORMS)) and called.count(node.target) == 1:
            givers = [module_of(one) if len(one.users) == 1 else None for one in node.all_input_nodes]
            givers = [one if _is_called_once(one, model, called) else None for one in givers]
            yield norm, givers, [module_of(one) for one in node.users]


def _is_called_once(layer: nn.Module | None, model: nn.Module, called: list[Any]) -> bool:
    """Whether a layer gives to one place alone: one that is called twice must not take over a bias."""
    return layer is not None and sum(target in _names_of(layer, model) for target in called) == 1


def _names_of(layer: nn.Module, model: nn.Module) -> list[str]:
    return [name for name, one in model.named_modules(remove_duplicate=False) if one is layer]


def _neighbours(model: nn.Module) -> Iterator[tuple[nn.Module, list[Any], list[Any]]]:
    """The same of what stands side by side in a `Sequential`, and nowhere else."""
    uses = Counter(part for one in model.modules() for part in one._modules.values())
    for sequence in model.modules():
        if isinstance(sequence, nn.Sequential):
            parts: list[Any] = [None, *sequence, None]
            for before, norm, behind in zip(parts, parts[1:], parts[2:], strict=False):
                if isinstance(norm, (*_BATCH_NORMS, *_LAYER_NORMS)) and uses[norm] == 1:
                    yield norm, [before if uses[before] == 1 else None], [behind]
