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

# What each operator computes, by name, for calls on which the dispatcher has nothing else to do.
COMPUTE: dict[str, Function] = {}
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


# Types of arguments to which the dispatcher has nothing to say; tensors of all other types see every call.
_PLAIN = frozenset({Tensor, torch.nn.Parameter, bool, int, float, str, list, tuple, type(None)})


def _below(operator: Any) -> Function:
    """The operator below autograd; under a function transform, with what the next level differentiates."""
    compute = COMPUTE[operator._schema.name]

    def below(*arguments: Any) -> Any:
        if _nobody_looks(arguments):
            return compute(*arguments)
        if not torch._C._are_functorch_transforms_active():
            with torch._C._AutoDispatchBelowAutograd():
                return operator(*arguments)
        # The body of an autograd function has gradients switched off; the levels further out want theirs.
        with (
            torch.enable_grad(),
            forward_ad._set_fwd_grad_enabled(True),
            torch._C._AutoDispatchBelowAutograd(),
        ):
            return operator(*arguments)

    return below


# One level of transforms has come by already; `torch.autograd.Function` would hand the call to all again.
_OneLevel: Any = torch.autograd.function._SingleLevelFunction


def _nobody_looks(arguments: tuple[Any, ...]) -> bool:
    """Whether the dispatcher has nothing left to do but call `compute`: that saves a second way through it.

    After a matrix product the caches hold nothing of it, and the first touch of every line costs.
    """
    return not (
        torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._get_tracing_state() is not None
        or torch._C._is_any_autocast_enabled()
        # Batched cotangents of torch.autograd.grad(is_grads_batched=True) are of torch's own type.
        or torch._C._functorch.is_legacy_batchedtensor(arguments[0])
        or arguments[0].is_meta
        or not _PLAIN.issuperset(map(type, arguments))
    )


def _applying(function: Any) -> tuple[Function, Function]:
    """`function.apply` at the Autograd key: where no transform is active, and where one may be."""
    apply = function.apply

    def of_one_level(*arguments: Any) -> Any:
        with enable_single_level_autograd_function():
            return apply(*arguments)

    return apply, of_one_level


def differentiating(operator: Any, gradient: Any, backward: Backward) -> Function:
    """The Autograd kernel of an operator that has a gradient."""
    learns, closed_form, tangent = backward.learns, backward.gradients, backward.tangent
    others = len(operator._schema.returns) - 1
    given = operator._schema.arguments
    # The tensors come first, and those that learn before all.
    tensors = sum("Tensor" in str(one.type) for one in given)
    assert all("Tensor" in str(one.type) for one in given[:tensors])
    constants = range(learns, tensors)
    each = str(given[-1].type) == "int"
    nothing = (None,) * (len(given) - learns)
    forward_below, backward_below = _below(operator), _below(gradient)

    class Differentiable(_OneLevel):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            results = forward_below(*arguments)
            saved = results[1:] if others else ()
            ctx.save_for_backward(*arguments[:tensors], *saved)
            ctx.options = arguments[tensors:-1]
            if not _reverse_mode_alone():
                ctx.save_for_forward(*arguments[:tensors])
            ctx.mark_non_differentiable(*saved)
            ctx.set_materialize_grads(False)  # no zeros for what is only kept
            return results

        @staticmethod
        def backward(ctx: Any, cotangent: Tensor | None, *_: Any) -> tuple[Any, ...]:
            if cotangent is None:
                return (None,) * len(given)
            kept = ctx.saved_tensors
            arguments = cotangent, *kept[:tensors], *ctx.options
            needs = list(ctx.needs_input_grad[:learns])
            if not torch.is_grad_enabled() and _reverse_mode_alone():
                found = backward_below(*arguments, *kept[tensors:], needs)
            elif closed_form is not None and torch.is_grad_enabled():
                # A second derivative, or another level of a function transform, may follow.
                with without_autocast():
                    found = closed_form(*arguments, needs)
            else:
                found = gradient(*arguments, *kept[tensors:], needs)
            found = (found,) if learns == 1 and isinstance(found, Tensor) else found
            if not all(needs):
                found = [one if needed else None for one, needed in zip(found, needs, strict=True)]
            return *found, *nothing

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            if tangent is None:
                raise RuntimeError(
                    f"{operator._schema.name} has no forward derivative; use reverse mode: backward or jacrev"
                )
            arguments = *ctx.saved_tensors[:tensors], *ctx.options
            with without_autocast(), torch.enable_grad():
                if _forward_levels() > 1:
                    # Torch has forward derivatives off within `jvp`; the levels further out want theirs.
                    with forward_ad._set_fwd_grad_enabled(True):
                        found = tangent(tangents[:learns], *map(_primal, arguments))
                else:
                    found = tangent(tangents[:learns], *arguments)
            return found if others == 0 else (found, *[None] * others)

    apply, apply_one_level = _applying(Differentiable)

    def kernel(*arguments: Any) -> Any:
        learning = 0
        if torch.is_grad_enabled():
            for place in range(learns):
                if arguments[place] is not None and arguments[place].requires_grad:
                    learning |= 1 << place
            for place in constants:
                if arguments[place] is not None and arguments[place].requires_grad:
                    raise RuntimeError(_CONSTANT.format(given[place].name))
        alone = _reverse_mode_alone()
        if alone and not learning:
            return forward_below(*arguments)
        # Levels further out may have asked for more.
        keep = learning | arguments[-1]
        return (apply if alone else apply_one_level)(*arguments[:-1], keep if each else keep > 0)

    return kernel


def _reverse_mode_alone() -> bool:
    """Whether nothing but a recorded gradient could ask for a derivative."""
    return forward_ad._current_level < 0 and not torch._C._are_functorch_transforms_active()


def _forward_levels() -> int:
    """How many `torch.func.jvp` are inside each other here."""
    stack = torch._C._functorch.get_interpreter_stack() or []
    return sum(one.key() == torch._C._functorch.TransformType.Jvp for one in stack)


def _primal(argument: Any) -> Any:
    return forward_ad.unpack_dual(argument).primal if isinstance(argument, Tensor) else argument


def refusing(operator: Any, message: str) -> Function:
    """The Autograd kernel of an operator that cannot be differentiated: it raises, and never gives zero."""
    below = _below(operator)

    class Refusing(_OneLevel):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            return below(*arguments)

        @staticmethod
        def backward(ctx: Any, *_: Any) -> Any:
            raise RuntimeError(message.format(operator._schema.name))

        @staticmethod
        def jvp(ctx: Any, *_: Any) -> Any:
            raise RuntimeError(message.format(operator._schema.name))

    apply, apply_one_level = _applying(Refusing)

    def kernel(*arguments: Any) -> Any:
        if not _reverse_mode_alone():
            return apply_one_level(*arguments)
        return apply(*arguments) if torch.is_grad_enabled() else below(*arguments)

    return kernel


def constant(operator: Any) -> Function:
    """The Autograd kernel of an operator whose results have no gradient, since another has it for them."""
    below = _below(operator)

    class Constant(_OneLevel):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            results = below(*arguments)
            ctx.mark_non_differentiable(*results)
            return results

        @staticmethod
        def backward(ctx: Any, *_: Any) -> Any:
            raise AssertionError("nothing is differentiable here")

        @staticmethod
        def jvp(ctx: Any, *_: Any) -> Any:
            return (None,) * len(operator._schema.returns)

    _, apply_one_level = _applying(Constant)

    def kernel(*arguments: Any) -> Any:
        if not _reverse_mode_alone():
            return apply_one_level(*arguments)
        with torch.no_grad():
            return below(*arguments)

    return kernel


_CONSTANT = "{0} requires a gradient but receives none here; use {0}.detach(), or a layer that is not folded"
