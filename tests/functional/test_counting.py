"""Class weights, label smoothing and ignored labels, against torch's cross-entropy of the dense logits."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cosnorm import losses
from cosnorm.functional import AdditiveAngle, AdditiveCosine, NoMargin, margin_cross_entropy

NUMBER, SIZE, CLASSES = 23, 6, 17
BOUNDS = {torch.float64: 1e-12, torch.float32: 2e-5}
SOME = torch.tensor([0, 2, 3, 7, 11, 16])
MARGINS = (NoMargin(), AdditiveCosine(0.35), AdditiveAngle(0.5))


def logits(x: Tensor, weight: Tensor, labels: Tensor, margin, scale: float, sub_centers: int) -> Tensor:
    """Dense, in float64, with ψ at the targets that are classes."""
    cosines = F.normalize(x.double()) @ F.normalize(weight.double()).T
    cosines = cosines.unflatten(1, (-1, sub_centers)).amax(2)
    rows = (labels >= 0).nonzero().squeeze(1)
    own = cosines[rows, labels[rows]]
    values = margin(own, (1 - own.square()).sqrt())[0]
    return scale * cosines.index_put((rows, labels[rows]), values)


def batch(sub_centers: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(NUMBER, SIZE, generator=generator, dtype=torch.float64)
    weight = torch.randn(CLASSES * sub_centers, SIZE, generator=generator, dtype=torch.float64)
    labels = SOME[torch.randint(len(SOME), (NUMBER,), generator=generator)]
    labels[[3, 7, 22]] = -100
    return x, weight, labels, torch.rand(CLASSES, generator=generator, dtype=torch.float64)


def compare(found: Tensor, expected: Tensor, leaves, exact_leaves, bound: float) -> None:
    cotangent = torch.randn_like(expected)
    gradients = torch.autograd.grad(found, leaves, cotangent.to(found.dtype))
    exact = torch.autograd.grad(expected, exact_leaves, cotangent, retain_graph=True)
    for one, other in zip((found, *gradients), (expected, *exact), strict=True):
        assert (one.double() - other).abs().max() <= bound * other.abs().max().clamp(min=1e-30)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("margin", MARGINS, ids=lambda margin: type(margin).__name__)
@pytest.mark.parametrize("weighed", [False, True], ids=["even", "weighed"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_what_torch_does_with_dense_logits(dtype, margin, weighed: bool, smoothing: float, reduction: str):
    x, weight, labels, class_weights = batch()
    exact = x.clone().requires_grad_(), weight.clone().requires_grad_()
    expected = F.cross_entropy(
        logits(*exact, labels, margin, 8.0, 1),
        labels,
        weight=class_weights if weighed else None,
        label_smoothing=smoothing,
        reduction=reduction,
    )
    for chunk_size in (None, 5):
        leaves = x.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()
        found = margin_cross_entropy(
            *leaves,
            labels,
            margin=margin,
            scale=8.0,
            class_weights=class_weights.to(dtype) if weighed else None,
            label_smoothing=smoothing,
            reduction=reduction,
            chunk_size=chunk_size,
        )
        compare(found, expected, leaves, exact, BOUNDS[dtype])


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_classes_that_take_part(reduction: str, smoothing: float):
    x, weight, labels, class_weights = batch()
    exact = x.clone().requires_grad_(), weight.clone().requires_grad_()
    places = torch.where(labels < 0, labels, torch.searchsorted(SOME, labels.clamp(min=0)))
    expected = F.cross_entropy(
        logits(*exact, labels, NoMargin(), 8.0, 1)[:, SOME],
        places,
        weight=class_weights[SOME],
        label_smoothing=smoothing,
        reduction=reduction,
    )
    leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
    found = margin_cross_entropy(
        *leaves,
        labels,
        scale=8.0,
        classes=SOME,
        class_weights=class_weights,
        label_smoothing=smoothing,
        reduction=reduction,
        chunk_size=4,
    )
    compare(found, expected, leaves, exact, 1e-12)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_sub_centers(reduction: str):
    x, weight, labels, class_weights = batch(3)
    exact = x.clone().requires_grad_(), weight.clone().requires_grad_()
    expected = F.cross_entropy(
        logits(*exact, labels, AdditiveCosine(0.2), 8.0, 3), labels, class_weights, reduction=reduction
    )
    leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
    found = margin_cross_entropy(
        *leaves,
        labels,
        margin=AdditiveCosine(0.2),
        scale=8.0,
        sub_centers=3,
        class_weights=class_weights,
        reduction=reduction,
    )
    compare(found, expected, leaves, exact, 1e-12)


@pytest.mark.parametrize(
    "kind", [losses.NormFaceLoss, losses.CosFaceLoss, losses.ArcFaceLoss, losses.SphereFaceLoss]
)
def test_heads_have_them(kind):
    x, weight, labels, class_weights = batch()
    labels = labels.masked_fill(labels < 0, 99)
    options = {"class_weights": class_weights, "label_smoothing": 0.1, "ignore_index": 99}
    head = kind(CLASSES, SIZE, scale=8.0, dtype=torch.float64, **options)
    head.load_state_dict({"weight": weight, "class_weights": class_weights})
    masked = labels.masked_fill(labels == 99, -100)
    expected = F.cross_entropy(
        logits(x, weight, masked, head.margin, 8.0, 1), masked, class_weights, label_smoothing=0.1
    )
    torch.testing.assert_close(head(x, labels), expected)
    assert kind(CLASSES, SIZE).state_dict().keys() == {"weight"}  # as of checkpoints that are there
    sampled = kind(CLASSES, SIZE, num_sampled=8, dtype=torch.float64, **options)
    sampled(x, labels).backward()
    assert sampled.weight.grad.isfinite().all()


def test_a_head_says_what_is_wrong_with_its_weights():
    for wrong, error in (([1.0] * 5, TypeError), (torch.ones(4), ValueError)):
        with pytest.raises(error, match="NormFaceLoss: class_weights must"):
            losses.NormFaceLoss(5, 3, class_weights=wrong)


def test_center_losses_leave_ignored_labels_out():
    x, centers, labels, class_weights = batch()
    kept = labels >= 0
    for loss in (losses.center_loss, losses.island_loss):
        torch.testing.assert_close(loss(x, labels, centers), loss(x[kept], labels[kept], centers))
    each = losses.center_loss(x, labels, centers, reduction="none")
    assert (each == 0).tolist() == (~kept).tolist()
    for kind in (losses.CenterLoss, losses.IslandLoss, losses.CosineDistanceLoss):
        module = kind(CLASSES, SIZE, ignore_index=99, dtype=torch.float64)
        torch.testing.assert_close(module(x, labels.where(kept, 99)), module(x[kept], labels[kept]))
    both = losses.CosineDistanceLoss(
        CLASSES, SIZE, class_weights=class_weights, label_smoothing=0.1, dtype=torch.float64
    )
    expected = both.softmax(x, labels) + both.center_weight * both.island(x, labels)
    torch.testing.assert_close(both(x, labels), expected)
    assert both.softmax.label_smoothing == 0.1
    assert torch.equal(both.softmax.class_weights, class_weights)


@pytest.mark.parametrize("views", [None, 2])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_sup_con_without_the_embeddings_of_an_ignored_label(views: int | None, reduction: str):
    labels = torch.tensor([0, 1, -1, 0, 1, -1, 2, 2])
    x = torch.randn(8, *([] if views is None else [views]), 5, dtype=torch.float64, requires_grad=True)
    extra, extra_labels = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, -1, 2, 1])
    kept, kept_keys = labels >= 0, extra_labels >= 0
    expected = losses.sup_con_loss(
        x[kept],
        labels[kept],
        extra_keys=extra[kept_keys],
        extra_labels=extra_labels[kept_keys],
        reduction=reduction,
    )
    module = losses.SupConLoss(ignore_index=-1, reduction=reduction)
    found = module(x, labels, extra, extra_labels)
    if reduction == "none":
        assert (found[~kept] == 0).all()
        assert found.shape == x.shape[:-1]
        found = found[kept]
    compare(found, expected, [x], [x], 1e-12)


def test_a_batch_of_ignored_labels_has_loss_and_gradient_0():
    x, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    labels = torch.full((3,), -100)
    for smoothing in (0.0, 0.1):
        loss = margin_cross_entropy(x, weight, labels, label_smoothing=smoothing)
        assert loss.item() == 0
        assert all((one == 0).all() for one in torch.autograd.grad(loss, (x, weight)))


def test_a_mean_over_little_weight():
    """Σ w may be far below 1."""
    x, weight, labels, class_weights = batch()
    options = {"scale": 8.0, "class_weights": class_weights}
    loss = margin_cross_entropy(x, weight, labels, **options)
    options["class_weights"] = class_weights * 1e-6
    torch.testing.assert_close(margin_cross_entropy(x, weight, labels, **options), loss)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"label_smoothing": 1.5}, ValueError, "label_smoothing must be between 0 and 1, got 1.5"),
        ({"label_smoothing": math.nan}, ValueError, "between 0 and 1, got nan"),
        ({"label_smoothing": "a"}, TypeError, "label_smoothing must be a number, got str"),
        ({"ignore_index": None}, TypeError, "ignore_index must be an int, a label that does not count"),
        ({"class_weights": [1.0]}, TypeError, "class_weights must be a tensor of floating-point.*got list"),
        ({"class_weights": torch.ones(5, dtype=torch.int64)}, TypeError, "got torch.int64; convert it"),
        ({"class_weights": torch.ones(4)}, ValueError, r"must have shape \(5,\).*got \(4,\)"),
        ({"class_weights": torch.ones(5, requires_grad=True)}, ValueError, "do not learn; use class_weights"),
        ({"class_weights": torch.ones(5, device="meta")}, ValueError, "must be on cpu, got meta"),
        ({"label_smoothing": 0.1, "sub_centers": 5}, ValueError, "takes one center for each class, got sub"),
    ],
)
def test_errors(options, error, message):
    with pytest.raises(error, match=f"margin_cross_entropy: .*{message}"):
        margin_cross_entropy(torch.randn(2, 3), torch.randn(5, 3), torch.tensor([0, 0]), **options)
