"""Supervised contrastive loss of several views, against the original's code written anew in float64."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cosnorm.losses import SupConLoss, sup_con_loss


def original(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Equation 2 over all views, view after view; a loss for each sample and view."""
    samples, views = features.shape[:2]
    rows = F.normalize(torch.cat(features.double().unbind(1)), dim=1)
    logits = rows @ rows.T / temperature
    every = ~torch.eye(samples * views, dtype=torch.bool)
    positive = (labels[:, None] == labels[None, :]).repeat(views, views) & every
    logs = logits - logits.masked_fill(~every, -torch.inf).logsumexp(1, keepdim=True)
    losses = -(logs * positive).sum(1) / positive.sum(1)
    return losses.reshape(views, samples).T


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("labelled", [False, True])
def test_views_of_each_sample(views: int, labelled: bool):
    features = torch.randn(6, views, 5, requires_grad=True)
    labels = torch.tensor([0, 1, 0, 2, 2, 0]) if labelled else None
    expected = original(features, torch.arange(6) if labels is None else labels, 0.3)
    each = sup_con_loss(features, labels, temperature=0.3, reduction="none")
    torch.testing.assert_close(each.double(), expected, rtol=1e-5, atol=1e-5)
    loss = SupConLoss(0.3)(features, labels)
    torch.testing.assert_close(loss.double(), expected.mean(), rtol=1e-5, atol=1e-5)
    (found,) = torch.autograd.grad(loss, features)
    (gradient,) = torch.autograd.grad(expected.mean(), features)
    torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.compile(SupConLoss(0.3), backend="aot_eager")(features, labels), loss)


def test_numpy_views_give_numpy():
    features = np.random.default_rng(0).standard_normal((4, 2, 3), dtype=np.float32)
    found = sup_con_loss(features, np.array([0, 1, 0, 1]))
    assert not isinstance(found, Tensor)
    assert found == pytest.approx(sup_con_loss(torch.tensor(features), torch.tensor([0, 1, 0, 1])).item())


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"labels must be given, but for embeddings \(N, V, D\)"):
        sup_con_loss(torch.randn(4, 3))
    with pytest.raises(ValueError, match=r"labels must have shape \(4,\), one for each sample, got \(8,\)"):
        sup_con_loss(torch.randn(4, 2, 3), torch.arange(8))
