"""Every loss before all in torch that looks at a call from outside: right, or a refusal that is named."""

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from apart import Apart
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from cosnorm import losses
from cosnorm.functional import (
    AdditiveAngle,
    class_sigmoid_loss,
    contrastive_cross_entropy,
    margin_cross_entropy,
    pairwise_sigmoid_loss,
    proxy_anchor_loss,
)

N, D, C = 8, 5, 6
LABELS = torch.arange(N) % 4
WEIGHTS, IGNORED = torch.arange(1.0, C + 1), int(LABELS[0])
SIGNS = torch.arange(N) % 2 * 2 - 1
NEGATIVES = (torch.arange(N).unsqueeze(1) + torch.tensor([1, 3])) % N
SOME = torch.tensor([4, 0, 1, 2, 3])
SCALE = torch.tensor(8.0)
MASK = torch.arange(N * N).reshape(N, N) % 5 == 1


@dataclass
class Loss:
    """A loss of tensors that learn.

    call: takes the leaves, and the device on which its indices have to be.
    leaves: their shapes.
    twice: whether it has second derivatives.
    """

    call: Callable[..., Tensor]
    leaves: tuple[tuple[int, ...], ...] = ((N, D), (N, D))
    twice: bool = False

    def inputs(self, seed: int = 0) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [
            torch.rand(shape, generator=generator) + 0.5
            if shape == ()
            else torch.randn(shape, generator=generator)
            for shape in self.leaves
        ]


def on(like: Tensor, indices: Tensor) -> Tensor:
    """Indices where a fake or meta tensor is; a graph takes them as they are."""
    return indices.to(like.device)


class Module(torch.nn.Module):
    """A loss module called with rows, and with further arguments of its own."""

    def __init__(self, make: Callable[[], torch.nn.Module], *rest: Tensor) -> None:
        super().__init__()
        self.make, self.made, self.rest = make, make(), rest

    def forward(self, *rows: Tensor) -> Tensor:
        if rows[0].device.type == "meta":
            return self.make().to("meta")(*rows, *(on(rows[0], one) for one in self.rest))
        return self.made(*rows, *self.rest)


LOSSES: dict[str, Loss] = {
    "nt_xent": Loss(losses.nt_xent_loss),
    "nt_xent none": Loss(lambda a, b: losses.nt_xent_loss(a, b, reduction="none")),
    "nt_xent decoupled": Loss(lambda a, b: losses.nt_xent_loss(a, b, decoupled=True)),
    "nt_xent extra keys, temperature": Loss(
        lambda a, b, extra, t: losses.nt_xent_loss(a, b, extra_keys=extra, temperature=t),
        ((N, D), (N, D), (3, D), ()),
    ),
    "info_nce": Loss(losses.info_nce_loss),
    "info_nce extra keys": Loss(
        lambda a, b, extra: losses.info_nce_loss(a, b, extra_keys=extra), ((N, D), (N, D), (3, D))
    ),
    "info_nce negatives": Loss(lambda a, b: losses.info_nce_loss(a, b, on(a, NEGATIVES))),
    "clip": Loss(losses.clip_loss),
    "clip none": Loss(lambda a, b: losses.clip_loss(a, b, reduction="none")),
    "sup_con": Loss(lambda a: losses.sup_con_loss(a, on(a, LABELS)), ((N, D),)),
    "contrastive pairs": Loss(
        lambda a, b: contrastive_cross_entropy(
            a, b, on(a, torch.stack([LABELS, LABELS + 1], 1)), decoupled=True
        )
    ),
    "contrastive mask": Loss(lambda a, b: contrastive_cross_entropy(a, b, exclude=on(a, MASK))),
    "contrastive same label": Loss(
        lambda a, b: contrastive_cross_entropy(a, b, labels=(on(a, LABELS),) * 2, exclude_same_label=True)
    ),
    "sigmoid": Loss(pairwise_sigmoid_loss),
    "sigmoid none, numbers": Loss(
        lambda a, b, s, c: pairwise_sigmoid_loss(a, b, scale=s, bias=c, reduction="none"),
        ((N, D), (N, D), (), ()),
    ),
    "margin": Loss(
        lambda x, w: margin_cross_entropy(x, w, on(x, LABELS), margin=AdditiveAngle(0.3)), ((N, D), (C, D))
    ),
    "margin none": Loss(
        lambda x, w: margin_cross_entropy(x, w, on(x, LABELS), reduction="none"), ((N, D), (C, D))
    ),
    "margin some classes": Loss(
        lambda x, w: margin_cross_entropy(x, w, on(x, LABELS), sub_centers=2, classes=on(x, SOME)),
        ((N, D), (2 * C, D)),
    ),
    "margin weighed": Loss(
        lambda x, w: margin_cross_entropy(
            x, w, on(x, LABELS), class_weights=on(x, WEIGHTS), label_smoothing=0.1
        ),
        ((N, D), (C, D)),
    ),
    "margin weighed none": Loss(
        lambda x, w: margin_cross_entropy(
            x,
            w,
            on(x, LABELS),
            class_weights=on(x, WEIGHTS),
            label_smoothing=0.1,
            ignore_index=IGNORED,
            reduction="none",
        ),
        ((N, D), (C, D)),
    ),
    "margin filtered none": Loss(
        lambda x, w: margin_cross_entropy(
            x, w, on(x, LABELS), exclude_above=0.3, scale=on(x, SCALE), reduction="none"
        ),
        ((N, D), (C, D)),
    ),
    "cosine_embedding": Loss(lambda a, b: losses.cosine_embedding_loss(a, b, on(a, SIGNS)), twice=True),
    "center": Loss(lambda x, c: losses.center_loss(x, on(x, LABELS), c), ((N, D), (C, D)), twice=True),
    "island": Loss(lambda x, c: losses.island_loss(x, on(x, LABELS), c), ((N, D), (C, D)), twice=True),
    "NTXentLoss": Loss(Module(lambda: losses.NTXentLoss(learn_temperature=True))),
    "InfoNCELoss": Loss(Module(losses.InfoNCELoss)),
    "SupConLoss": Loss(Module(losses.SupConLoss, LABELS), ((N, D),)),
    "CLIPLoss": Loss(Module(losses.CLIPLoss)),
    "SigLIPLoss": Loss(Module(losses.SigLIPLoss)),
    "CosineEmbeddingLoss": Loss(Module(lambda: losses.CosineEmbeddingLoss(target=0.9)), twice=True),
    "NormFaceLoss": Loss(Module(lambda: losses.NormFaceLoss(C, D), LABELS), ((N, D),)),
    "CosFaceLoss": Loss(Module(lambda: losses.CosFaceLoss(C, D), LABELS), ((N, D),)),
    "ArcFaceLoss": Loss(Module(lambda: losses.ArcFaceLoss(C, D), LABELS), ((N, D),)),
    # Statistics that follow the batches would differ from call to call.
    "AdaFaceLoss": Loss(Module(lambda: losses.AdaFaceLoss(C, D).eval(), LABELS), ((N, D),)),
    "MagFaceLoss": Loss(Module(lambda: losses.MagFaceLoss(C, D, norms=(1, 4)).eval(), LABELS), ((N, D),)),
    "ElasticFaceLoss": Loss(Module(lambda: losses.ElasticFaceLoss(C, D).eval(), LABELS), ((N, D),)),
    "CurricularFaceLoss": Loss(Module(lambda: losses.CurricularFaceLoss(C, D).eval(), LABELS), ((N, D),)),
    "class sigmoid none": Loss(
        lambda x, w, b: class_sigmoid_loss(x, w, on(x, LABELS), bias=b, reduction="none"),
        ((N, D), (C, D), ()),
    ),
    "proxy anchor": Loss(lambda x, w: proxy_anchor_loss(x, w, on(x, LABELS)), ((N, D), (C, D))),
    "SphereFace2Loss": Loss(Module(lambda: losses.SphereFace2Loss(C, D), LABELS), ((N, D),)),
    "CombinedMarginLoss": Loss(Module(lambda: losses.CombinedMarginLoss(C, D), LABELS), ((N, D),)),
    "CenterLoss": Loss(Module(lambda: losses.CenterLoss(C, D), LABELS), ((N, D),), twice=True),
    "IslandLoss": Loss(Module(lambda: losses.IslandLoss(C, D), LABELS), ((N, D),), twice=True),
    "CosineDistanceLoss": Loss(Module(lambda: losses.CosineDistanceLoss(C, D), LABELS), ((N, D),)),
}


@pytest.fixture(params=LOSSES)
def loss(request) -> Loss:
    torch.manual_seed(5)
    return LOSSES[request.param]


def step(loss: Loss) -> Callable[..., tuple[Tensor, ...]]:
    """The value, and the gradients in all leaves for a cotangent that differs from number to number."""

    def call(*leaves: Tensor) -> tuple[Tensor, ...]:
        value = loss.call(*leaves)
        weights = torch.arange(1.0, 1 + value.numel(), dtype=torch.float32, device=value.device).view_as(
            value
        )
        return value, *torch.autograd.grad((value * weights).sum(), leaves)

    return call


def learning(inputs: list[Tensor]) -> list[Tensor]:
    return [one.detach().clone().requires_grad_() for one in inputs]


def same(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def by_hand(loss: Loss, seed: int = 0) -> tuple[Tensor, ...]:
    return step(loss)(*learning(loss.inputs(seed)))


def test_trace(loss: Loss):
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(loss.call, tuple(loss.inputs()), check_trace=False)
    other = loss.inputs(1)
    same([traced(*other)], [loss.call(*other)])


def test_make_fx_of_a_gradient_step(loss: Loss):
    graph = make_fx(step(loss))(*learning(loss.inputs()))
    same(graph(*learning(loss.inputs(1))), by_hand(loss, 1))


def test_export(loss: Loss):
    class Holder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loss = loss.call

        def forward(self, *leaves: Tensor) -> Tensor:
            return self.loss(*leaves)

    exported = torch.export.export(Holder(), tuple(loss.inputs()), strict=False).module()
    same([exported(*loss.inputs(1))], [loss.call(*loss.inputs(1))])


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(loss: Loss, dynamic: bool):
    torch._dynamo.reset()
    compiled = Loss(
        torch.compile(loss.call, fullgraph=True, dynamic=dynamic, backend="aot_eager"), loss.leaves
    )
    for seed in (0, 1):
        same(by_hand(compiled, seed), by_hand(loss, seed))


@pytest.mark.slow
def test_compile_by_inductor(loss: Loss):
    torch._dynamo.reset()
    same(by_hand(Loss(torch.compile(loss.call, fullgraph=True), loss.leaves)), by_hand(loss))


def several(loss: Loss) -> tuple[list[Tensor], list[list[Tensor]]]:
    samples = [loss.inputs(seed) for seed in range(3)]
    return [torch.stack(one) for one in zip(*samples, strict=True)], samples


def test_vmap(loss: Loss):
    stacked, samples = several(loss)
    same([torch.vmap(loss.call)(*stacked)], [torch.stack([loss.call(*one) for one in samples])])


def test_vmap_over_grad(loss: Loss):
    stacked, samples = several(loss)
    gradient = torch.func.grad(lambda *leaves: loss.call(*leaves).sum())
    same([torch.vmap(gradient)(*stacked)], [torch.stack([gradient(*one) for one in samples])])


def test_jacrev_and_batched_gradients(loss: Loss):
    leaves = learning(loss.inputs())
    value = loss.call(*leaves)
    ones = torch.eye(value.numel()).reshape(-1, *value.shape)
    expected = torch.stack([torch.autograd.grad(value, leaves[0], one, retain_graph=True)[0] for one in ones])
    (batched,) = torch.autograd.grad(value, leaves[0], ones, is_grads_batched=True, retain_graph=True)
    same([batched], [expected])
    rows = torch.func.jacrev(loss.call)(*loss.inputs()).reshape(expected.shape)
    same([rows], [expected])


def test_func_grad_of_a_batch_and_of_an_empty_one(loss: Loss):
    total = torch.func.grad(lambda *leaves: loss.call(*leaves).sum(), tuple(range(len(loss.leaves))))
    leaves = learning(loss.inputs())
    same(total(*loss.inputs()), torch.autograd.grad(loss.call(*leaves).sum(), leaves))


@pytest.mark.parametrize(
    "empty",
    [
        lambda a: losses.nt_xent_loss(a, a),
        lambda a: losses.info_nce_loss(a, a),
        lambda a: losses.clip_loss(a, a),
        lambda a: losses.sup_con_loss(a, torch.arange(0)),
        lambda a: pairwise_sigmoid_loss(a, a),
        lambda a: margin_cross_entropy(a, torch.ones(C, D), torch.arange(0)),
        lambda a: class_sigmoid_loss(a, torch.ones(C, D), torch.arange(0)),
        lambda a: proxy_anchor_loss(a, torch.ones(C, D), torch.arange(0)),
        lambda a: losses.center_loss(a, torch.arange(0), torch.ones(C, D)),
        lambda a: losses.cosine_embedding_loss(a, a, torch.arange(0)),
    ],
)
def test_an_empty_batch_under_func_grad(empty):
    assert torch.func.grad(empty)(torch.empty(0, D)).shape == (0, D)
    assert empty(torch.empty(0, D)) == 0


def test_fake_tensors(loss: Loss):
    expected = by_hand(loss)
    if isinstance(loss.call, Module):
        return  # its parameters are not fake; meta tensors test it
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        found = step(loss)(*[mode.from_tensor(one).requires_grad_() for one in loss.inputs()])
    for one, other in zip(found, expected, strict=True):
        assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())


def test_meta_tensors(loss: Loss):
    found = step(loss)(*[one.to("meta").requires_grad_() for one in loss.inputs()])
    for one, other in zip(found, by_hand(loss), strict=True):
        assert (one.shape, one.dtype, one.device.type) == (other.shape, other.dtype, "meta")


def test_modes_see_every_call(loss: Loss):
    expected = by_hand(loss)
    with Apart() as seen:
        same(by_hand(loss), expected)
    assert any(name.startswith("cosnorm") for name in seen.names)
    with Apart(), torch.no_grad():
        loss.call(*loss.inputs())


class Collecting(TorchDispatchMode):
    """Keeps the calls of our operators."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "cosnorm":
            self.calls.append((function, args))
        return function(*args, **(kwargs or {}))


def test_operators_keep_their_word(loss: Loss):
    """Schemas, shapes of tensors without data, and no result that is another's memory."""
    with Collecting() as collecting:
        by_hand(loss)
    assert collecting.calls
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    for function, arguments in collecting.calls:
        torch.library.opcheck(function, arguments, test_utils=checks)


def test_symbolic_tracing_sees_one_call():
    graph = torch.fx.symbolic_trace(lambda a, b: losses.nt_xent_loss(a, b) + pairwise_sigmoid_loss(a, b))
    same(
        [graph(*LOSSES["clip"].inputs())],
        [sum(LOSSES[o].call(*LOSSES[o].inputs()) for o in ("nt_xent", "sigmoid"))],
    )


def test_multiplications_are_counted(request):
    for name in (
        "nt_xent",
        "info_nce negatives",
        "clip",
        "sup_con",
        "sigmoid",
        "margin",
        "proxy anchor",
        "island",
    ):
        with FlopCounterMode(display=False) as forward:
            value = LOSSES[name].call(*learning(LOSSES[name].inputs()))
        with FlopCounterMode(display=False) as both:
            step(LOSSES[name])(*learning(LOSSES[name].inputs()))
        assert value.numel()
        assert both.get_total_flops() >= forward.get_total_flops() > 0, name


@contextlib.contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def deterministic():
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


STATES = {
    "default dtype": default_dtype,
    "default device": lambda: torch.device("meta"),
    "deterministic": deterministic,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("state", STATES)
def test_global_state_changes_nothing(loss: Loss, state: str):
    inputs, expected = learning(loss.inputs()), by_hand(loss)
    with STATES[state]():
        value = loss.call(*inputs)
    weights = torch.arange(1.0, 1 + value.numel()).view_as(value)
    same((value, *torch.autograd.grad((value * weights).sum(), inputs)), expected)


@pytest.mark.parametrize("state", [torch.no_grad, torch.inference_mode])
def test_without_gradients(loss: Loss, state):
    expected = by_hand(loss)[0].detach()
    with state():
        same([loss.call(*loss.inputs())], [expected])


def test_second_derivatives_are_there_or_raise(loss: Loss):
    leaves = learning(loss.inputs())
    first = torch.autograd.grad(loss.call(*leaves).sum(), leaves[0], create_graph=True)[0]
    if loss.twice:
        torch.autograd.grad(first.square().sum(), leaves[0])
        return
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        torch.autograd.grad(first.square().sum(), leaves[0])


def test_forward_mode_raises(loss: Loss):
    if loss.twice:
        return  # made of operators that have it, or that raise the same
    tangents = tuple(torch.ones_like(one) for one in loss.inputs())
    with pytest.raises(RuntimeError, match=r"no forward derivative|cannot be differentiated again"):
        torch.func.jvp(loss.call, tuple(loss.inputs()), tangents)
