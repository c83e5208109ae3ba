"""The loss modules pass the law of positives on; sentence-transformers' and others' formulas as oracles."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cosnorm import losses
from cosnorm.functional import contrastive_cross_entropy, pairwise_sigmoid_loss

N, D, K = 9, 5, 2
SCALE = 20.0


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, D, dtype=torch.float64, requires_grad=True)


def unit(one: Tensor) -> Tensor:
    return F.normalize(one, dim=-1)


def agree(found: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    assert abs(found - expected) < 1e-12
    both = (torch.autograd.grad(loss, inputs, retain_graph=True) for loss in (found, expected))
    for one, other in zip(*both, strict=True):
        assert (one - other).abs().max() < 1e-12


def ranking(a: Tensor, b: Tensor, directions: set[str], *, joint: bool, hardness: float = 0.0) -> Tensor:
    """sentence-transformers' MultipleNegativesRankingLoss of pairs, from what its documentation says."""
    a, b = unit(a), unit(b)
    eye = torch.eye(len(a), dtype=torch.bool)
    cosines = {
        "query_to_doc": a @ b.T,
        "query_to_query": (a @ a.T).masked_fill(eye, -torch.inf),
        "doc_to_query": (a @ b.T).T,
        "doc_to_doc": (b @ b.T).masked_fill(eye, -torch.inf),
    }
    logits = {name: cosines[name] * SCALE for name in directions}
    if hardness:
        penalty = hardness * cosines["query_to_doc"].detach().masked_fill(eye, 0)
        logits["query_to_doc"] = logits["query_to_doc"] + penalty
    sums = torch.stack([one.logsumexp(1) for one in logits.values()])
    return (
        (sums.logsumexp(0) if joint else sums.mean(0)) - SCALE * cosines["query_to_doc"].diagonal()
    ).mean()


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("more", [(), ("doc_to_query",), ("query_to_query", "doc_to_query", "doc_to_doc")])
def test_multiple_negatives_ranking(more: tuple[str, ...], joint: bool):
    inputs, theirs = [rows(N), rows(N)], {"query_to_doc", *more}
    ours = [one.replace("doc", "key") for one in theirs]
    found = losses.clip_loss(*inputs, directions=ours, joint=joint, temperature=1 / SCALE)
    agree(found, ranking(*inputs, theirs, joint=joint), inputs)


def test_its_hardness():
    inputs = [rows(N), rows(N)]
    found = losses.InfoNCELoss(1 / SCALE, hardness=9.0)(*inputs)
    agree(found, ranking(*inputs, {"query_to_doc"}, joint=True, hardness=9.0), inputs)


@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_guided_in_sample_selection(margin: float):
    """GISTEmbed: what the guide finds closer than the positive leaves, in all of the four directions."""
    inputs, guide = [rows(N), rows(N)], [torch.randn(N, 3, dtype=torch.float64) for _ in range(2)]
    a, b, ga, gb = map(unit, (*inputs, *guide))
    own, eye = (ga * gb).sum(1, keepdim=True), torch.eye(N, dtype=torch.bool)
    parts = []
    for (x, gx), (y, gy), within in (
        ((a, ga), (b, gb), False),
        ((a, ga), (a, ga), True),
        ((b, gb), (b, gb), True),
    ):
        out = (gx @ gy.T > own - margin) & (~eye | within)
        parts.append((x @ y.T * SCALE).masked_fill(out | (eye & within), -torch.inf))
    # Its fourth direction, of documents to queries, is not among its logits.
    expected = F.cross_entropy(torch.cat(parts, 1), torch.arange(N))
    found = contrastive_cross_entropy(
        *inputs,
        guide=tuple(guide),
        false_negative_margin=-margin,
        directions=("query_to_key", "query_to_query", "key_to_key"),
        joint=True,
        temperature=1 / SCALE,
    )
    agree(found, expected, inputs)


def test_several_captions_of_an_image():
    """As open_clip is asked for: each caption finds its image, an image finds the mean of its captions."""
    images, texts = rows(N), rows(3 * N)
    image_of = torch.arange(N).repeat_interleave(3)
    pairs = torch.stack([image_of, torch.arange(3 * N)], 1)[torch.randperm(3 * N)]
    logits = unit(images) @ unit(texts).T / 0.07
    target = F.one_hot(image_of, N).T.double() / 3
    forth = (logits.logsumexp(1) - (target * logits).sum(1)).mean()
    expected = (forth + F.cross_entropy(logits.T, image_of)) / 2
    for found in (
        losses.CLIPLoss()(images, texts, pairs),
        losses.clip_loss(images, texts, labels=(torch.arange(N), image_of)),
        losses.clip_loss(images, texts, target.to_sparse_csr()),
    ):
        assert abs(found - expected) < 1e-6
    agree(losses.clip_loss(images, texts, pairs), expected, [images, texts])


def test_soft_targets():
    images, texts = rows(N), rows(N)
    target = torch.rand(N, N, dtype=torch.float64)
    target = target * (target > 0.6)
    target.fill_diagonal_(1)
    logits = unit(images) @ unit(texts).T / 0.07
    both = [
        F.cross_entropy(z, t / t.sum(1, keepdim=True)) for z, t in ((logits, target), (logits.T, target.T))
    ]
    agree(losses.clip_loss(images, texts, target.to_sparse_csr()), sum(both) / 2, [images, texts])
    z = 10 * (logits * 0.07) - 5
    expected = F.binary_cross_entropy_with_logits(z, target, reduction="sum") / N
    found = pairwise_sigmoid_loss(images, texts, target.to_sparse_csr(), scale=10.0, bias=-5.0)
    agree(found, expected, [images, texts])


def test_the_views_share_groups_and_a_guide():
    a, b, groups = rows(N), rows(N), torch.arange(N) // 2
    guide = torch.randn(2, N, 3, dtype=torch.float64)
    found = losses.NTXentLoss(0.2, false_negative_margin=0.1)(a, b, groups=groups, guide=tuple(guide))
    both, other = unit(torch.cat([a, b])), unit(guide.flatten(0, 1))
    pair = torch.arange(2 * N).roll(N)
    similar = other @ other.T
    out = similar > similar[torch.arange(2 * N), pair].unsqueeze(1) + 0.1
    out |= groups.repeat(2).unsqueeze(1) == groups.repeat(2)
    out[torch.arange(2 * N), pair] = False
    out.fill_diagonal_(True)
    agree(found, F.cross_entropy((both @ both.T / 0.2).masked_fill(out, -torch.inf), pair), [a, b])


def test_options_that_a_loss_cannot_hold():
    for make in (
        losses.NTXentLoss,
        losses.InfoNCELoss,
        losses.SupConLoss,
        losses.CLIPLoss,
        losses.SigLIPLoss,
    ):
        with pytest.raises(TypeError, match=f"{make.__name__}: groups is no option; there are directions"):
            make(groups=torch.arange(3))
    with pytest.raises(ValueError, match="negatives replace extra_keys, group, hardness"):
        losses.InfoNCELoss(hardness=1.0)(rows(3), rows(3), torch.tensor([[1], [2], [0]]))
    with pytest.raises(ValueError, match="ignore_index cannot be given with groups"):
        losses.SupConLoss(ignore_index=-1)(rows(4), torch.arange(4) // 2, groups=torch.arange(4))
