"""What heads predict, against the matrix of all cosines."""

import pytest
import torch
from torch.nn import functional as F

from cosnorm import losses

HEADS = (
    losses.NormFaceLoss,
    losses.CosFaceLoss,
    losses.ArcFaceLoss,
    losses.AdaFaceLoss,
    losses.MagFaceLoss,
    losses.ElasticFaceLoss,
    losses.CurricularFaceLoss,
    losses.SphereFaceLoss,
    losses.CombinedMarginLoss,
    losses.SphereFace2Loss,
    losses.ProxyAnchorLoss,
    losses.ProxyNCALoss,
    losses.CosineDistanceLoss,
)


def matrix(head, embeddings: torch.Tensor) -> torch.Tensor:
    """Scaled cosines with every sub-center, the nearest of each class."""
    head = getattr(head, "softmax", head)
    unit = (F.normalize(rows.double(), eps=1e-300) for rows in (embeddings, head.weight))
    cosines = next(unit) @ next(unit).T
    return head.scale * cosines.unflatten(1, (head.num_classes, -1)).amax(2)


@pytest.mark.parametrize("make", HEADS)
@pytest.mark.parametrize("chunk_size", [None, 1, 4, 100])
def test_against_the_matrix(make: type, chunk_size: int | None):
    torch.manual_seed(0)
    head, embeddings = make(11, 5), torch.randn(7, 5) * torch.logspace(-30, 30, 7)[:, None]
    expected = matrix(head, embeddings)
    torch.testing.assert_close(head.logits(embeddings).double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(head.predict(embeddings, chunk_size=chunk_size), expected.argmax(1))
    for topk in (1, 3, 11):
        found = head.predict(embeddings, topk=topk, chunk_size=chunk_size)
        assert torch.equal(found, expected.topk(topk).indices)


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_sub_centers(chunk_size: int | None):
    head, embeddings = losses.ArcFaceLoss(6, 5, sub_centers=3), torch.randn(9, 5)
    expected = matrix(head, embeddings)
    torch.testing.assert_close(head.logits(embeddings).double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(head.predict(embeddings, topk=2, chunk_size=chunk_size), expected.topk(2).indices)


def test_without_a_margin_the_logits_are_those_of_the_loss():
    head = losses.NormFaceLoss(6, 5)
    embeddings, labels = torch.randn(9, 5), torch.arange(9) % 6
    torch.testing.assert_close(F.cross_entropy(head.logits(embeddings), labels), head(embeddings, labels))
    head.logits(embeddings).sum().backward()
    assert head.weight.grad is not None
    assert not head.predict(embeddings.requires_grad_()).requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_embeddings_and_a_float32_weight(dtype: torch.dtype):
    head, embeddings = losses.CosFaceLoss(6, 5), torch.randn(9, 5).to(dtype)
    assert head.logits(embeddings).dtype == torch.float32
    assert torch.equal(head.predict(embeddings), matrix(head, embeddings).argmax(1))


def test_an_empty_batch_and_a_zero_embedding():
    head = losses.ArcFaceLoss(6, 5)
    assert head.predict(torch.zeros(0, 5)).shape == (0,)
    assert head.predict(torch.zeros(0, 5), topk=2).shape == (0, 2)
    assert head.logits(torch.zeros(1, 5)).eq(0).all()
    assert 0 <= head.predict(torch.zeros(1, 5)).item() < 6


def test_the_matrix_is_never_made(monkeypatch):
    head, embeddings = losses.NormFaceLoss(100_000, 4), torch.randn(200, 4)
    largest, cosines = [], losses.prediction.class_cosines

    def watched(*arguments):
        found = cosines(*arguments)
        largest.append(found.numel())
        return found

    monkeypatch.setattr(losses.prediction, "class_cosines", watched)
    assert head.predict(embeddings, topk=5).shape == (200, 5)
    assert len(largest) > 1
    assert max(largest) <= 2**22


def test_wrong_arguments():
    head = losses.ArcFaceLoss(6, 5)
    with pytest.raises(ValueError, match=r"ArcFaceLoss.predict: topk must be at most num_classes = 6, got 7"):
        head.predict(torch.randn(2, 5), topk=7)
    with pytest.raises(ValueError, match="topk must be at least 1"):
        head.predict(torch.randn(2, 5), topk=0)
    for call in (head.logits, head.predict):
        with pytest.raises(ValueError, match=r"ArcFaceLoss.*embeddings and weight must have shapes \(N, D\)"):
            call(torch.randn(2, 4))
