"""`margin_cross_entropy` against the dense float64 formula: margins, scales, sub-centers, classes, edges."""

import pytest
import torch
from allocations import Allocations
from margin_laws import LAWS, dense
from test_contrastive import BOUNDS, compare
from torch import Tensor
from torch.nn import functional as F

from cosnorm.functional import AdditiveAngle, margin_cross_entropy, sample_classes

NUMBER, SIZE, CLASSES = 17, 9, 20
each_margin = pytest.mark.parametrize("name", LAWS)
SOME = torch.tensor([19, 0, 2, 3, 7, 11, 12])


def batch(dtype: torch.dtype, sub_centers: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(NUMBER, SIZE, generator=generator, dtype=torch.float64)
    weight = torch.randn(CLASSES * sub_centers, SIZE, generator=generator, dtype=torch.float64)
    labels = SOME[torch.randint(len(SOME), (NUMBER,), generator=generator)]
    return x.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), labels


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@each_margin
@pytest.mark.parametrize("scale", [1.0, 30.0, 100.0])
@pytest.mark.parametrize("sub_centers", [1, 3])
@pytest.mark.parametrize("classes", [None, SOME], ids=["all", "some"])
def test_every_form(dtype: torch.dtype, name: str, scale: float, sub_centers: int, classes):
    """The mean makes its gradients in the forward pass, "none" makes them again."""
    x, weight, labels = batch(dtype, sub_centers)
    losses = dense(x, weight, labels, name, scale, sub_centers, classes)
    for reduction, expected in (("mean", losses.mean()), ("sum", losses.sum()), ("none", losses)):
        for chunk_size in (None, 4):
            found = margin_cross_entropy(
                x,
                weight,
                labels,
                margin=LAWS[name].make(),
                scale=scale,
                sub_centers=sub_centers,
                classes=classes,
                reduction=reduction,
                chunk_size=chunk_size,
            )
            compare(found, expected, [x, weight], BOUNDS[dtype])


@pytest.mark.parametrize("reduction", ["mean", "none"])
@each_margin
def test_rows_of_every_length(name: str, reduction: str):
    x, weight, labels = batch(torch.float32)
    with torch.no_grad():
        x *= torch.logspace(-36, 36, NUMBER).unsqueeze(1)
        weight *= torch.logspace(36, -36, CLASSES).unsqueeze(1)
    exact = [one.detach().double().requires_grad_() for one in (x, weight)]
    margin = LAWS[name].make()
    loss = margin_cross_entropy(x, weight, labels, margin=margin, scale=30.0, reduction=reduction).sum()
    expected = dense(*exact, labels, name, 30.0)
    expected = expected.sum() if reduction == "none" else expected.mean()
    assert abs(loss - expected) < 1e-5 * expected
    largest = torch.finfo(torch.float32).max
    found, right = (torch.autograd.grad(*pair) for pair in ((loss, (x, weight)), (expected, exact)))
    for one, other in zip(found, right, strict=True):
        clamped = other.clamp(-largest, largest)
        size = clamped.abs().amax(1)
        normal = size > 1e-36
        assert one.isfinite().all()
        assert ((one - clamped).abs().amax(1) / size)[normal].max() < 1e-4


@each_margin
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_zero_rows_get_gradient_zero(name: str, reduction: str):
    x, weight, labels = batch(torch.float32)
    with torch.no_grad():
        x[3] = 0
        weight[labels[5]] = 0
    margin = LAWS[name].make()
    loss = margin_cross_entropy(x, weight, labels, margin=margin, reduction=reduction).sum()
    into_x, into_weight = torch.autograd.grad(loss, (x, weight))
    assert loss.isfinite()
    assert into_x.isfinite().all()
    assert into_weight.isfinite().all()
    assert not into_x[3].any()
    assert not into_weight[labels[5]].any()
    assert into_x[4].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [1, -1])
def test_where_the_angle_is_zero_or_pi_the_target_pulls_nowhere(sign: int, dtype: torch.dtype):
    """One class alone would have a softmax of 1: the gradient left over is that of the other class."""
    x = torch.tensor([[0.3, -1.7, 0.4]], dtype=dtype, requires_grad=True)
    other = torch.tensor([[1.7, 0.3, 0.0]], dtype=dtype)  # orthogonal to x
    weight = torch.cat([sign * x.detach() * 2, other]).requires_grad_()
    loss = margin_cross_entropy(x, weight, torch.tensor([0]), margin=AdditiveAngle(0.5), scale=8.0)
    into_x, into_weight = torch.autograd.grad(loss, (x, weight))
    assert not into_weight[0].any()
    direction = F.normalize(other, dim=1)
    softmax = 1 - (-loss).exp()
    torch.testing.assert_close(into_x, 8 * softmax * direction / x.detach().norm(), rtol=1e-5, atol=1e-6)


@each_margin
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_beside_float32(dtype: torch.dtype, name: str):
    x, weight, labels = batch(torch.float32)
    half = x.detach().to(dtype).requires_grad_()
    loss = margin_cross_entropy(half, weight, labels, margin=LAWS[name].make())
    expected = dense(half, weight, labels, name, 30.0).mean()
    assert loss.dtype == torch.float32
    assert abs(loss - expected) < 1e-5 * expected
    into_x, into_weight = torch.autograd.grad(loss, (half, weight))
    right = torch.autograd.grad(expected, (half, weight))
    assert into_x.dtype == dtype
    assert into_weight.dtype == torch.float32
    assert (into_x - right[0]).abs().max() < 2 * torch.finfo(dtype).eps * right[0].abs().max()
    assert (into_weight - right[1]).abs().max() < 1e-5 * right[1].abs().max()


def test_classes_that_take_no_part_get_gradient_zero():
    x, weight, labels = batch(torch.float32)
    for reduction in ("mean", "none"):
        loss = margin_cross_entropy(x, weight, labels, classes=SOME, reduction=reduction).sum()
        gradient = torch.autograd.grad(loss, weight)[0]
        absent = torch.ones(CLASSES, dtype=torch.bool)
        absent[SOME] = False
        assert not gradient[absent].any()
        assert gradient[SOME].any(1).all()


def test_sampled_classes_hold_those_of_the_batch_and_are_drawn_evenly():
    labels = torch.tensor([3, 3, 8])
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(10)
    for _ in range(400):
        drawn = sample_classes(labels, 10, 4, generator=generator)
        assert len(drawn) == 4
        assert torch.equal(drawn, drawn.unique())
        counts[drawn] += 1
    assert counts[3] == counts[8] == 400
    others = counts[[0, 1, 2, 4, 5, 6, 7, 9]]
    assert others.sum() == 800
    assert ((others - 100).abs() < 40).all()
    assert sample_classes(torch.arange(6), 10, 2).tolist() == list(range(6))


def test_no_block_is_as_large_as_the_weight():
    """But for the weight and its gradient; "none" makes no gradient in the forward pass."""
    classes, number = 5000, 8
    x = torch.randn(number, SIZE, requires_grad=True)
    weight = torch.randn(classes, SIZE, requires_grad=True)
    labels = torch.randint(classes, (number,))
    with torch.no_grad(), Allocations() as made:
        margin_cross_entropy(x, weight, labels, chunk_size=64)
    assert made.largest <= 8 * classes  # two numbers for each class
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = margin_cross_entropy(x, weight, labels, reduction="none", chunk_size=64)
    assert sum(saved.values()) <= 4 * (classes * SIZE + number * SIZE + 8 * number)
    loss.sum().backward()


def test_first_derivatives_only():
    x, weight = (one.detach()[:5, :3].requires_grad_() for one in batch(torch.float64)[:2])
    labels = torch.tensor([0, 4, 2, 2, 1])
    for reduction in ("mean", "none"):

        def loss(x: Tensor, weight: Tensor, reduction=reduction) -> Tensor:
            return margin_cross_entropy(x, weight, labels, margin=AdditiveAngle(0.3), reduction=reduction)

        assert torch.autograd.gradcheck(loss, (x, weight))
        first = torch.autograd.grad(loss(x, weight).sum() + x.square().sum(), x, create_graph=True)[0]
        with pytest.raises(RuntimeError, match="cannot be differentiated again"):
            torch.autograd.grad(first.sum(), x)


def test_an_empty_batch():
    weight = torch.randn(CLASSES, SIZE, requires_grad=True)
    x = torch.empty(0, SIZE, requires_grad=True)
    for reduction in ("mean", "none"):
        loss = margin_cross_entropy(x, weight, torch.empty(0, dtype=torch.long), reduction=reduction)
        loss.sum().backward()
        assert loss.sum() == 0
        assert not weight.grad.any()
