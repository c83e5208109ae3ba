"""`python -m benchmarks.launches`: what a step launches on an accelerator and what it moves, without one.

Counted are torch's operators that compute, called on tensors without data, with the bytes of their operands
and results. Ours are looked into, as far as torch's operators; nothing in them may wait for the device.
"""

import argparse
import importlib
import os
import pkgutil
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cosnorm import functional, losses
from cosnorm.backends import choose
from cosnorm.operators.differentiate import COMPUTE

ROOT = Path(__file__).parents[1]
PAGE = "docs/speed.md"

# Operators that wait for a GPU: for a number, or for how large their result is. `bincount` does so for any
# `minlength`, and what Python has must be copied there.
_WAITS = {
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "item",
    "lift_fresh",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
_MEMORY = {
    "_reshape_alias",
    "_unsafe_view",
    "detach",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
}
_METHODS = {Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__}


class WaitError(AssertionError):
    """Something waited for the device."""


class NoMethodThatWaits(TorchFunctionMode):
    """Methods that the dispatcher does not see."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _METHODS:
            raise WaitError(f"{function.__name__} waits for the device")
        return function(*args, **(kwargs or {}))


class Launches(TorchDispatchMode):
    """Counts torch's operators that compute; one that waits for the device raises."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function.namespace == "cosnorm":
            with self:
                return COMPUTE[function._schema.name](*args, **kwargs)
        name = function._overloadpacket.__name__
        if _waits(name, args, kwargs):
            raise WaitError(f"{name} waits for the device")
        with self:
            output = function.decompose(*args, **kwargs)
        if output is not NotImplemented:
            return output
        output = function(*args, **kwargs)
        if not function.is_view and name not in _MEMORY:
            self.names.append(name)
            kwargs.pop("out", None)  # it is the output
            tensors = [one for one in tree_leaves((args, kwargs, output)) if isinstance(one, Tensor)]
            self.bytes += sum(one.nbytes for one in tensors)
        return output


def _waits(name: str, args: Any, kwargs: Any) -> bool:
    if name.startswith("index") or name == "_index_put_impl_":
        return any(isinstance(one, Tensor) and one.dtype == torch.bool for one in tree_leaves(args[1:2]))
    if name == "repeat_interleave":  # of a tensor, without how long the result is
        return isinstance(args[-1], Tensor) and kwargs.get("output_size") is None
    return name in _WAITS


@contextmanager
def counting() -> Iterator[Launches]:
    """What is launched here."""
    with NoMethodThatWaits(), Launches() as counted:
        yield counted


def launches(call: Callable[[], object]) -> Launches:
    """What a call launches."""
    with counting() as counted:
        call()
    return counted


class Step(NamedTuple):
    """A call by hand and ours, of tensors of such shapes, which learn."""

    shapes: tuple[tuple[int, ...], ...]
    plain: Callable[..., Tensor]
    ours: Callable[..., Tensor]


class Cost(NamedTuple):
    """Of a step."""

    forward: Launches
    backward: Launches


@contextmanager
def by_kernels() -> Iterator[None]:
    """Within, the Triton kernels compute what they can, as on a GPU; none of them runs: see `kernel_cost`."""
    # Whether a kernel is interpreted is decided where it is made: not in here.
    from cosnorm.backends import triton

    for found in pkgutil.iter_modules(triton.__path__):
        importlib.import_module(f"{triton.__name__}.{found.name}")
    forced = {"COSNORM_IMPL": "triton", "TRITON_INTERPRET": "0"}
    before = {name: os.environ.get(name) for name in forced}
    os.environ |= forced
    choose._order.cache_clear()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ |= {} if value is None else {name: value}
        choose._order.cache_clear()


def kernel_cost(
    call: Callable[..., Tensor], shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype
) -> tuple[list[str], list[str]]:
    """What a call and its backward pass launch by the Triton kernels: these and torch's operators."""
    from cosnorm.backends.triton.launch import launches as kernels

    given = [torch.empty(shape, dtype=dtype, device="meta", requires_grad=True) for shape in shapes]
    with by_kernels():
        with kernels(held=True) as there, counting() as forward:
            output = call(*given)
        cotangent = torch.empty_like(output)
        with kernels(held=True) as back, counting() as backward:
            torch.autograd.grad(output, given, cotangent)
    both = (there, forward), (back, backward)
    first, second = ([one.kernel.__name__ for one in seen] + counted.names for seen, counted in both)
    return first, second


def cost(call: Callable[..., Tensor], shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype) -> Cost:
    """What a call and its backward pass launch."""
    given = [torch.empty(shape, dtype=dtype, device="meta", requires_grad=True) for shape in shapes]
    with counting() as forward:
        output = call(*given)
    cotangent = torch.empty_like(output)
    with counting() as backward:
        torch.autograd.grad(output, given, cotangent)
    return Cost(forward, backward)


# ---- the steps

ROWS, CLASSES, SIZE = 4096, 10_000, 128
SCALE, MARGIN = 30.0, 0.5


def _by_hand(x: Tensor, w: Tensor) -> Tensor:
    return F.linear(F.normalize(x), F.normalize(w))


def _centered_by_hand(x: Tensor, w: Tensor) -> Tensor:
    return _by_hand(x - x.mean(1, keepdim=True), w - w.mean(1, keepdim=True))


def _conv_by_hand(x: Tensor, w: Tensor) -> Tensor:
    ones = torch.ones_like(w[:1])
    norms = F.conv2d(x.square(), ones, padding=2).sqrt().clamp(min=1e-12)
    return F.conv2d(x, F.normalize(w.flatten(1)).view_as(w), padding=2) / norms


def _labels(number: int, classes: int) -> Tensor:
    return torch.empty(number, dtype=torch.int64, device="meta").fill_(classes - 1)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), labels)


def _nt_xent(a: Tensor, b: Tensor) -> Tensor:
    rows = F.normalize(torch.cat([a, b]))
    logits = (rows @ rows.t() / 0.1).fill_diagonal_(-torch.inf)
    return _cross_entropy(logits, torch.arange(len(rows), device=rows.device).roll(len(a)))


def _info_nce(a: Tensor, b: Tensor) -> Tensor:
    return _cross_entropy(_by_hand(a, b) / 0.1, torch.arange(len(a), device=a.device))


def _clip(a: Tensor, b: Tensor) -> Tensor:
    logits, own = _by_hand(a, b) / 0.1, torch.arange(len(a), device=a.device)
    return (_cross_entropy(logits, own) + _cross_entropy(logits.t(), own)) / 2


def _sup_con(x: Tensor) -> Tensor:
    labels = _labels(len(x), 10)
    logits = _by_hand(x, x).float() / 0.1
    itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
    positive = (labels.unsqueeze(1) == labels) & ~itself
    logs = logits.masked_fill(itself, -torch.inf).log_softmax(1)
    return -(logs.masked_fill(~positive, 0).sum(1) / positive.sum(1)).mean()


def _siglip(a: Tensor, b: Tensor) -> Tensor:
    logits = 10 * _by_hand(a, b).float() - 10
    signs = 2 * torch.eye(len(a), device=a.device) - 1
    return -F.logsigmoid(signs * logits).sum() / len(a)


def _arcface(x: Tensor, w: Tensor) -> Tensor:
    labels = _labels(len(x), len(w))
    cosines = _by_hand(x, w).float()
    own = cosines.gather(1, labels.unsqueeze(1)).clamp(-1 + 1e-7, 1 - 1e-7)
    with_margin = (own.acos() + MARGIN).cos()
    return F.cross_entropy(SCALE * cosines.scatter(1, labels.unsqueeze(1), with_margin), labels)


def _head(x: Tensor, w: Tensor) -> Tensor:
    margin = functional.AdditiveAngle(MARGIN)
    labels = _labels(len(x), len(w))
    return functional.margin_cross_entropy(x, w, labels, margin=margin, scale=SCALE)


_LINEAR, _IMAGES = ((512, 1024), (1024, 1024)), ((128, 64, 12, 12), (64, 64, 5, 5))
_HALF, _PAIRS = ((ROWS // 2, SIZE),) * 2, ((ROWS, SIZE),) * 2
STEPS: dict[str, Step] = {
    "linear": Step(_LINEAR, _by_hand, functional.cosine_linear),
    "centered linear": Step(_LINEAR, _centered_by_hand, partial(functional.cosine_linear, centered=True)),
    "conv2d": Step(_IMAGES, _conv_by_hand, partial(functional.cosine_conv2d, padding=2)),
    "centered conv2d": Step(
        _IMAGES, _conv_by_hand, partial(functional.cosine_conv2d, padding=2, centered=True)
    ),
    "NT-Xent": Step(_HALF, _nt_xent, losses.nt_xent_loss),
    "InfoNCE": Step(_PAIRS, _info_nce, losses.info_nce_loss),
    "SupCon": Step(_PAIRS[:1], _sup_con, lambda x: losses.sup_con_loss(x, _labels(len(x), 10))),
    "CLIP": Step(_PAIRS, _clip, partial(losses.clip_loss, temperature=0.1)),
    "SigLIP": Step(_PAIRS, _siglip, partial(functional.pairwise_sigmoid_loss, scale=10.0, bias=-10.0)),
    "ArcFace": Step(((ROWS, SIZE), (CLASSES, SIZE)), _arcface, _head),
}


# ---- the table

_BEGIN, _END = "<!-- counted:launches -->", "<!-- /counted:launches -->"


def table() -> list[str]:
    """Lines of Markdown: launches and MB, forward and backward, by hand and ours."""
    lines = [
        "| step | by hand | | ours | | ours in bfloat16 | |",
        "|---|--:|--:|--:|--:|--:|--:|",
        "| | forward | backward | forward | backward | forward | backward |",
    ]
    layers = {
        "`F.linear`": Step(_LINEAR, F.linear, F.linear),
        "`F.conv2d`": Step(_IMAGES, partial(F.conv2d, padding=2), partial(F.conv2d, padding=2)),
    }
    for name, step in {**layers, **STEPS}.items():
        cells = _cells(step.plain, step.shapes, torch.float32)
        if name in layers:
            cells += ["–"] * 4
        else:
            for dtype in (torch.float32, torch.bfloat16):
                cells += _cells(step.ours, step.shapes, dtype)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _cells(call: Callable[..., Tensor], shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype) -> list[str]:
    sides = cost(call, shapes, dtype)
    return [f"{len(side.names)}, {side.bytes / 1e6:,.0f} MB" for side in sides]


def filled(text: str) -> str:
    """The text with its table anew."""
    made = "\n".join([_BEGIN, *table(), _END])
    return re.sub(f"{_BEGIN}.*?{_END}", lambda _: made, text, flags=re.DOTALL)


def main() -> None:
    """Print the table, or write it into a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readme", type=Path, help="a page that holds the marks")
    page = parser.parse_args().readme
    if page is None:
        print("\n".join(table()))
    else:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
