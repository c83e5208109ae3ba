"""Norms that a cosine layer makes needless, found by who gives to whom."""

import copy
import inspect
from collections.abc import Iterator
from typing import Any

from torch import fx, nn

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_LAYER_NORMS = (nn.LayerNorm, nn.RMSNorm)
_HOOKS_THAT_COUNT = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

Edge = tuple[str, list[str | None], list[str | None]]
REMOVED = "needless, removed"  # how the line of a norm that went ends


def remove_norms(model: nn.Module, cosine: set[nn.Module]) -> list[str]:
    """Put `Identity` in the place of needless norms; a line for each, and for each that has to stay."""
    lines: list[str] = []
    try:
        edges = _edges(model, lines)
    except Exception as error:  # a model may do anything while it is traced
        found = (str(error) or type(error).__name__).splitlines()[0]
        return [f"all norms stay: torch.fx cannot trace the model ({found}); convert its parts one by one"]
    for name in dict.fromkeys(edge[0] for edge in edges):
        norm = model.get_submodule(name)
        reason: str | None = ""
        for _, givers, takers in (edge for edge in edges if edge[0] == name):
            given, taken = ([one and model.get_submodule(one) for one in names] for names in (givers, takers))
            reason = _why_not(norm, given, taken, cosine)
            if reason is not None:
                break
        if reason is None:
            if isinstance(norm, _BATCH_NORMS):
                _hand_bias_over(norm, given[0])
            for place in _names_of(norm, model):
                parent, _, child = place.rpartition(".")
                setattr(model.get_submodule(parent), child, nn.Identity())
        if reason != "":
            lines.append(f"{name}: {reason or REMOVED}")
    return lines


def _why_not(norm: Any, givers: list[Any], takers: list[Any], cosine: set[nn.Module]) -> str | None:
    """Why a norm stays; empty if it has nothing to do with cosine layers; None if it goes."""
    if type(norm) in _BATCH_NORMS:
        if len(givers) != 1 or givers[0] not in cosine:
            return ""
        around, (layer,) = givers, givers
        if layer.scale.scale != "unit" or not layer.centered or layer.augment:
            return 'stays: only centered cosines with scale="unit" and without augment are normal like it'
        if norm.num_features != len(layer.weight):
            return "stays: it norms another dimension than that of the channels"
        if norm.bias is not None and (norm.bias.dtype, norm.bias.device) != (
            layer.weight.dtype,
            layer.weight.device,
        ):
            return "stays: its bias has another dtype or device than the layer"
    else:
        around = [taker for taker in takers if taker in cosine]
        if not around:
            return ""
        if len(around) < len(takers):
            return "stays: others than cosine layers take what it gives"
        if not all(isinstance(one, nn.Linear) for one in around) or any(
            tuple(norm.normalized_shape) != (one.in_features,) for one in around
        ):
            return "stays: it norms other dimensions than those of a row"
        if type(norm) is nn.LayerNorm and not all(one.centered for one in around):
            return "stays: cosines that are not centered feel the shift"
        if any(one.augment for one in around):
            return "stays: with augment a cosine feels the scale"
    if any(getattr(one, hooks) for one in (norm, *around) for hooks in _HOOKS_THAT_COUNT):
        return "stays: there are hooks on it or on its neighbours"
    weight, bias = norm.weight, None if type(norm) in _BATCH_NORMS else getattr(norm, "bias", None)
    if any(one is not None and one.is_meta for one in (weight, bias)):
        return "stays: its learned factors are on the meta device, where nobody knows them"
    if (weight is not None and bool((weight != 1).any())) or (bias is not None and bool((bias != 0).any())):
        return "stays: its learned factors differ from 1 and 0"
    return None


def _hand_bias_over(norm: Any, layer: Any) -> None:
    """A batch norm takes the bias in front of it out, and adds its own: that parameter stays the same one."""
    layer.bias = norm.bias


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__module__.startswith("cosnorm.") or super().is_leaf_module(m, module_qualified_name)


def _edges(model: nn.Module, lines: list[str]) -> list[Edge]:
    """Those of training and evaluation; raises where one of them cannot be traced.

    With optional arguments given a model is often beyond tracing: then a line says so.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    defaults = {one.name: one.default for one in parameters if one.default is not one.empty}
    found: list[Edge] = []
    for training in (True, False):
        # What a model does while it is traced (counters, lists, caches) is done to a copy.
        found += _traced(copy.deepcopy(model).train(training), defaults or None)
        if defaults:
            try:
                found += _traced(copy.deepcopy(model).train(training), None)
            except Exception as error:
                reason = (str(error) or type(error).__name__).splitlines()[0]
                lines.append(f"norms: not seen with {', '.join(defaults)} given ({reason})")
    return found


def _traced(model: nn.Module, concrete: dict[str, Any] | None) -> Iterator[Edge]:
    """Each norm, the modules whose results it takes, and those that take its own, by name.

    None stands for what is no module, or is called more than once.
    """
    graph = _Tracer().trace(model, concrete_args=concrete)
    called = [node.target for node in graph.nodes if node.op == "call_module"]
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}

    def name_of(node: fx.Node) -> str | None:
        if node.op != "call_module":
            return None
        names = _names_of(model.get_submodule(str(node.target)), model)
        return str(node.target) if sum(target in names for target in called) == 1 else None

    for node in graph.nodes:
        norm = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if norm is not None and type(norm) in (*_BATCH_NORMS, *_LAYER_NORMS):
            givers = [name_of(one) if len(one.users) == 1 else None for one in node.all_input_nodes]
            takers = [name_of(one) for one in node.users]
            alone = name_of(node) is not None and not read.intersection(_names_of(norm, model))
            # One that is called twice, or whose parameters are read, gives to somebody unknown.
            yield str(node.target), givers if alone else [None], takers if alone else [*takers, None]


def _names_of(layer: nn.Module, model: nn.Module) -> list[str]:
    return [name for name, one in model.named_modules(remove_duplicate=False) if one is layer]
