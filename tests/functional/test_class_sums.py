"""SphereFace2 and Proxy-Anchor against their dense float64 formulas: values, gradients, edges."""

import pytest
import torch
from test_contrastive import BOUNDS, compare
from test_heads import SOME, batch
from torch import Tensor
from torch.nn import functional as F

from cosnorm import losses
from cosnorm.functional import class_sigmoid_loss, proxy_anchor_loss


def cosines_of(x: Tensor, weight: Tensor, sub_centers: int = 1) -> Tensor:
    unit, units = (F.normalize(one.double(), dim=1, eps=1e-300) for one in (x, weight))
    return (unit @ units.T).unflatten(1, (-1, sub_centers)).amax(2)


def dense_sigmoid(
    x: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor,
    *,
    margin: float,
    scale: float,
    power: float,
    balance: float,
    sub_centers: int = 1,
    classes: Tensor | None = None,
) -> Tensor:
    cosines = cosines_of(x, weight, sub_centers)
    own = F.one_hot(labels, cosines.shape[1]).bool()
    g = 2 * ((cosines + 1) / 2) ** power - 1
    logits = torch.where(own, scale * (g - margin), scale * (g + margin)) + bias.double()
    each = torch.where(own, -balance * F.logsigmoid(logits), -(1 - balance) * F.logsigmoid(-logits)) / scale
    return (each if classes is None else each[:, classes]).sum(1)


def dense_anchors(x: Tensor, weight: Tensor, labels: Tensor, margin: float, scale: float) -> Tensor:
    cosines = cosines_of(x, weight)
    own = F.one_hot(labels.clamp(min=0), cosines.shape[1]).bool() & (labels >= 0).unsqueeze(1)
    others = ~own & (labels >= 0).unsqueeze(1)
    zero = cosines.new_zeros(1, cosines.shape[1])
    drawn = (-scale * (cosines - margin)).masked_fill(~own, -torch.inf)
    pushed = (scale * (cosines + margin)).masked_fill(~others, -torch.inf)
    sums = [torch.cat([one, zero]).logsumexp(0) for one in (drawn, pushed)]
    return sums[0].sum() / own.any(0).sum() + sums[1].mean()


NUMBERS = {"margin": 0.3, "scale": 8.0, "power": 2.5, "balance": 0.6}


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("sub_centers", [1, 3])
@pytest.mark.parametrize("classes", [None, SOME], ids=["all", "some"])
@pytest.mark.parametrize("sharp", [False, True])
def test_a_sigmoid_for_each_class(dtype: torch.dtype, sub_centers: int, classes, sharp: bool):
    x, weight, labels = batch(dtype, sub_centers)
    bias = torch.tensor([-1.5], dtype=dtype, requires_grad=True)
    numbers = {**NUMBERS, "scale": 90.0} if sharp else NUMBERS
    each = dense_sigmoid(x, weight, labels, bias, sub_centers=sub_centers, classes=classes, **numbers)
    counts = torch.rand(len(weight) // sub_centers, dtype=torch.float64)
    for reduction, expected in (("mean", each.mean()), ("sum", each.sum()), ("none", each)):
        for chunk_size in (None, 4):
            options = {"sub_centers": sub_centers, "classes": classes, "chunk_size": chunk_size, **numbers}
            found = class_sigmoid_loss(x, weight, labels, bias=bias, reduction=reduction, **options)
            compare(found, expected, [x, weight], BOUNDS[dtype])
            into = [torch.autograd.grad(one.sum(), bias, retain_graph=True)[0] for one in (found, expected)]
            assert (into[0] - into[1]).abs() < BOUNDS[dtype] * len(x)  # own and other classes cancel
    weighed = class_sigmoid_loss(x, weight, labels, bias=bias, class_weights=counts, **options)
    expected = (each * counts[labels]).sum() / counts[labels].sum()
    compare(weighed, expected, [x, weight], BOUNDS[dtype])
    ignored = labels.masked_fill(labels == labels[0], -100)
    found = class_sigmoid_loss(x, weight, ignored, bias=bias, **options)
    compare(found, each[ignored >= 0].mean(), [x, weight], BOUNDS[dtype])


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("scale", [1.0, 32.0, 2000.0])
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_classes_as_anchors(dtype: torch.dtype, scale: float, chunk_size: int | None):
    x, weight, labels = batch(dtype)
    for given in (labels, labels.masked_fill(labels == labels[0], -100)):
        expected = dense_anchors(x, weight, given, 0.1, scale)
        found = proxy_anchor_loss(x, weight, given, scale=scale, chunk_size=chunk_size)
        compare(found, expected, [x, weight], BOUNDS[dtype] * max(1, scale / 30))


LOSSES = {
    "sigmoid": (
        lambda x, w, y: class_sigmoid_loss(x, w, y, bias=-1.0, **NUMBERS),
        lambda x, w, y: dense_sigmoid(x, w, y, torch.tensor(-1.0), **NUMBERS).mean(),
    ),
    "anchors": (
        lambda x, w, y: proxy_anchor_loss(x, w, y, scale=8.0),
        lambda x, w, y: dense_anchors(x, w, y, 0.1, 8.0),
    ),
}
each_loss = pytest.mark.parametrize("name", LOSSES)


@each_loss
def test_rows_of_every_length_and_zero(name: str):
    ours, formula = LOSSES[name]
    x, weight, labels = batch(torch.float32)
    with torch.no_grad():
        x *= torch.logspace(-36, 36, len(x)).unsqueeze(1)
        weight *= torch.logspace(36, -36, len(weight)).unsqueeze(1)
        x[3], weight[labels[5]] = 0, 0
    exact = [one.detach().double().requires_grad_() for one in (x, weight)]
    value, expected = ours(x, weight, labels), formula(*exact, labels)
    assert abs(value - expected) < 1e-5 * expected
    largest = torch.finfo(torch.float32).max
    found, right = (torch.autograd.grad(*pair) for pair in ((value, (x, weight)), (expected, exact)))
    assert not found[0][3].any()
    assert not found[1][labels[5]].any()
    for one, other in zip(found, right, strict=True):
        clamped = other.clamp(-largest, largest)
        size = clamped.abs().amax(1)
        normal = (size > 1e-36) & one.any(1)  # at zero the formula divides by 1e-300
        assert one.isfinite().all()
        assert ((one - clamped).abs().amax(1) / size)[normal].max() < 1e-4


@each_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_beside_float32(name: str, dtype: torch.dtype):
    ours, formula = LOSSES[name]
    x, weight, labels = batch(torch.float32)
    half = x.detach().to(dtype).requires_grad_()
    value, expected = ours(half, weight, labels), formula(half, weight, labels)
    assert value.dtype == torch.float32
    assert abs(value - expected) < 1e-5 * expected
    found, right = (torch.autograd.grad(one, (half, weight)) for one in (value, expected))
    assert found[0].dtype == dtype
    assert (found[0] - right[0]).abs().max() < 2 * torch.finfo(dtype).eps * right[0].abs().max()
    assert (found[1] - right[1]).abs().max() < 1e-5 * right[1].abs().max()


@each_loss
def test_empty_ignored_and_not_finite(name: str):
    ours, _ = LOSSES[name]
    x, weight, labels = batch(torch.float32)
    for rows, none in ((x[:0], labels[:0]), (x, torch.full_like(labels, -100))):
        value = ours(rows, weight, none)
        assert value == 0
        assert not any(one.any() for one in torch.autograd.grad(value, (x, weight)))
    with torch.no_grad():
        x[4, 1] = torch.nan
    assert ours(x, weight, labels).isnan()
    if name == "sigmoid":
        each = class_sigmoid_loss(x, weight, labels, reduction="none")
        assert each.isnan().nonzero().squeeze(1).tolist() == [4]


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_the_bias_begins_where_orthogonal_vectors_have_the_least_loss(classes: int):
    head = losses.SphereFace2Loss(classes, classes + 1, dtype=torch.float64)
    head.weight.data = torch.eye(classes, classes + 1, dtype=torch.float64)
    x = torch.eye(classes + 1, dtype=torch.float64)[-1:]
    (gradient,) = torch.autograd.grad(head(x, torch.tensor([0])), head.bias)
    assert gradient.abs() < 1e-12
    assert losses.SphereFace2Loss(1, 3).bias.item() == 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, y: class_sigmoid_loss(x, x, y + 9), ValueError, r"labels must be in \[0, 4\)"),
        (lambda x, y: class_sigmoid_loss(x, x, y, power=0.5), ValueError, "power must be between 1 and 16"),
        (lambda x, y: class_sigmoid_loss(x, x, y, scale="1"), TypeError, "scale must be a number, got str"),
        (lambda x, y: class_sigmoid_loss(x, x, y, sub_centers=3), ValueError, "multiple of as many, got 4"),
        (lambda x, y: class_sigmoid_loss(x, x, y, classes=y[:2]), ValueError, "hold the labels"),
        (lambda x, y: class_sigmoid_loss(x, x, y, bias=torch.ones(2)), ValueError, "bias must have one"),
        (lambda x, y: proxy_anchor_loss(x, x, y + 9), ValueError, r"labels must be in \[0, 4\), got 9 to 12"),
        (lambda x, y: proxy_anchor_loss(x, x, y, margin=3), ValueError, "margin must be between 0 and 2"),
        (lambda x, y: proxy_anchor_loss(x, x, y, scale=[1]), TypeError, "scale must be a number, got list"),
        (lambda x, y: proxy_anchor_loss(x, x.double(), y), TypeError, "both be float64, or neither"),
        (lambda x, y: losses.SphereFace2Loss(4, 3, impl="torch"), TypeError, "there is no impl here"),
        (lambda x, y: losses.ProxyAnchorLoss(4, 3, sub_centers=2), TypeError, "no sub_centers here"),
        (lambda x, y: losses.SphereFace2Loss(4, 3, scale=len), TypeError, "scale must be a number, got buil"),
        (lambda x, y: losses.ProxyAnchorLoss(4, 3, scale=x.sum()), TypeError, "a number, got Tensor"),
        (lambda x, y: losses.ProxyNCALoss(4, 3, temperature=0), ValueError, "a positive number, got 0"),
    ],
)
def test_errors(call, error, message: str):
    with pytest.raises(error, match=message):
        call(torch.randn(4, 3), torch.arange(4))
