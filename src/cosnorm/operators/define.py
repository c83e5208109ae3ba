"""What an operator is: a schema and its functions, written once. `define` makes the rest.

Each computation of the library is an operator of torch's dispatcher. Above it there is only torch, so that
eager code, `torch.compile`, tracers, `vmap`, fake and meta tensors, autocast and dispatch modes all see the
same thing; below it nobody knows autograd. The autograd function (`differentiate.py`) stands at the
dispatcher's Autograd key, not around the call: Dynamo, `jit.trace` and modes see one node, and every level of
`torch.func` comes by, as with torch's own operators.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cosnorm.operators.autocast import DEVICES, autocasting
from cosnorm.operators.differentiate import (
    COMPUTE,
    NO_GRADIENT,
    NO_SECOND,
    Backward,
    constant,
    differentiating,
    refusing,
)
from cosnorm.operators.flops import count_flops

Function = Callable[..., Any]

_LIBRARY = torch.library.Library("cosnorm", "DEF")
_FORMULAS: dict[Any, Function] = {}


def define(
    schema: str,
    compute: Function,
    shapes: Function,
    *,
    backward: Backward | None = None,
    flops: Function | None = None,
    batch: Function | None = None,
    autocast: Function | None = None,
    formula: Function | None = None,
    is_constant: bool = False,
) -> Any:
    """Register an operator `cosnorm::…` and return it.

    Args:
        schema: name, arguments and results, without defaults. Tensors are the first arguments, those that
            learn before all, and the first of all is never None. Of the results only the first has a
            gradient; the others are what the backward pass wants, and need be made only where the last
            argument, `bool keep`, says so: callers give False, the autograd function sets it. `int keep`
            (callers: 0) has a bit for each argument that learns. Without a `backward` nothing can be
            differentiated.
        compute: makes the results, from tensors without autograd; on any device.
        shapes: empty results of the right shapes, dtypes and strides from tensors without data.
        backward: its gradient.
        flops: multiplications and additions, from the arguments with tensors as their shapes.
        batch: the rule for `vmap`, as `torch.library.register_vmap` takes it; None: one after the other.
        autocast: gives a floating-point argument in the dtype that torch's own function would take under
            autocast, from the tensor, the type of device and the autocast dtype; None: as it is.
        formula: the first result in torch's own operators, from the arguments but `keep`, for programs that
            are to run without this library.
        is_constant: the results have no gradient, because another operator has it for them; else an operator
            without a `backward` refuses one.
    """
    name, arguments, results = _parts(schema)
    operator = _register(schema, compute, shapes, flops, batch)
    if backward is None:
        kernel = constant(operator) if is_constant else refusing(operator, NO_GRADIENT)
    else:
        saved = [f"Tensor saved_{number}" for number in range(1, len(results))]
        inputs = ["Tensor cotangent", *arguments[:-1], *saved, "bool[] needs"]
        returned = ", ".join(["Tensor"] * backward.learns)
        gradient = _register(
            f"{name}_backward({', '.join(inputs)}) -> ({returned})",
            _in_order(backward),
            _gradient_shapes(backward.learns),
            backward.flops,
            None,
        )
        _LIBRARY.impl(f"{name}_backward", refusing(gradient, NO_SECOND), "Autograd")
        for key in DEVICES:
            _LIBRARY.impl(f"{name}_backward", autocasting(gradient, key, None), key)
        kernel = differentiating(operator, gradient, backward)
    _LIBRARY.impl(name, kernel, "Autograd")
    if formula is not None:
        _FORMULAS[operator] = _with_empty_results(formula, len(results))
    for key in DEVICES:
        _LIBRARY.impl(name, autocasting(operator, key, autocast), key)
    return operator


def formulas() -> dict[Any, Function]:
    """Torch's own operators for each of ours, as a table of decompositions for an exported program."""
    return dict(_FORMULAS)


def _with_empty_results(formula: Function, number: int) -> Function:
    def decomposition(*arguments: Any) -> Any:
        output = formula(*arguments[:-1])
        return output if number == 1 else (output, *(output.new_empty(0) for _ in range(number - 1)))

    return decomposition


def _parts(schema: str) -> tuple[str, list[str], list[str]]:
    """Name, arguments and results of a schema."""
    name, _, rest = schema.partition("(")
    arguments, _, results = rest.partition(") -> ")
    return name, arguments.split(", "), results.strip("()").split(", ")


def _register(
    schema: str, compute: Function, shapes: Function, flops: Function | None, batch: Function | None
) -> Any:
    name = _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order))
    _LIBRARY.impl(name, compute, "CompositeExplicitAutograd")
    COMPUTE[f"cosnorm::{name}"] = compute
    torch.library.register_fake(f"cosnorm::{name}", shapes, lib=_LIBRARY)
    packet = getattr(torch.ops.cosnorm, name)
    torch.library.register_vmap(f"cosnorm::{name}", batch or one_by_one(packet.default), lib=_LIBRARY)
    if flops is not None:
        count_flops(packet, lambda *shapes, out_shape=None, **_: flops(*shapes))
    return packet.default


def _in_order(backward: Backward) -> Function:
    """The gradients in the memory order of what they belong to, as compiled code is told."""

    def compute(cotangent: Tensor, *arguments: Any) -> Any:
        found = list(backward.compute(cotangent, *arguments))
        for place, needed in enumerate(arguments[-1]):
            if not needed:
                found[place] = cotangent.new_empty(0)
            elif found[place].stride() != arguments[place].stride():
                ordered = torch.empty_like(arguments[place])
                if found[place].stride() != ordered.stride():
                    found[place] = ordered.copy_(found[place])
        return tuple(found) if backward.learns > 1 else found[0]

    return compute


def _gradient_shapes(learns: int) -> Function:
    def shapes(cotangent: Tensor, *arguments: Any) -> Any:
        found = tuple(
            torch.empty_like(one) if needed else cotangent.new_empty(0)
            for one, needed in zip(arguments[:learns], arguments[-1], strict=True)
        )
        return found if learns > 1 else found[0]

    return shapes


def one_by_one(operator: Any) -> Function:
    """The rule for `vmap` of any operator: one call for each sample."""

    def rule(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        columns = [
            one.unbind(dim) if isinstance(one, Tensor) and dim is not None else [one] * info.batch_size
            for one, dim in zip(arguments, in_dims, strict=True)
        ]
        results = [operator(*sample) for sample in zip(*columns, strict=True)]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])

    return rule
