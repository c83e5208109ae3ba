"""Losses at prefixes of the embeddings: against dense formulas in float64, for pairs and for heads."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosnorm import losses
from cosnorm.functional import contrastive_cross_entropy, margin_cross_entropy, pairwise_sigmoid_loss

N, K, E, C, D = 7, 2, 3, 5, 12
DIMS, WEIGHTS = (12, 5, 2), (1.0, 0.3, 2.0)
LABELS, NAMES = torch.arange(N) % C, torch.arange(N) % 3
SCALE = 8.0
Formula = Callable[..., Tensor]


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, D, dtype=torch.float64, requires_grad=True)


def unit(rows: Tensor) -> Tensor:
    return F.normalize(rows, dim=-1, eps=0)


def summed(formula: Formula, *rows: Tensor) -> Tensor:
    """Prefix after prefix."""
    return sum(w * formula(*(one[..., :d] for one in rows)) for d, w in zip(DIMS, WEIGHTS, strict=True))


def agree(found: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    assert (found - expected).abs().max() < 1e-12
    cotangent = torch.randn_like(expected)
    both = (torch.autograd.grad(loss, inputs, cotangent, retain_graph=True) for loss in (found, expected))
    for one, other in zip(*both, strict=True):
        assert (one - other).abs().max() < 1e-11


def wrapped(loss: Any) -> losses.MatryoshkaLoss:
    return losses.MatryoshkaLoss(loss, DIMS, WEIGHTS).double()


def info_nce(a: Tensor, b: Tensor, queue: Tensor, hard: Tensor) -> Tensor:
    a, b, queue, hard = map(unit, (a, b, queue, hard))
    logits = torch.cat([a @ b.T, a @ queue.T, (a.unsqueeze(1) * hard).sum(2)], 1) * SCALE
    return F.cross_entropy(logits, torch.arange(N))


def nt_xent(a: Tensor, b: Tensor) -> Tensor:
    rows = unit(torch.cat([a, b]))
    logits = (rows @ rows.T * SCALE).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(2 * N).roll(N))


def sup_con(a: Tensor) -> Tensor:
    logits = (unit(a) @ unit(a).T * SCALE).fill_diagonal_(-torch.inf)
    same = (NAMES.unsqueeze(1) == NAMES).fill_diagonal_(False)
    each = (logits.logsumexp(1, keepdim=True) - logits).masked_fill(~same, 0).sum(1) / same.sum(1)
    return each.mean()


def clip(a: Tensor, b: Tensor) -> Tensor:
    logits = unit(a) @ unit(b).T * SCALE
    return (F.cross_entropy(logits, torch.arange(N)) + F.cross_entropy(logits.T, torch.arange(N))) / 2


def siglip(a: Tensor, b: Tensor) -> Tensor:
    target, logits = torch.eye(N, dtype=torch.float64), unit(a) @ unit(b).T * 10 - 10
    return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / N


def embedding(a: Tensor, b: Tensor) -> Tensor:
    return (1 - (unit(a) * unit(b)).sum(1)).mean()


def scaled(loss: nn.Module, scale: float) -> nn.Module:
    """With a learned scale that is right to the digits of float64."""
    nn.init.constant_(loss.double().logit_scale, math.log(scale))
    return loss


PAIRS: dict[str, tuple[Callable[..., Tensor], Formula, list[tuple[int, ...]]]] = {
    "NT-Xent": (losses.NTXentLoss(1 / SCALE), nt_xent, [(N,), (N,)]),
    "InfoNCE": (
        lambda a, b, queue, hard: losses.InfoNCELoss(1 / SCALE)(a, b, extra_keys=queue, hard_negatives=hard),
        info_nce,
        [(N,), (N,), (E,), (N, K)],
    ),
    "SupCon": (lambda a: losses.sup_con_loss(a, NAMES, temperature=1 / SCALE), sup_con, [(N,)]),
    "CLIP": (scaled(losses.CLIPLoss(), SCALE), clip, [(N,), (N,)]),
    "SigLIP": (scaled(losses.SigLIPLoss(), 10.0), siglip, [(N,), (N,)]),
    "embedding": (losses.CosineEmbeddingLoss(target=1.0), embedding, [(N,), (N,)]),
    "contrastive": (
        lambda a, b: contrastive_cross_entropy(a, b, temperature=1 / SCALE),
        lambda a, b: F.cross_entropy(unit(a) @ unit(b).T * SCALE, torch.arange(N)),
        [(N,), (N,)],
    ),
    "sigmoid": (pairwise_sigmoid_loss, siglip, [(N,), (N,)]),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs(name: str):
    loss, formula, shapes = PAIRS[name]
    rows = [leaf(*shape) for shape in shapes]
    agree(wrapped(loss)(*rows), summed(formula, *rows), rows)


def test_options_of_a_call_are_cut_and_a_guide_is_not():
    a, b, queue, hard = rows = [leaf(N), leaf(N), leaf(E), leaf(N, K)]
    criterion = wrapped(losses.InfoNCELoss(1 / SCALE))
    agree(criterion(a, b, extra_keys=queue, hard_negatives=hard), summed(info_nce, *rows), rows)
    agree(criterion(queries=a, keys=b, extra_keys=queue, hard_negatives=hard), summed(info_nce, *rows), rows)
    guide, more = (leaf(N).detach(), leaf(N).detach()), leaf(E).detach()

    def guided(a: Tensor, b: Tensor, queue: Tensor) -> Tensor:
        options = {"guide": guide, "extra_guide": more}
        return losses.info_nce_loss(a, b, extra_keys=queue, temperature=1 / SCALE, **options)

    found = criterion(a, b, extra_keys=queue, guide=guide, extra_guide=more)
    agree(found, summed(guided, a, b, queue), [a, b, queue])
    negatives = criterion(a, b, hard)
    agree(
        negatives,
        summed(lambda *one: losses.info_nce_loss(*one, temperature=1 / SCALE), a, b, hard),
        rows[:2],
    )


def test_soft_targets_stay_whole():
    a, b = leaf(N), leaf(D)  # as many keys as components
    targets = torch.rand(N, D, dtype=torch.float64).to_sparse_csr()
    pairs, weights = torch.stack([torch.arange(N), torch.arange(N)], 1), torch.rand(N, dtype=torch.float64)
    for options in ({"positives": targets}, {"positives": pairs, "positive_weights": weights}):
        expected = summed(lambda *one, given=options: losses.clip_loss(*one, **given), a, b)
        agree(wrapped(losses.clip_loss)(a, b, **options), expected, [a, b])


def test_a_loss_of_each_row_and_of_views():
    a, b, views = leaf(N), leaf(N), leaf(N, 2)
    each = wrapped(losses.NTXentLoss(reduction="none"))(a, b)
    assert each.shape == (2 * N,)
    agree(each, summed(lambda *one: losses.nt_xent_loss(*one, reduction="none"), a, b), [a, b])
    agree(wrapped(losses.SupConLoss())(views), summed(losses.sup_con_loss, views), [views])


HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sub-centers": {"sub_centers": 3},
    "counted": {"label_smoothing": 0.1, "ignore_index": 1, "class_weights": torch.arange(1.0, C + 1)},
}


@pytest.mark.parametrize("name", HEADS)
def test_heads(name: str):
    options = HEADS[name]
    head = losses.CosFaceLoss(C, D, scale=SCALE, margin=0.2, **options).double()
    rows, weight = leaf(N), head.weight
    centers, counted = options.get("sub_centers", 1), {**options}
    if "class_weights" in counted:
        counted["class_weights"] = counted["class_weights"].double()
    counted.pop("sub_centers", None)
    smoothing, ignored = counted.get("label_smoothing", 0.0), counted.get("ignore_index", -100)

    def formula(x: Tensor, w: Tensor) -> Tensor:
        cosines = (unit(x) @ unit(w).T).unflatten(1, (C, centers)).amax(2)
        logits = SCALE * (cosines - 0.2 * F.one_hot(LABELS, C).double())
        return F.cross_entropy(
            logits,
            LABELS,
            counted.get("class_weights"),
            label_smoothing=smoothing,
            ignore_index=ignored,
        )

    criterion = wrapped(head)
    agree(criterion(rows, LABELS), summed(formula, rows, weight), [rows, weight])
    criterion(rows, LABELS).backward()
    assert weight.grad.shape == (C * centers, D)
    assert head.weight is weight
    assert {*criterion.state_dict()} == {f"loss.{key}" for key in head.state_dict()}


@pytest.mark.parametrize("make", [losses.CenterLoss, losses.IslandLoss, losses.CosineDistanceLoss])
def test_centers(make: type):
    loss, rows = make(C, D).double(), leaf(N)
    learned = [*loss.parameters()]
    twins = [make(C, dim).double() for dim in DIMS]
    expected = torch.zeros((), dtype=torch.float64)
    gradients = [torch.zeros_like(one) for one in learned]
    for dim, weight, twin in zip(DIMS, WEIGHTS, twins, strict=True):
        twin.load_state_dict({name: one[:, :dim] for name, one in loss.state_dict().items()})
        value = weight * twin(rows[:, :dim], LABELS)
        expected = expected + value
        for into, one in zip(gradients, torch.autograd.grad(value, [*twin.parameters()]), strict=True):
            into[:, :dim] += one
    found = wrapped(loss)(rows, LABELS)
    assert abs(found - expected) < 1e-12 * expected
    for one, other in zip(torch.autograd.grad(found, learned), gradients, strict=True):
        assert (one - other).abs().max() < 1e-11 * other.abs().max()


def test_sampled_classes():
    head, rows = losses.ArcFaceLoss(C, D, num_sampled=C, scale=SCALE).double(), leaf(N)
    whole = losses.ArcFaceLoss(C, D, scale=SCALE).double()
    whole.load_state_dict(head.state_dict())
    assert abs(wrapped(head)(rows, LABELS) - wrapped(whole)(rows, LABELS)) < 1e-12  # all that there are
    few = losses.ArcFaceLoss(100, D, num_sampled=10)
    losses.MatryoshkaLoss(few, DIMS)(rows.float(), LABELS).backward()
    assert few.weight.grad[:C].any(1).all()


def ramp(step: Tensor) -> Tensor:
    return 0.1 * (1 + step)


REMEMBERING: dict[str, Callable[[int], nn.Module]] = {
    "AdaFace": lambda size: losses.AdaFaceLoss(C, size),
    "CurricularFace": lambda size: losses.CurricularFaceLoss(C, size),
    "a schedule": lambda size: losses.ArcFaceLoss(C, size, margin=ramp),
    "schedules": lambda size: losses.AdaFaceLoss(C, size, margin=ramp, scale=lambda step: 8.0 + step),
}


@pytest.mark.parametrize("name", REMEMBERING)
def test_each_prefix_remembers_for_itself(name: str):
    """As losses of their own do, over several steps; so do copies, and what was saved."""
    make = REMEMBERING[name]
    criterion, twins = wrapped(make(D)), [make(dim).double() for dim in DIMS]
    for dim, twin in zip(DIMS, twins, strict=True):
        twin.weight.data = criterion.loss.weight.detach()[:, :dim].clone()
    for step in range(4):
        rows = leaf(N)
        if step == 1:
            criterion = copy.deepcopy(criterion)
        if step == 2:
            state, criterion = criterion.state_dict(), wrapped(make(D))
            criterion.load_state_dict(state)
        if step == 3:
            criterion.eval()
            twins = [twin.eval() for twin in twins]
        parts = [twin(rows[:, :dim], LABELS) for dim, twin in zip(DIMS, twins, strict=True)]
        expected = sum(w * one for w, one in zip(WEIGHTS, parts, strict=True))
        found = criterion(rows, LABELS)
        agree(found, expected, [rows])
    first = {
        key.removeprefix("loss."): one
        for key, one in criterion.state_dict().items()
        if key.startswith("loss.")
    }
    assert first.keys() == twins[0].state_dict().keys()
    assert all(torch.equal(one, first[key]) for key, one in twins[0].state_dict().items())


def test_a_margin_from_outside_is_one_for_all_prefixes():
    margin = torch.tensor(0.1)
    head, rows = losses.AdaFaceLoss(C, D, margin=margin).eval(), leaf(N).float()
    criterion = losses.MatryoshkaLoss(head, DIMS)
    before = criterion(rows, LABELS)
    margin.fill_(0.4)
    fresh = losses.AdaFaceLoss(C, D, margin=0.4).eval()
    fresh.weight = head.weight
    assert criterion(rows, LABELS) > before
    torch.testing.assert_close(criterion(rows, LABELS), losses.MatryoshkaLoss(fresh, DIMS)(rows, LABELS))


@pytest.mark.parametrize("make", [losses.ArcFaceLoss, losses.CosineDistanceLoss])
def test_prefixes_predict(make: type):
    head, rows = make(C, D), torch.randn(N, D)
    weight = getattr(head, "softmax", head).weight
    for dim in DIMS:
        cosines = unit(rows[:, :dim]) @ unit(weight[:, :dim]).T
        for given in (rows, rows[:, :dim]):
            assert torch.equal(head.predict(given, dim=dim, topk=3), cosines.topk(3).indices)
            scale = getattr(head, "softmax", head).scale
            torch.testing.assert_close(head.logits(given, dim=dim), scale * cosines)
    for call in (head.predict, head.logits):
        with pytest.raises(ValueError, match=f"dim must be at most embedding_size = {D}, got 13"):
            call(rows, dim=13)
        with pytest.raises(ValueError, match="dim must be at least 1"):
            call(rows, dim=0)


def test_one_temperature_learns_from_all_prefixes():
    loss, rows = losses.NTXentLoss(0.5, learn_temperature=True).double(), [leaf(N), leaf(N)]
    wrapped(loss)(*rows).backward()
    (parameter,) = loss.parameters()
    log = parameter.detach().clone().requires_grad_()
    formula = lambda a, b: losses.nt_xent_loss(a, b, temperature=log.exp())  # noqa: E731
    summed(formula, *rows).backward()
    assert abs(parameter.grad - log.grad).max() < 1e-12


@pytest.mark.parametrize(
    "make",
    [
        losses.CLIPLoss,
        lambda: losses.nt_xent_loss,
        lambda: losses.ArcFaceLoss(C, D),
        lambda: losses.AdaFaceLoss(C, D),
        lambda: losses.SphereFace2Loss(C, D),
        lambda: losses.ProxyAnchorLoss(C, D),
    ],
)
def test_copies_state_and_graphs(make: Callable[[], Any]):
    rows = torch.randn(N, D)
    criterion, fresh = (losses.MatryoshkaLoss(make(), DIMS) for _ in range(2))
    inputs = (rows, LABELS) if hasattr(criterion.loss, "weight") else (rows, rows.flip(0))
    fresh.load_state_dict(criterion.state_dict())
    expected, state = criterion(*inputs), copy.deepcopy(fresh.state_dict())
    criterion.load_state_dict(state)  # as before the call
    for twin in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion)), fresh):
        assert torch.equal(twin(*inputs), expected)
        assert twin.weights == (1.0, 1.0, 1.0)
    criterion.load_state_dict(state)
    torch._dynamo.reset()
    graph = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(graph(*inputs), expected)
    assert "dims=(12, 5, 2), weights=(1.0, 1.0, 1.0)" in repr(criterion)


def test_arrays_and_what_learns():
    a, b = np.random.default_rng(0).normal(size=(2, N, D)).astype(np.float32)
    found = losses.MatryoshkaLoss(losses.nt_xent_loss, DIMS)(a, b)
    expected = losses.MatryoshkaLoss(losses.nt_xent_loss, DIMS)(torch.tensor(a), torch.tensor(b))
    assert not isinstance(found, Tensor)
    assert found == pytest.approx(expected.item(), rel=1e-6)
    learned = torch.tensor(a, requires_grad=True)
    losses.MatryoshkaLoss(losses.nt_xent_loss, DIMS)(learned, b).backward()
    assert learned.grad.any()
    head = losses.ArcFaceLoss(C, D)
    losses.MatryoshkaLoss(head, DIMS)(a, LABELS.numpy()).backward()
    assert head.weight.grad.any()


def test_a_weight_among_the_arguments():
    rows, weight = leaf(N), leaf(C)
    expected = summed(lambda x, w: margin_cross_entropy(x, w, LABELS), rows, weight)
    agree(wrapped(margin_cross_entropy)(rows, weight, LABELS), expected, [rows, weight])


def test_what_is_wrong_is_said():
    make, rows = losses.MatryoshkaLoss, torch.randn(N, D)
    for call, error, message in (
        (lambda: make("clip"), TypeError, "loss must be a module or a function, got str"),
        (lambda: make(losses.CLIPLoss(), ()), ValueError, "dims must be different, one or more of them"),
        (lambda: make(losses.CLIPLoss(), (4, 4)), ValueError, "dims must be different"),
        (lambda: make(losses.CLIPLoss(), (4, 0)), ValueError, "each of dims must be at least 1, got 0"),
        (lambda: make(losses.CLIPLoss(), (4.0,)), TypeError, "each of dims must be an int"),
        (lambda: make(losses.CLIPLoss(), (4, 2), (1.0,)), ValueError, "one for each of the 2 dims, got 1"),
        (lambda: make(losses.CLIPLoss(), (4,), (0.0,)), ValueError, "weights must be positive numbers"),
        (lambda: make(losses.CLIPLoss())(rows, rows), ValueError, "at most D = 12, the size of the embedd"),
        (lambda: make(losses.CLIPLoss(), (4,))(rows, rows[:, :9]), ValueError, r"one size D, got \[9, 12\]"),
        (lambda: make(losses.SupConLoss(), (4,))(LABELS, LABELS), TypeError, "there are none"),
        (lambda: make(losses.ArcFaceLoss(C, 9), (4,))(rows, LABELS), ValueError, "margin_cross_entropy"),
    ):
        with pytest.raises(error, match=message):
            call()
