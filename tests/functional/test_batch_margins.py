"""What margins remember of former batches, what they draw, schedules, and classes that are too near."""

import pytest
import torch
from margin_laws import LAWS, dense
from test_contrastive import BOUNDS, compare
from test_heads import SOME, batch
from torch import nn

from cosnorm import losses
from cosnorm.functional import (
    AdaFaceMargin,
    AdditiveAngle,
    AdditiveCosine,
    CombinedMargin,
    CurricularMargin,
    ElasticMargin,
    MagFaceMargin,
    MultiplicativeAngle,
    Schedule,
    ScheduledMargin,
    Targets,
    margin_cross_entropy,
)

each_margin = pytest.mark.parametrize("name", LAWS)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("name", ["cosface", "curricularface", "magface"])
@pytest.mark.parametrize("scale", [8.0, 100.0])
@pytest.mark.parametrize("sub_centers", [1, 3])
@pytest.mark.parametrize("classes", [None, SOME], ids=["all", "some"])
@pytest.mark.parametrize("above", [-1.0, 0.2])
def test_classes_that_are_too_near_leave_the_sum(
    dtype: torch.dtype, name: str, scale: float, sub_centers: int, classes, above: float
):
    x, weight, labels = batch(dtype, sub_centers)
    each = dense(x, weight, labels, name, scale, sub_centers, classes, above)
    for reduction, expected in (("mean", each.mean()), ("none", each)):
        for chunk_size in (None, 4):
            found = margin_cross_entropy(
                x,
                weight,
                labels,
                margin=LAWS[name].make(),
                scale=scale,
                sub_centers=sub_centers,
                classes=classes,
                exclude_above=above,
                reduction=reduction,
                chunk_size=chunk_size,
            )
            compare(found, expected, [x, weight], BOUNDS[dtype])


def test_an_ignored_embedding_of_which_all_classes_are_too_near_counts_nothing():
    x, weight, labels = batch(torch.float32)
    labels[2] = -100
    for reduction in ("mean", "none"):
        loss = margin_cross_entropy(x, weight, labels, exclude_above=-1.0, reduction=reduction)
        gradients = torch.autograd.grad(loss.sum(), (x, weight))
        assert loss.sum() == 0  # an embedding beside its own class alone
        assert not any(one.any() for one in gradients)


@each_margin
def test_a_row_that_is_not_finite_touches_no_other(name: str):
    x, weight, labels = batch(torch.float32)
    margin = LAWS[name].make()
    expected = margin_cross_entropy(x, weight, labels, margin=margin, reduction="none")
    with torch.no_grad():
        x[4, 1], x[6, 0] = torch.nan, torch.inf
    found = margin_cross_entropy(x, weight, labels, margin=margin, reduction="none")
    assert found.isnan().nonzero().squeeze(1).tolist() == [4, 6]
    torch.testing.assert_close(found[~found.isnan()], expected[~found.isnan()])


@each_margin
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_ignored_labels_and_weights_of_classes(name: str, reduction: str):
    x, weight, labels = batch(torch.float64)
    class_weights = torch.rand(len(weight), dtype=torch.float64)
    counts = class_weights[labels] * (torch.arange(len(labels)) % 3 != 1)
    expected = dense(x, weight, labels, name, 8.0) * counts
    labels = labels.masked_fill(torch.arange(len(labels)) % 3 == 1, -100)
    if reduction != "none":
        expected = expected.sum() if reduction == "sum" else expected.sum() / counts.sum()
    found = margin_cross_entropy(
        x,
        weight,
        labels,
        margin=LAWS[name].make(),
        scale=8.0,
        class_weights=class_weights,
        reduction=reduction,
    )
    compare(found, expected, [x, weight], 1e-10)


# ---- what they remember


def targets(norms: torch.Tensor, counted: torch.Tensor | None = None) -> Targets:
    cosine = torch.linspace(-0.5, 0.9, len(norms), dtype=torch.float64)
    counted = torch.ones(len(norms), dtype=torch.bool) if counted is None else counted
    return Targets(cosine, (1 - cosine.square()).sqrt(), norms.double(), counted, "")


def test_adaface_follows_the_norms_of_its_batches():
    margin, norms = AdaFaceMargin(momentum=0.25), torch.rand(9) * 30
    mean, deviation = 20.0, 100.0
    for _ in range(3):
        margin(targets(norms))
        mean += 0.25 * (norms.double().mean().item() - mean)
        deviation += 0.25 * (norms.double().std().item() - deviation)
    assert margin.mean.item() == pytest.approx(mean, rel=1e-6)
    assert margin.deviation.item() == pytest.approx(deviation, rel=1e-6)
    margin.eval()(targets(norms * 2))
    assert margin.mean.item() == pytest.approx(mean, rel=1e-6)


def test_curricularface_follows_the_cosines_of_its_batches():
    margin, ease = CurricularMargin(momentum=0.25), 0.0
    for _ in range(3):
        changed = margin(targets(torch.ones(9)))
        ease += 0.25 * (0.2 - ease)
        assert changed.ease.item() == pytest.approx(ease, rel=1e-6)
    assert margin.state_dict()["ease"].item() == pytest.approx(ease, rel=1e-6)


@pytest.mark.parametrize("make", [AdaFaceMargin, CurricularMargin])
def test_what_does_not_count_is_not_remembered(make):
    whole, part = make(momentum=0.5), make(momentum=0.5)
    norms = torch.tensor([3.0, torch.nan, 5.0, 8.0, torch.inf])
    counted = torch.tensor([True, True, True, False, True])
    seen = targets(norms, counted)
    cosine = seen.cosine.masked_fill(~norms.isfinite(), torch.nan)
    whole(seen._replace(cosine=cosine))
    part(Targets(*(one[[0, 2]] for one in seen[:4]), ""))
    for one, other in zip(whole.buffers(), part.buffers(), strict=True):
        assert one.isfinite()
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("make", [AdaFaceMargin, CurricularMargin])
def test_a_batch_of_one_and_of_none(make, number: int):
    margin = make(momentum=0.5)
    before = [one.clone() for one in margin.buffers()]
    margin(targets(torch.ones(1), torch.tensor([number == 1])))
    after = list(margin.buffers())
    assert all(one.isfinite() for one in after)
    assert [bool(one != other) for one, other in zip(before, after, strict=True)] == [
        number == 1,
        *[False] * (len(after) - 1),  # one number has no deviation
    ]


def test_statistics_stay_float32():
    for kind in (losses.AdaFaceLoss, losses.CurricularFaceLoss):
        for dtype in (torch.bfloat16, torch.float64):
            head = kind(5, 3).to(dtype)
            assert head.weight.dtype == dtype
            assert {one.dtype for one in head.margin.buffers()} == {torch.float32}


def test_two_steps_before_one_way_back():
    x, weight, labels = batch(torch.float32)
    for margin in (AdaFaceMargin(), CurricularMargin()):
        steps = [margin_cross_entropy(x, weight, labels, margin=margin, reduction="none") for _ in range(2)]
        torch.autograd.grad(sum(steps).sum(), (x, weight))


# ---- what they draw


@pytest.mark.parametrize("angle", [True, False])
@pytest.mark.parametrize("sort", [True, False])
def test_drawn_margins(angle: bool, sort: bool):
    number = 4000
    cosine = torch.linspace(0.2, 0.7, number, dtype=torch.float64)[torch.randperm(number)]
    one = torch.ones(number, dtype=torch.float64)
    seen = Targets(cosine, (1 - cosine.square()).sqrt(), one, one.bool(), "")
    margin = ElasticMargin(0.3, 0.02, angle=angle, sort=sort)
    value = margin(seen).value
    drawn = value.acos() - cosine.acos() if angle else cosine - value
    assert drawn.mean().item() == pytest.approx(0.3, abs=2e-3)
    assert drawn.std().item() == pytest.approx(0.02, rel=0.05)
    assert not torch.equal(margin(seen).value, value)
    ordered = drawn[cosine.argsort()]
    assert (ordered.diff() <= 1e-12).all() == sort  # the smaller the cosine, the larger the margin
    exact = margin.eval()(seen).value
    assert torch.allclose(exact.acos() - cosine.acos() if angle else cosine - exact, one * 0.3)


# ---- what follows the step


def ramp(step: torch.Tensor) -> torch.Tensor:
    return 0.1 * step.clamp(max=3)


def test_margins_and_scales_follow_a_schedule():
    x, weight, labels = batch(torch.float32)
    head = losses.ArcFaceLoss(len(weight), x.shape[1], margin=ramp, scale=lambda step: 8.0 + 2 * step)
    head.weight.data = weight.data
    for step in range(5):
        expected = margin_cross_entropy(
            x, weight, labels, margin=AdditiveAngle(0.1 * min(step, 3)), scale=8.0 + 2 * step
        )
        torch.testing.assert_close(head(x, labels), expected)
    later = losses.ArcFaceLoss(len(weight), x.shape[1], margin=ramp, scale=lambda step: 8.0 + 2 * step)
    later.load_state_dict(head.state_dict())
    torch.testing.assert_close(later(x, labels), head(x, labels))
    assert head.eval()(x, labels) == head(x, labels)
    torch.testing.assert_close(head.logits(x).amax() / 20, torch.ones(()), rtol=1, atol=0)


def test_a_schedule_may_give_plain_numbers():
    x, weight, labels = batch(torch.float32)
    margin = ScheduledMargin(AdditiveCosine, lambda step: 0.3 if step > 0 else 0.0)
    found = [margin_cross_entropy(x, weight, labels, margin=margin) for _ in range(2)]
    expected = [margin_cross_entropy(x, weight, labels, margin=AdditiveCosine(m)) for m in (0.0, 0.3)]
    assert found == expected


@pytest.mark.parametrize("shape", [(), (1,)])
def test_tensors_that_are_changed_in_place(shape):
    x, weight, labels = batch(torch.float32)
    margin, scale = torch.full(shape, 0.1), torch.full(shape, 8.0)
    for m, s in ((0.1, 8.0), (0.4, 90.0)):
        margin.fill_(m)
        scale.fill_(s)
        for make in (AdditiveAngle, AdditiveCosine):
            found = margin_cross_entropy(x, weight, labels, margin=make(margin), scale=scale)
            expected = margin_cross_entropy(x, weight, labels, margin=make(m), scale=s)
            compare(found, expected, [x, weight], 1e-5)


@pytest.mark.usefixtures("accelerated")
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_tensor_for_the_scale_where_nobody_looks_at_it(reduction: str):
    x, weight, labels = batch(torch.float32)
    each = dense(x, weight, labels, "arcface", 8.0)
    found = margin_cross_entropy(
        x, weight, labels, margin=AdditiveAngle(0.5), scale=torch.tensor(8.0), reduction=reduction
    )
    compare(found, each if reduction == "none" else each.mean(), [x, weight], 1e-5)
    with pytest.raises(RuntimeError):
        margin_cross_entropy(x, weight, labels, scale=torch.tensor(-8.0))


@pytest.mark.parametrize("name", ["arcface", "sphereface", "combined", "adaface", "curricularface"])
def test_margins_learn(name: str):
    """A margin that is a parameter gets the derivative of the loss in it."""
    make = {
        "arcface": AdditiveAngle,
        "sphereface": lambda m: ScheduledMargin(MultiplicativeAngle, m),
        "combined": lambda m: ScheduledMargin(CombinedMargin, 1.25, m, 0.2),
        "adaface": lambda m: AdaFaceMargin(m).eval(),
        "curricularface": lambda m: CurricularMargin(m).eval(),
    }[name]
    x, weight, labels = batch(torch.float64)
    start = 1.4 if name == "sphereface" else 0.3
    number = nn.Parameter(torch.tensor([start], dtype=torch.float64))
    loss = margin_cross_entropy(x, weight, labels, margin=make(number), scale=4.0)
    (gradient,) = torch.autograd.grad(loss, number)
    ends = [
        margin_cross_entropy(x, weight, labels, margin=make(start + by), scale=4.0) for by in (-1e-6, 1e-6)
    ]
    assert gradient.item() == pytest.approx(float((ends[1] - ends[0]).detach()) / 2e-6, rel=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: AdaFaceMargin(2.0), ValueError, "AdaFaceMargin: margin must be between 0 and 1.5708, got 2"),
        (
            lambda: AdaFaceMargin("a"),
            TypeError,
            "a number, a tensor of one, or a function of the step, got str",
        ),
        (lambda: AdaFaceMargin(momentum=0.0), ValueError, "momentum must be between 1e-09 and 1, got 0.0"),
        (lambda: AdaFaceMargin(concentration=-1), ValueError, "concentration must be between"),
        (lambda: AdaFaceMargin(torch.ones(2)), ValueError, r"margin must have one element.*shape \(2,\)"),
        (lambda: AdditiveAngle(torch.ones(2)), ValueError, "AdditiveAngle: margin must have one element"),
        (lambda: AdditiveCosine(torch.tensor(1)), ValueError, "one element, a floating-point number"),
        (lambda: MagFaceMargin(norms=(3, 2)), ValueError, r"0 < l_a < u_a, got \(3, 2\)"),
        (lambda: MagFaceMargin(margins=(28.6, 40.0)), ValueError, "u_m ≤ π/2, in radians, got"),
        (lambda: ElasticMargin(3.0, angle=False), ValueError, "between 0 and 2, got 3.0"),
        (lambda: CurricularMargin(momentum=2), ValueError, "momentum must be between"),
        (lambda: Schedule(0.3), TypeError, "function must be one of the step, got float"),
        (
            lambda: ScheduledMargin(AdditiveAngle, "a"),
            TypeError,
            "number0 must be a number, a tensor of one, or a function of the step, got str",
        ),
        (lambda: MultiplicativeAngle(0.5), ValueError, "multiple must be between 1 and 16, got 0.5"),
        (
            lambda: CombinedMargin(1.0, 28.6),
            ValueError,
            "CombinedMargin: angle must be between 0 and 1.5708, got 28.6",
        ),
        (
            lambda: losses.heads.CosineSoftmaxLoss(5, 3, "ace", 8.0),
            ValueError,
            "margin must be one of adaface, arcface, .*got 'ace'",
        ),
    ],
)
def test_errors(call, error, message: str):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"exclude_above": 1.5}, ValueError, "exclude_above is a cosine, between -1 and 1, got 1.5"),
        ({"exclude_above": "a"}, TypeError, "exclude_above must be a number, got str"),
        ({"exclude_above": 0.4, "label_smoothing": 0.1}, ValueError, "leave one of them out"),
        (
            {"margin": CurricularMargin(), "label_smoothing": 0.1},
            ValueError,
            "CurricularMargin changes those",
        ),
        ({"scale": torch.ones(2)}, ValueError, "scale must have one element"),
        ({"scale": torch.tensor(-1.0)}, ValueError, "scale must be positive .*got -1.0"),
        ({"scale": torch.tensor(8.0, requires_grad=True)}, ValueError, r"use scale.detach\(\)"),
        ({"exclude_above": 0.4, "impl": "triton"}, RuntimeError, "no kernel for sub-centers, nor for logits"),
        ({"margin": CurricularMargin(), "impl": "triton"}, RuntimeError, 'use impl="torch"'),
    ],
)
def test_errors_of_options(options, error, message: str):
    with pytest.raises(error, match=f"margin_cross_entropy: .*{message}"):
        margin_cross_entropy(torch.randn(2, 3), torch.randn(5, 3), torch.tensor([0, 0]), **options)
