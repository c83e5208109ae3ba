"""What embeddings look like, against dense formulas in float64."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cosnorm import diagnostics
from cosnorm.functional import pairwise_cosine


def rows(number: int = 40, size: int = 6, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    scales = torch.logspace(-3, 3, number, dtype=torch.float64).unsqueeze(1)
    return (torch.randn(number, size, dtype=torch.float64) * scales).to(dtype)


def unit(values: torch.Tensor) -> torch.Tensor:
    return values.double() / values.double().norm(dim=1, keepdim=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("t", [0.5, 2.0, 30.0])
def test_alignment_and_uniformity_are_their_formulas(t: float, dtype: torch.dtype):
    x, y = rows(dtype=dtype).requires_grad_(), rows(dtype=dtype)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-5}[dtype]
    exact = x.detach().double().requires_grad_()
    expected = (unit(exact) - unit(y)).square().sum(1).mean()
    found = diagnostics.alignment(x, y)
    assert found.item() == pytest.approx(expected.item(), abs=tolerance)
    distances = (unit(exact).unsqueeze(1) - unit(exact)).square().sum(2)
    apart = ~torch.eye(40, dtype=torch.bool)
    expected = torch.exp(-t * distances)[apart].mean().log()
    for found in (diagnostics.uniformity(x, t), diagnostics.uniformity(x, t, sample=39)):
        assert found.item() == pytest.approx(expected.item(), abs=10 * tolerance)
        if dtype != torch.bfloat16:
            (own,) = torch.autograd.grad(found, x)
            (other,) = torch.autograd.grad(expected, exact, retain_graph=True)
            norms = exact.detach().norm(dim=1, keepdim=True)
            torch.testing.assert_close(own.double() * norms, other * norms, rtol=1e-3, atol=10 * tolerance)


def test_a_sample_stands_for_all():
    x = rows(200)
    whole = diagnostics.uniformity(x).item()
    some = [
        diagnostics.uniformity(x, sample=8, generator=torch.Generator().manual_seed(seed)).exp().item()
        for seed in range(200)
    ]
    mean = sum(some) / len(some)
    error = math.sqrt(sum((one - mean) ** 2 for one in some)) / len(some)
    assert abs(mean - math.exp(whole)) < 4 * error
    assert min(some) != max(some)


def test_rows_at_one_place_and_zero_rows():
    x = torch.tensor([[3.0, 4.0]]).repeat(5, 1) * torch.tensor([1e-30, 1.0, 1e30, 2.0, 3.0]).unsqueeze(1)
    assert diagnostics.uniformity(x).item() == pytest.approx(0, abs=1e-6)
    assert diagnostics.alignment(x, x).item() == pytest.approx(0, abs=1e-6)
    zeros = torch.zeros(5, 2)
    assert diagnostics.alignment(zeros, x).item() == 2
    assert diagnostics.uniformity(zeros).item() == pytest.approx(-4, abs=1e-6)


@pytest.mark.parametrize("scale", [1e-40, 1.0, 1e38])
def test_effective_rank(scale: float):
    generator = torch.Generator().manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(30, 4, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(7, 4, generator=generator, dtype=torch.float64))
    sizes = torch.tensor([4.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    shares = [0.5, 0.25, 0.125, 0.125]
    expected = math.exp(-sum(one * math.log(one) for one in shares))
    x = ((left * sizes) @ right.T * scale).float()
    assert diagnostics.effective_rank(x).item() == pytest.approx(
        expected, rel=1e-3 if scale < 1e-30 else 1e-5
    )
    assert diagnostics.effective_rank(torch.ones(5, 3)).item() == pytest.approx(1)
    assert diagnostics.effective_rank(torch.zeros(5, 3)).item() == 0
    assert diagnostics.effective_rank(torch.full((5, 3), torch.nan)).isnan()


def test_norms():
    x = torch.tensor([[3e200, 4e200], [0, 0], [3e-200, 4e-200]], dtype=torch.float64)
    found = diagnostics.embedding_norms(x)
    assert found["max"].item() == pytest.approx(5e200)
    assert found["min"].item() == 0
    assert found["mean"].item() == pytest.approx(5e200 / 3)
    assert found["std"].item() == pytest.approx(5e200 * math.sqrt(2) / 3)


def test_saturation_of_all_pairs_is_the_softmax():
    x, y = rows(), rows()
    y = y + x
    for temperature in (0.03, torch.tensor([0.3])):
        softmax = (pairwise_cosine(x, y) / float(temperature)).softmax(1).diagonal()
        found = diagnostics.saturation(x, y, temperature, sample=1000)
        assert found["probability"].item() == pytest.approx(softmax.mean().item())
        assert found["saturated"].item() == pytest.approx((softmax >= 0.99).double().mean().item())
    few = [diagnostics.saturation(x, y, 0.3, sample=5)["probability"].item() for _ in range(50)]
    assert sum(few) / 50 == pytest.approx(softmax.mean().item(), abs=0.05)


def test_false_negatives_of_all_pairs():
    x, labels = rows(), torch.arange(40) % 5
    cosines = pairwise_cosine(x)
    apart = ~torch.eye(40, dtype=torch.bool)
    same = (labels.unsqueeze(1) == labels) & apart
    found = diagnostics.false_negative_share(x, above=0.4, labels=labels, sample=1000)
    assert found["filtered"].item() == pytest.approx((cosines > 0.4)[apart].double().mean().item())
    assert found["same_label"].item() == pytest.approx(same[apart].double().mean().item())
    assert found["caught"].item() == pytest.approx((cosines > 0.4)[same].double().mean().item())


def test_nothing_of_n_by_n_is_made():
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for one in result if isinstance(result, (tuple, list)) else [result]:
                self.numel = max(self.numel, one.numel() if isinstance(one, torch.Tensor) else 0)
            return result

    x = torch.randn(2000, 8)
    with Largest() as seen:
        diagnostics.diagnose(x, x.flip(0), temperature=0.1, above=0.5, labels=torch.arange(2000))
    assert seen.numel <= 16 * 2000


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: diagnostics.alignment(x, x[:2]), ValueError, r"one shape \(N, D\)"),
        (lambda x: diagnostics.uniformity(x[:1]), ValueError, "N ≥ 2"),
        (lambda x: diagnostics.uniformity(x, 0), ValueError, "t must be a positive number"),
        (lambda x: diagnostics.uniformity(x, 1e-7), ValueError, "uniformity: t .* between 1e-6 and 1e4"),
        (lambda x: diagnostics.uniformity(x, sample=0), ValueError, "sample must be at least 1"),
        (lambda x: diagnostics.effective_rank(x[0]), ValueError, r"got \(3,\)"),
        (lambda x: diagnostics.embedding_norms(x.long()), TypeError, "int64"),
        (lambda x: diagnostics.saturation(x, x, 0.0), ValueError, "temperature must be positive"),
        (lambda x: diagnostics.false_negative_share(x, above=None), TypeError, "above must be a number"),
        (lambda x: diagnostics.false_negative_share(x, above=math.nan), ValueError, "above .* got NaN"),
        (lambda x: diagnostics.diagnose(x, temperature=0.1), ValueError, "nothing without positives"),
        (lambda x: diagnostics.diagnose(x, labels=torch.arange(4)), ValueError, "nothing without above"),
        (lambda x: diagnostics.diagnose([1]), TypeError, "torch.Tensor, got list"),
    ],
)
def test_errors(call, error, words: str):
    with pytest.raises(error, match=words):
        call(torch.randn(4, 3))
