"""`pairwise_sigmoid_loss` against the dense float64 formula."""

import pytest
import torch
from allocations import Allocations
from test_contrastive import BOUNDS, compare
from torch import Tensor
from torch.nn import functional as F

from cosnorm.functional import pairwise_sigmoid_loss

NUMBER, SIZE = 23, 7


def dense(queries: Tensor, keys: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    rows, columns = (F.normalize(one.double(), dim=1, eps=0) for one in (queries, keys))
    logits = scale.double() * rows @ columns.T + bias.double()
    return -F.logsigmoid((2 * torch.eye(len(rows)) - 1) * logits).sum(1)


def batch(dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(NUMBER, SIZE, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]
    numbers = [torch.tensor(one, dtype=dtype) for one in (12.0, -6.0)]
    return [one.requires_grad_() for one in [*rows, *numbers]]


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("chunk_size", [None, 5])
def test_values_and_all_gradients(dtype: torch.dtype, chunk_size: int | None):
    inputs = batch(dtype)
    losses = dense(*inputs)
    for reduction, expected in (("mean", losses.mean()), ("sum", losses.sum()), ("none", losses)):
        found = pairwise_sigmoid_loss(
            *inputs[:2], scale=inputs[2], bias=inputs[3], reduction=reduction, chunk_size=chunk_size
        )
        compare(found, expected, inputs, BOUNDS[dtype])


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_zero_and_every_length(reduction: str):
    queries, keys, scale, bias = batch(torch.float32)
    with torch.no_grad():
        queries *= torch.logspace(-30, 30, NUMBER).unsqueeze(1)
        queries[4] = 0
    loss = pairwise_sigmoid_loss(queries, keys, scale=scale, bias=bias, reduction=reduction).sum()
    found = torch.autograd.grad(loss, (queries, keys))
    exact = [one.detach().double().requires_grad_() for one in (queries, keys)]
    with torch.no_grad():
        exact[0][4] = 1e-300  # any cosine: its own row is left out below
        exact[0][4, 0] = 0
    assert all(one.isfinite().all() for one in found)
    assert not found[0][4].any()
    rows = torch.arange(NUMBER) != 4
    right = torch.autograd.grad(dense(*exact, scale.detach(), bias.detach()).sum(), exact[0])[0][rows]
    factor = NUMBER if reduction == "mean" else 1
    error = (found[0][rows] * factor - right).abs().amax(1) / right.abs().amax(1)
    assert error.max() < 1e-4


def test_an_empty_batch():
    rows = torch.empty(0, 3, requires_grad=True)
    loss = pairwise_sigmoid_loss(rows, rows)
    loss.backward()
    assert loss == 0


def test_temporaries_fall_with_the_chunk_size_and_none_is_square():
    rows = [torch.randn(400, 4, requires_grad=True) for _ in range(2)]
    sizes = []
    for chunk_size in (16, 64):
        with Allocations() as made:
            pairwise_sigmoid_loss(*rows, chunk_size=chunk_size).backward()
        sizes.append(made.largest)
    assert sizes[0] < sizes[1] < 4 * 400 * 400


def test_first_derivatives_only():
    *rows, scale, bias = batch(torch.float64)
    queries, keys = (one.detach()[:5, :3].requires_grad_() for one in rows)
    for reduction in ("mean", "none"):

        def loss(*inputs: Tensor, reduction=reduction) -> Tensor:
            return pairwise_sigmoid_loss(*inputs[:2], scale=inputs[2], bias=inputs[3], reduction=reduction)

        assert torch.autograd.gradcheck(loss, (queries, keys, scale, bias))
        first = torch.autograd.grad(loss(queries, keys, scale, bias).sum(), queries, create_graph=True)[0]
        with pytest.raises(RuntimeError, match="cannot be differentiated again"):
            torch.autograd.grad(first.sum(), queries)
