"""The numerics contract over every loss of cosines: scale, zero, precision, gradients, second derivatives.

Each function takes the rows (2N, D) and gives the mean loss; the reference is the formula with plain unit
vectors in float64.
"""

from collections.abc import Callable

import pytest
import torch
from margin_laws import LAWS, dense
from operations import seeded
from test_class_sums import NUMBERS, dense_anchors, dense_sigmoid
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid, normalize, one_hot

from cosnorm import losses
from cosnorm.functional import (
    AdditiveAngle,
    AdditiveCosine,
    class_sigmoid_loss,
    contrastive_cross_entropy,
    margin_cross_entropy,
    pairwise_sigmoid_loss,
    proxy_anchor_loss,
)

N, D, C = 9, 7, 5
LABELS = torch.arange(2 * N) % C
WEIGHT = torch.randn(C, D, generator=seeded(7), dtype=torch.float64)
PARTNER = torch.arange(2 * N).roll(N)
SIGNS = torch.where(torch.arange(N) % 3 == 0, -1, 1)


def without_self(cosines: Tensor) -> Tensor:
    return cosines.masked_fill(torch.eye(len(cosines), dtype=torch.bool), -torch.inf)


def unit(x: Tensor) -> Tensor:
    return normalize(x, dim=1, eps=0.0).nan_to_num()  # zero rows have similarity 0 with everything


def weights(x: Tensor) -> Tensor:
    return WEIGHT.to(x.dtype)


def sup_con(x: Tensor) -> Tensor:
    logits = without_self(unit(x) @ unit(x).T / 0.1)
    same = LABELS[:, None].eq(LABELS) & ~torch.eye(2 * N, dtype=torch.bool)
    logs = logits.log_softmax(1)
    return -(logs.masked_fill(~same, 0).sum(1) / same.sum(1)).mean()


def decoupled(x: Tensor) -> Tensor:
    logits = without_self(unit(x) @ unit(x).T / 0.1)
    positive = logits[torch.arange(2 * N), PARTNER]
    others = logits.scatter(1, PARTNER[:, None], -torch.inf)
    return (others.logsumexp(1) - positive).mean()


def clip(x: Tensor) -> Tensor:
    logits = unit(x[:N]) @ unit(x[N:]).T / 0.07
    pairs = torch.arange(N)
    return (cross_entropy(logits, pairs) + cross_entropy(logits.T, pairs)) / 2


def sigmoid(x: Tensor) -> Tensor:
    logits = 10 * unit(x[:N]) @ unit(x[N:]).T - 10
    signs = 2 * torch.eye(N, dtype=x.dtype) - 1
    return -logsigmoid(signs * logits).sum() / N


def head(margin: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def reference(x: Tensor) -> Tensor:
        cosines = unit(x) @ unit(weights(x)).T
        chosen = one_hot(LABELS, C).bool()
        return cross_entropy(10 * torch.where(chosen, margin(cosines), cosines), LABELS)

    return reference


def embedding(x: Tensor) -> Tensor:
    cosines = (unit(x[:N]) * unit(x[N:])).sum(1)
    return torch.where(SIGNS == 1, 1 - cosines, (cosines - 0.2).clamp(min=0)).mean()


def of_heads(margin) -> Callable[[Tensor], Tensor]:
    return lambda x: margin_cross_entropy(x, weights(x), LABELS, margin=margin, scale=10.0)


def pairs(function, **options) -> Callable[[Tensor], Tensor]:
    return lambda x: function(x[:N], x[N:], **options)


# Name: ours, the reference, whether a second derivative raises.
LOSSES = {
    "nt_xent": (
        pairs(losses.nt_xent_loss, temperature=0.1),
        lambda x: cross_entropy(without_self(unit(x) @ unit(x).T / 0.1), PARTNER),
        True,
    ),
    "nt_xent decoupled": (pairs(losses.nt_xent_loss, temperature=0.1, decoupled=True), decoupled, True),
    "info_nce": (
        pairs(losses.info_nce_loss, temperature=0.1),
        lambda x: cross_entropy(unit(x[:N]) @ unit(x[N:]).T / 0.1, torch.arange(N)),
        True,
    ),
    "contrastive at 0.01": (
        lambda x: contrastive_cross_entropy(x, positives=PARTNER, temperature=0.01),
        lambda x: cross_entropy(without_self(unit(x) @ unit(x).T / 0.01), PARTNER),
        True,
    ),
    "sup_con": (lambda x: losses.sup_con_loss(x, LABELS, temperature=0.1), sup_con, True),
    "clip": (pairs(losses.clip_loss, temperature=0.07), clip, True),
    "sigmoid": (pairs(pairwise_sigmoid_loss, scale=10.0, bias=-10.0), sigmoid, True),
    "normface": (of_heads(None), head(lambda cosines: cosines), True),
    "cosface": (of_heads(AdditiveCosine(0.35)), head(lambda cosines: cosines - 0.35), True),
    "arcface": (
        of_heads(AdditiveAngle(0.3)),
        head(lambda cosines: (cosines.clamp(-1 + 1e-12, 1 - 1e-12).acos() + 0.3).cos()),
        True,
    ),
    "cosine_embedding": (
        lambda x: losses.cosine_embedding_loss(x[:N], x[N:], SIGNS, margin=0.2), embedding, False
    ),
}  # fmt: skip
for law in LAWS:
    LOSSES[f"margin {law}"] = (
        of_heads(LAWS[law].make()),
        lambda x, law=law: dense(x, weights(x), LABELS, law, 10.0).mean(),
        True,
    )
LOSSES["class_sigmoid"] = (
    lambda x: class_sigmoid_loss(x, weights(x), LABELS, bias=-1.0, **NUMBERS),
    lambda x: dense_sigmoid(x, weights(x), LABELS, torch.tensor(-1.0), **NUMBERS).mean(),
    True,
)
LOSSES["proxy_anchor"] = (
    lambda x: proxy_anchor_loss(x, weights(x), LABELS, scale=8.0),
    lambda x: dense_anchors(x, weights(x), LABELS, 0.1, 8.0),
    True,
)


def rows(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2 * N, D, generator=seeded(1), dtype=torch.float64).to(dtype)


def value_and_gradient(function, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().clone().requires_grad_()
    value = function(x)
    return value.detach(), torch.autograd.grad(value, x)[0]


@pytest.fixture(params=LOSSES)
def pair(request):
    """Ours and the reference."""
    return LOSSES[request.param][:2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_is_the_formula(pair, dtype):
    ours, reference = pair
    value, gradient = value_and_gradient(ours, rows(dtype))
    expected, expected_gradient = value_and_gradient(reference, rows(dtype).double())
    bound = 1e-5 if dtype == torch.float32 else 1e-10
    assert abs(float(value / expected) - 1) <= bound
    assert (gradient - expected_gradient).abs().max() <= bound * expected_gradient.abs().max()


def test_rows_of_every_length(pair):
    """From 1e-37 to 1e37 in one batch: the value stays, the gradient is divided by the length."""
    ours, _ = pair
    x = rows(torch.float32)
    lengths = (10.0 ** torch.linspace(-37, 37, 2 * N)).unsqueeze(1)[torch.randperm(2 * N)]
    value, gradient = value_and_gradient(ours, x * lengths)
    expected, expected_gradient = value_and_gradient(ours, (x * lengths).double())
    assert abs(float(value / expected) - 1) <= 1e-5
    largest = torch.finfo(torch.float32).max
    scale = expected_gradient.abs().amax(1, keepdim=True)
    inside = (expected_gradient.abs() < largest) & (scale > 1e-36)
    assert ((gradient - expected_gradient) / scale)[inside].abs().max() <= 1e-4
    assert gradient.isfinite().all()


def test_zero_rows(pair):
    ours, reference = pair
    x = rows()
    x[3] = 0
    value, gradient = value_and_gradient(ours, x)
    with torch.no_grad():
        expected = reference(x)
    assert abs(float(value / expected) - 1) <= 1e-10
    assert gradient[3].eq(0).all()
    assert gradient.isfinite().all()
    assert (gradient.abs().sum(1) > 0).sum() >= N


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_never_hidden(pair, bad):
    ours, _ = pair
    x = rows()
    x[2, 1] = bad
    assert ours(x).isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_accumulate_in_float32(pair, dtype):
    ours, reference = pair
    x = rows(dtype)
    value, gradient = value_and_gradient(ours, x)
    weight = WEIGHT.to(dtype).double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.WEIGHT", weight)  # the reference has the same rounded weights
        expected, expected_gradient = value_and_gradient(reference, x.double())
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert abs(float(value / expected) - 1) <= 1e-5
    error = (gradient.double() - expected_gradient).abs().max()
    assert error <= 2 * torch.finfo(dtype).eps * expected_gradient.abs().max()


@pytest.mark.parametrize("cotangent", [1e-30, -3.0, 1e30])
def test_any_cotangent(pair, cotangent):
    ours, _ = pair
    x = rows(torch.float32).requires_grad_()
    (gradient,) = torch.autograd.grad(ours(x), x, torch.tensor(cotangent))
    (expected,) = torch.autograd.grad(ours(x), x)
    torch.testing.assert_close(
        gradient / cotangent, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max())
    )


@pytest.mark.parametrize("name", LOSSES)
def test_second_derivatives_are_right_or_raise(name):
    ours, reference, raises = LOSSES[name]
    x = rows().requires_grad_()
    (gradient,) = torch.autograd.grad(ours(x), x, create_graph=True)
    if raises:
        with pytest.raises(RuntimeError, match="cannot be differentiated again"):
            gradient.square().sum().backward()
        return
    (expected,) = torch.autograd.grad(reference(x), x, create_graph=True)
    found = torch.autograd.grad(gradient.square().sum(), x)[0]
    torch.testing.assert_close(found, torch.autograd.grad(expected.square().sum(), x)[0])


def test_equal_rows_are_the_bound(pair):
    """All rows alike: every cosine is 1 and never above, at every length."""
    ours, reference = pair
    x = torch.ones(2 * N, D) * (10.0 ** torch.linspace(-30, 30, 2 * N)).unsqueeze(1)
    value, gradient = value_and_gradient(ours, x)
    with torch.no_grad():
        expected = reference(x.double())
    assert abs(float(value) - float(expected)) <= 1e-5 * max(1, abs(float(expected)))
    assert gradient.isfinite().all()
