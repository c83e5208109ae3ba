"""The losses against other libraries and plain formulas: pytorch-metric-learning, torch, NumPy.

pytorch-metric-learning's SupCon averages over the
embeddings that have a positive, as ours does; its weights are transposed; its ArcFace takes degrees.
"""

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cosnorm import losses

ORACLE = Path(__file__).with_name("optax_oracle")

metric_learning = pytest.importorskip("pytorch_metric_learning.losses", reason="a dev dependency")
NUMBER, SIZE, CLASSES = 24, 10, 7
BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-10}
each_dtype = pytest.mark.parametrize("dtype", BOUNDS, ids=str)


def rows(dtype: torch.dtype, count: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(NUMBER, SIZE, generator=generator, dtype=torch.float64) for _ in range(count)]
    return [one.to(dtype).requires_grad_() for one in made]


def check(found: Tensor, expected: Tensor, inputs: list[Tensor], dtype: torch.dtype) -> None:
    assert abs(found - expected) < BOUNDS[dtype] * (1 + abs(expected))
    for one, other in zip(
        torch.autograd.grad(found, inputs),
        torch.autograd.grad(expected, inputs, retain_graph=True),
        strict=True,
    ):
        assert (one - other).abs().max() < BOUNDS[dtype] * other.abs().max()


@each_dtype
@pytest.mark.parametrize("temperature", [1.0, 0.07])
def test_nt_xent(dtype: torch.dtype, temperature: float):
    one, two = rows(dtype)
    found = losses.NTXentLoss(temperature)(one, two)
    theirs = metric_learning.NTXentLoss(temperature=temperature)
    check(found, theirs(torch.cat([one, two]), torch.arange(NUMBER).repeat(2)), [one, two], dtype)


@each_dtype
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_sup_con(dtype: torch.dtype, temperature: float):
    (embeddings,) = rows(dtype, 1)
    labels = torch.arange(NUMBER) % CLASSES
    labels[0] = 99  # alone with its label
    theirs = metric_learning.SupConLoss(temperature=temperature)
    check(losses.SupConLoss(temperature)(embeddings, labels), theirs(embeddings, labels), [embeddings], dtype)


@each_dtype
@pytest.mark.parametrize("name", ["CosFaceLoss", "ArcFaceLoss", "NormFaceLoss"])
def test_heads(dtype: torch.dtype, name: str):
    (embeddings,) = rows(dtype, 1)
    labels = torch.arange(NUMBER) % CLASSES
    if name == "NormFaceLoss":
        head = losses.NormFaceLoss(CLASSES, SIZE, scale=20.0, dtype=dtype)
        theirs = metric_learning.NormalizedSoftmaxLoss(CLASSES, SIZE, temperature=1 / 20)
    else:
        head = getattr(losses, name)(CLASSES, SIZE, margin=0.4, scale=20.0, dtype=dtype)
        margin = math.degrees(0.4) if name == "ArcFaceLoss" else 0.4
        theirs = getattr(metric_learning, name)(CLASSES, SIZE, margin=margin, scale=20)
    theirs.W = torch.nn.Parameter(head.weight.detach().t().clone())
    found, expected = head(embeddings, labels), theirs(embeddings, labels)
    assert abs(found - expected) < BOUNDS[dtype] * (1 + abs(expected))
    mine = torch.autograd.grad(found, [embeddings, head.weight])
    other = torch.autograd.grad(expected, [embeddings, theirs.W])
    for a, b in zip(mine, [other[0], other[1].t()], strict=True):
        known = b.isfinite()  # its ArcFace gives some embeddings NaN in float64; ours is finite there
        assert known.any(1).sum() > len(known) // 2
        assert a.isfinite().all()
        assert (a - b)[known].abs().max() < BOUNDS[dtype] * b[known].abs().max()


def beside(
    ours: torch.nn.Module, theirs: torch.nn.Module, proxies: str, embeddings: Tensor, dtype: torch.dtype
) -> None:
    """The same loss and gradients, in embeddings and class weights."""
    turned = proxies == "W"
    torch.manual_seed(5)  # of seed 0 embeddings are class weights, and theirs are NaN at an angle of 0
    ours.reset_parameters()
    weight = ours.weight.detach().clone()
    setattr(theirs, proxies, torch.nn.Parameter(weight.t().contiguous() if turned else weight))
    labels = torch.arange(NUMBER) % CLASSES
    found, expected = ours(embeddings, labels), theirs(embeddings, labels)
    assert abs(found - expected) < BOUNDS[dtype] * (1 + abs(expected))
    mine = torch.autograd.grad(found, [embeddings, ours.weight])
    other = list(torch.autograd.grad(expected, [embeddings, getattr(theirs, proxies)]))
    other[1] = other[1].t() if turned else other[1]
    for a, b in zip(mine, other, strict=True):
        assert (a - b).abs().max() < BOUNDS[dtype] * b.abs().max()


@each_dtype
@pytest.mark.parametrize("alpha", [4.0, 32.0])
def test_proxy_anchor(dtype: torch.dtype, alpha: float):
    (embeddings,) = rows(dtype, 1)
    ours = losses.ProxyAnchorLoss(CLASSES + 2, SIZE, margin=0.1, scale=alpha, dtype=dtype)
    theirs = metric_learning.ProxyAnchorLoss(CLASSES + 2, SIZE, margin=0.1, alpha=alpha)
    beside(ours, theirs, "proxies", embeddings, dtype)


@each_dtype
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_proxy_nca(dtype: torch.dtype, temperature: float):
    (embeddings,) = rows(dtype, 1)
    ours = losses.ProxyNCALoss(CLASSES, SIZE, temperature=temperature, dtype=dtype)
    theirs = metric_learning.ProxyNCALoss(CLASSES, SIZE, softmax_scale=1 / temperature)
    beside(ours, theirs, "proxies", embeddings, dtype)


@each_dtype
def test_arcface_with_sub_centers(dtype: torch.dtype):
    (embeddings,) = rows(dtype, 1)
    ours = losses.ArcFaceLoss(CLASSES, SIZE, margin=0.4, scale=20.0, sub_centers=3, dtype=dtype)
    theirs = metric_learning.SubCenterArcFaceLoss(
        num_classes=CLASSES, embedding_size=SIZE, margin=math.degrees(0.4), scale=20, sub_centers=3
    )
    beside(ours, theirs, "W", embeddings, dtype)


@each_dtype
@pytest.mark.parametrize("margin", [1, 2, 3])
def test_sphereface(dtype: torch.dtype, margin: int):
    """Theirs multiplies by the norms of embeddings, which are ours here; that part of its gradient is not."""
    (embeddings,) = rows(dtype, 1)
    unit = F.normalize(embeddings.detach(), dim=1).requires_grad_()
    ours = losses.SphereFaceLoss(CLASSES, SIZE, margin=margin, scale=4.0, dtype=dtype)
    theirs = metric_learning.SphereFaceLoss(CLASSES, SIZE, margin=margin, scale=4)
    theirs.W = torch.nn.Parameter(ours.weight.detach().t().contiguous())
    labels = torch.arange(NUMBER) % CLASSES
    found, expected = ours(unit, labels), theirs(unit, labels)
    assert abs(found - expected) < BOUNDS[dtype] * (1 + abs(expected))
    mine, other = (torch.autograd.grad(one, unit)[0] for one in (found, expected))
    other = other - unit.detach() * (other * unit.detach()).sum(1, keepdim=True)
    assert (mine - other).abs().max() < BOUNDS[dtype] * other.abs().max()


@each_dtype
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("margin", [0.0, 0.3, -0.2])
def test_cosine_embedding(dtype: torch.dtype, margin: float, reduction: str):
    pair = rows(dtype)
    together = torch.arange(NUMBER) % 2 * 2 - 1
    found = losses.CosineEmbeddingLoss(margin, reduction=reduction)(*pair, together)
    expected = F.cosine_embedding_loss(*pair, together, margin=margin, reduction=reduction)
    check(found, expected, pair, dtype)


def test_shortfall_from_a_target_similarity():
    pair = rows(torch.float64)
    found = losses.cosine_embedding_loss(*pair, target=0.2)
    check(found, (0.2 - F.cosine_similarity(*pair)).clamp(min=0).mean(), pair, torch.float64)


@each_dtype
def test_clip(dtype: torch.dtype):
    pair = rows(dtype)
    criterion = losses.CLIPLoss().to(dtype)
    logits = criterion.logit_scale.exp() * F.normalize(pair[0], dim=1) @ F.normalize(pair[1], dim=1).T
    own = torch.arange(NUMBER)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    check(criterion(*pair), expected, [*pair, criterion.logit_scale], dtype)


@each_dtype
def test_siglip(dtype: torch.dtype):
    pair = rows(dtype)
    criterion = losses.SigLIPLoss().to(dtype)
    logits = criterion.logit_scale.exp() * F.normalize(pair[0], dim=1) @ F.normalize(pair[1], dim=1).T
    signs = 2 * torch.eye(NUMBER, dtype=dtype) - 1
    expected = -F.logsigmoid(signs * (logits + criterion.logit_bias)).sum() / NUMBER
    check(criterion(*pair), expected, [*pair, criterion.logit_scale, criterion.logit_bias], dtype)


@each_dtype
def test_info_nce_with_all_negatives_and_with_some(dtype: torch.dtype):
    queries, keys = rows(dtype)
    logits = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / 0.1
    own = torch.arange(NUMBER)
    check(losses.InfoNCELoss()(queries, keys), F.cross_entropy(logits, own), [queries, keys], dtype)
    drawn = losses.sample_negatives(NUMBER, 5, generator=torch.Generator().manual_seed(0))
    chosen = logits.gather(1, torch.cat([own.unsqueeze(1), drawn], 1))
    expected = F.cross_entropy(chosen, torch.zeros(NUMBER, dtype=torch.long))
    for negatives in (drawn, keys[drawn]):
        check(losses.info_nce_loss(queries, keys, negatives), expected, [queries, keys], dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_nt_xent_of_optax(dtype: torch.dtype):
    """Values and gradients that optax gave; optax_oracle/make_golden.py wrote them."""
    golden = np.load(ORACLE / "ntxent.npz")
    script = hashlib.sha256((ORACLE / "make_golden.py").read_bytes()).hexdigest()
    assert str(golden["script"]) == script, "the script was changed: run it again"
    bound = 1e-5 if dtype == torch.float32 else 1e-10
    for number, temperature in enumerate(golden["temperatures"]):
        rows = torch.tensor(golden[f"embeddings{number}"], dtype=dtype, requires_grad=True)
        loss = losses.nt_xent_loss(*rows.chunk(2), temperature=float(temperature))
        loss.backward()
        expected = torch.from_numpy(golden[f"gradient{number}"])
        assert abs(float(loss.detach()) / float(golden[f"loss{number}"]) - 1) <= bound
        assert (rows.grad - expected).abs().max() <= bound * expected.abs().max()


def test_nt_xent_by_hand_in_numpy():
    views = np.random.default_rng(0).normal(size=(2, 5, 3))
    z = views.reshape(10, 3)
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    total = 0.0
    for i in range(10):
        others = [np.exp(z[i] @ z[j] / 0.5) for j in range(10) if j != i]
        total += -np.log(np.exp(z[i] @ z[(i + 5) % 10] / 0.5) / sum(others))
    found = losses.nt_xent_loss(views[0], views[1], temperature=0.5)
    assert isinstance(found, np.float64)
    assert found == pytest.approx(total / 10, rel=1e-12)


@each_dtype
def test_center_and_island_loss_by_the_double_sum(dtype: torch.dtype):
    (embeddings,) = rows(dtype, 1)
    labels = torch.arange(NUMBER) % CLASSES
    criterion = losses.IslandLoss(CLASSES, SIZE, island_weight=3.0, dtype=dtype)
    centers = criterion.centers
    center = ((embeddings - centers[labels]) ** 2).sum(1).mean() / 2
    cosines = F.normalize(centers, dim=1) @ F.normalize(centers, dim=1).T
    pairs = sum(cosines[j, k] + 1 for j in range(CLASSES) for k in range(CLASSES) if j != k)
    check(losses.center_loss(embeddings, labels, centers), center, [embeddings, centers], dtype)
    check(criterion(embeddings, labels), center + 3 * pairs, [embeddings, centers], dtype)


def test_cosine_distance_loss_is_am_softmax_and_island_loss():
    (embeddings,) = rows(torch.float64, 1)
    labels = torch.arange(NUMBER) % CLASSES
    criterion = losses.CosineDistanceLoss(CLASSES, SIZE, center_weight=0.25, dtype=torch.float64)
    expected = criterion.softmax(embeddings, labels) + 0.25 * criterion.island(embeddings, labels)
    assert criterion(embeddings, labels) == expected
    assert isinstance(criterion.softmax, losses.AMSoftmaxLoss)
    assert losses.AMSoftmaxLoss is losses.CosFaceLoss
