"""Derivatives of an operator, for the dispatcher's Autograd key: first, second and forward, or a refusal."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad

from cosnorm.operators.autocast import without_autocast

Function = Callable[..., Any]

# What each operator computes, for calls on which the dispatcher has nothing else to do.
COMPUTE: dict[Any, Function] = {}
NO_GRADIENT = "{} has no gradient; give it tensors that do not require one: x.detach()"
NO_SECOND = (
    "{}: this gradient cannot be differentiated again; for a gradient penalty or a second-order method use "
    "cosnorm.functional.pairwise_cosine of dense rows, which has second derivatives"
)


@dataclass(frozen=True)
class Backward:
    """The gradient of an operator, itself an operator, and what serves where that one cannot.

    Attributes:
        compute: gradients of the learning arguments from (cotangent, *arguments, *saved, needs), `arguments`
            without `keep`; anything for one that is not needed.
        learns: how many of the first arguments are tensors (or None) that get gradients.
        gradients: the same from (cotangent, *arguments, needs), differentiable, for second derivatives.
            None: a second derivative raises.
        tangent: the forward derivative from (tangents, *arguments), differentiable. None: it raises.
        flops: multiplications and additions from the arguments of `compute`, tensors as their shapes.
    """

    compute: Function
    learns: int
    gradients: Function | None = None
    tangent: Function | None = None
    flops: Function | None = None


def _below(operator: Any, arguments: tuple[Any, ...]) -> Any:
    """The operator below autograd; under a function transform, with what the next level differentiates."""
    if not torch._C._are_functorch_transforms_active():
        with torch._C._AutoDispatchBelowAutograd():
            return (COMPUTE[operator] if _nobody_looks(arguments) else operator)(*arguments)
    # The body of an autograd function has gradients switched off, and the levels further out want theirs.
    with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True), torch._C._AutoDispatchBelowAutograd():
        return operator(*arguments)


def _nobody_looks(arguments: tuple[Any, ...]) -> bool:
    """Whether the dispatcher has nothing left to do but call `compute`: that saves a second way through it.

    After a matrix product the caches hold nothing of it, and the first touch of every line costs.
    """
    if (
        torch._C._len_torch_dispatch_stack()
        or torch._C._get_tracing_state() is not None
        or torch._C._is_any_autocast_enabled()
        # Batched cotangents of torch.autograd.grad(is_grads_batched=True) are of torch's own type.
        or torch._C._functorch.is_legacy_batchedtensor(arguments[0])
    ):
        return False
    for one in arguments:
        kind = type(one)
        if (kind is Tensor or kind is torch.nn.Parameter) and not one.is_meta:
            continue
        if isinstance(one, Tensor):
            return False
    return True


def _applying(function: type[torch.autograd.Function]) -> Function:
    """`function.apply` for use at the Autograd key, where one level of transforms has come by already.

    `Function.apply` itself would hand the call to all levels again.
    """
    apply = super(torch.autograd.Function, function).apply  # type: ignore[misc]

    def call(*arguments: Any) -> Any:
        if not torch._C._are_functorch_transforms_active():
            return apply(*arguments)
        with enable_single_level_autograd_function():
            return apply(*arguments)

    return call


def differentiating(operator: Any, gradient: Any, backward: Backward) -> Function:
    """The Autograd kernel of an operator that has a gradient."""
    learns, closed_form, tangent = backward.learns, backward.gradients, backward.tangent
    others = len(operator._schema.returns) - 1
    each = str(operator._schema.arguments[-1].type) == "int"
    kinds = [str(one.type) for one in operator._schema.arguments]
    constants = [place for place in range(learns, len(kinds)) if "Tensor" in kinds[place]]

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            results = _below(operator, arguments)
            _, *saved = (results,) if isinstance(results, Tensor) else results
            tensors = [one if isinstance(one, Tensor) else None for one in arguments]
            ctx.save_for_backward(*tensors, *saved)
            if not _reverse_mode_alone():
                ctx.save_for_forward(*tensors)
            ctx.others = [None if isinstance(one, Tensor) else one for one in arguments]
            ctx.mark_non_differentiable(*saved)
            ctx.set_materialize_grads(False)  # no zeros for what is only kept
            return results

        @staticmethod
        def backward(ctx: Any, cotangent: Tensor | None, *_: Any) -> tuple[Any, ...]:
            if cotangent is None:
                return (None,) * len(ctx.others)
            arguments, saved = _saved(ctx)
            needs = list(ctx.needs_input_grad[:learns])
            if closed_form is not None and torch.is_grad_enabled():
                # A second derivative, or another level of a function transform, may follow.
                with without_autocast():
                    found = closed_form(cotangent, *arguments[:-1], needs)
            else:
                given = (cotangent, *arguments[:-1], *saved, needs)
                alone = not torch.is_grad_enabled() and _reverse_mode_alone()
                found = _below(gradient, given) if alone else gradient(*given)
            found = (found,) if isinstance(found, Tensor) else found
            wanted = [one if needed else None for one, needed in zip(found, needs, strict=True)]
            return *wanted, *[None] * (len(arguments) - learns)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            if tangent is None:
                raise RuntimeError(
                    f"{operator._schema.name} has no forward derivative; use reverse mode: backward or jacrev"
                )
            arguments, _ = _saved(ctx)
            with without_autocast(), torch.enable_grad():
                if _forward_levels() > 1:
                    # Torch has forward derivatives off within `jvp`; the levels further out want theirs.
                    with forward_ad._set_fwd_grad_enabled(True):
                        found = tangent(tangents[:learns], *map(_primal, arguments[:-1]))
                else:
                    found = tangent(tangents[:learns], *arguments[:-1])
            return found if others == 0 else (found, *[None] * others)

    apply = _applying(Differentiable)

    def kernel(*arguments: Any) -> Any:
        recording = torch.is_grad_enabled()
        learning = [recording and one is not None and one.requires_grad for one in arguments[:learns]]
        for place in constants if recording else ():
            if arguments[place] is not None and arguments[place].requires_grad:
                raise RuntimeError(_CONSTANT.format(operator._schema.arguments[place].name))
        if not any(learning) and _reverse_mode_alone():
            return _below(operator, arguments)
        # Levels further out may have asked for more.
        keep = arguments[-1]
        bits = sum(one << place for place, one in enumerate(learning))
        return apply(*arguments[:-1], bits | keep if each else bits > 0 or keep)

    return kernel


def _reverse_mode_alone() -> bool:
    """Whether nothing but a recorded gradient could ask for a derivative."""
    return forward_ad._current_level < 0 and not torch._C._are_functorch_transforms_active()


def _saved(ctx: Any) -> tuple[list[Any], list[Tensor]]:
    """The arguments as they were given, and the results that were kept."""
    number = len(ctx.others)
    tensors = ctx.saved_tensors
    pairs = zip(tensors[:number], ctx.others, strict=True)
    arguments = [other if one is None else one for one, other in pairs]
    return arguments, list(tensors[number:])


def _forward_levels() -> int:
    """How many `torch.func.jvp` are inside each other here."""
    stack = torch._C._functorch.get_interpreter_stack() or []
    return sum(one.key() == torch._C._functorch.TransformType.Jvp for one in stack)


def _primal(argument: Any) -> Any:
    return forward_ad.unpack_dual(argument).primal if isinstance(argument, Tensor) else argument


def refusing(operator: Any, message: str) -> Function:
    """The Autograd kernel of an operator that cannot be differentiated: it raises, and never gives zero."""

    class Refusing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            return _below(operator, arguments)

        @staticmethod
        def backward(ctx: Any, *_: Any) -> Any:
            raise RuntimeError(message.format(operator._schema.name))

        @staticmethod
        def jvp(ctx: Any, *_: Any) -> Any:
            raise RuntimeError(message.format(operator._schema.name))

    apply = _applying(Refusing)

    def kernel(*arguments: Any) -> Any:
        if not torch.is_grad_enabled() and _reverse_mode_alone():
            with torch._C._AutoDispatchBelowAutograd():
                return operator(*arguments)
        return apply(*arguments)

    return kernel


_CONSTANT = "{0} requires a gradient but receives none here; use {0}.detach(), or a layer that is not folded"
