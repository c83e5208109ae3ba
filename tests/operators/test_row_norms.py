"""Norms of rows and statistics over a batch: exact at every scale, right gradients, one operator each."""

import mpmath
import pytest
import torch

from cosnorm.operators.row_norms import row_norms
from cosnorm.operators.statistics import statistics_of

SCALES = {
    torch.float16: (1e-7, 1e-3, 1.0, 2e4),
    torch.bfloat16: (1e-38, 1.0, 1e38),
    torch.float32: (1e-44, 1e-38, 1.0, 1e38),
    torch.float64: (1e-320, 1e-300, 1.0, 1e300),
}


@pytest.mark.parametrize("dtype", SCALES, ids=str)
def test_norms_of_every_length(dtype: torch.dtype):
    for scale in SCALES[dtype]:
        x = (torch.tensor([[3.0, -1.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64) * scale).to(dtype)
        norms = row_norms(x)
        exact = mpmath.sqrt(mpmath.fsum(mpmath.mpf(one) ** 2 for one in x[0].tolist()))
        assert norms.dtype == torch.float64
        assert norms[0].item() == pytest.approx(float(exact), rel=1e-15, abs=0)
        assert norms[1] == 0


@pytest.mark.parametrize("dtype", SCALES, ids=str)
def test_gradients_of_every_length(dtype: torch.dtype):
    for scale in SCALES[dtype]:
        x = (torch.tensor([[3.0, -1.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64) * scale).to(dtype)
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(row_norms(x), x, torch.tensor([2.0, 5.0], dtype=torch.float64))
        values = [mpmath.mpf(one) for one in x[0].tolist()]
        norm = mpmath.sqrt(mpmath.fsum(one**2 for one in values))
        expected = torch.tensor([float(2 * one / norm) for one in values], dtype=torch.float64)
        assert (gradient[0] - expected).abs().max() <= 2 * torch.finfo(dtype).eps
        assert not gradient[1].any()


def test_second_derivatives_and_compilation():
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(row_norms, x)
    assert torch.autograd.gradgradcheck(row_norms, x)
    graph = torch.compile(row_norms, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(graph(x), x.norm(dim=1))
    found = torch.vmap(torch.func.grad(lambda row: row_norms(row[None]).sum()))(x.detach())
    torch.testing.assert_close(found, (x / x.norm(dim=1, keepdim=True)).detach())


def test_statistics():
    values = torch.tensor([1.0, 4.0, torch.nan, 2.5, 99.0], dtype=torch.float64)
    counted = torch.tensor([True, True, True, True, False])
    number, mean, deviation = statistics_of(values, counted, "")
    kept = values[[0, 1, 3]]
    assert number == 3
    torch.testing.assert_close(mean, kept.mean())
    torch.testing.assert_close(deviation, kept.std())
    for none in (counted & False, torch.tensor([True, False, False, False, False])):
        assert statistics_of(values, none, "")[2] == 0
    graph = torch.compile(lambda v, c: statistics_of(v, c, ""), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(graph(values, counted), (number, mean, deviation))
