"""The kernels of blocked softmaxes against their plain formula, in Triton's interpreter."""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from cosnorm.backends.pairs import Exclusion, direction
from cosnorm.backends.triton import softmax

CASES = {
    "all": {},
    "self": {"offset": 2},
    "partner": {"partner": torch.tensor([3, 2, 1, 0, -1, *range(5, 37)])},
    "labels": {"labels": (torch.arange(37) % 5, torch.arange(41) % 7)},
    "mask": {"mask": torch.rand(41, 37).lt(0.3).mT},
    "everything": {
        "offset": 0,
        "labels": (torch.arange(37) % 5, torch.arange(41) % 7),
        "mask": torch.rand(37, 41).lt(0.3),
    },
}
N, M, D = 37, 41, 19


def _excluded(exclusion: Exclusion) -> torch.Tensor:
    i, j = torch.arange(N).unsqueeze(1), torch.arange(M)
    out = torch.zeros(N, M, dtype=torch.bool)
    if exclusion.offset is not None:
        out |= i + exclusion.offset == j
    if exclusion.partner is not None:
        out |= exclusion.partner.unsqueeze(1) == j
    if exclusion.labels is not None:
        out |= exclusion.labels[0].unsqueeze(1) == exclusion.labels[1]
    return out if exclusion.mask is None else out | exclusion.mask


def log_sums(x: torch.Tensor, y: torch.Tensor, scale: float, exclusion: Exclusion) -> torch.Tensor:
    return softmax.log_sums(x, y, scale, exclusion)[0]


def gradients(x, y, scale, exclusion, *weights_and_sums, into_y=True, chunk=None):
    """The gradients, in memory that is made for them."""
    into_x = torch.zeros(x.shape)
    other = torch.zeros(y.shape) if into_y else None
    along = (
        direction(*weights_and_sums[:2]),
        direction(*weights_and_sums[2:]) if weights_and_sums[2:] else None,
    )
    softmax.gradients(x, y, scale, exclusion, *along, into_x, other, tile=chunk)
    return into_x, other


def _inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = (torch.nn.functional.normalize(torch.randn(n, D), dim=1) for n in (N, M))
    return x.to(dtype), y.to(dtype)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", [7.0, 200.0])
def test_log_sums_and_gradients(case: str, scale: float):
    exclusion = Exclusion(**CASES[case])
    x, y = _inputs()
    x[4] = 0
    logits = (scale * x.double() @ y.double().T).masked_fill(_excluded(exclusion), -torch.inf)
    sums = log_sums(x, y, scale, exclusion)
    torch.testing.assert_close(sums.double(), logits.logsumexp(1), rtol=1e-6, atol=1e-5)
    other = log_sums(y, x, scale, exclusion.transposed(M))
    torch.testing.assert_close(other.double(), logits.logsumexp(0), rtol=1e-6, atol=1e-5)
    a, b = torch.rand(N), torch.rand(M)
    weights = a.double().unsqueeze(1) * logits.softmax(1) + b.double() * logits.softmax(0)
    for chunk in (None, 10):
        into_x, into_y = gradients(x, y, scale, exclusion, a, sums, b, other, chunk=chunk)
        torch.testing.assert_close(
            into_x.double(), scale * weights @ y.double(), rtol=0, atol=1e-6 * scale**1.5
        )
        torch.testing.assert_close(
            into_y.double(), scale * weights.T @ x.double(), rtol=0, atol=1e-6 * scale**1.5
        )
    alone, nothing = gradients(x, y, scale, exclusion, a, sums, into_y=False)
    assert nothing is None
    expected = scale * (a.double().unsqueeze(1) * logits.softmax(1)) @ y.double()
    torch.testing.assert_close(alone.double(), expected, rtol=0, atol=1e-6 * scale**1.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_sum_in_float32(dtype: torch.dtype):
    x, y = _inputs(dtype)
    logits = 10 * x.double() @ y.double().T
    sums = log_sums(x, y, 10.0, Exclusion())
    assert sums.dtype == torch.float32
    torch.testing.assert_close(sums.double(), logits.logsumexp(1), rtol=1e-6, atol=1e-5)
    into_x, into_y = gradients(x, y, 10.0, Exclusion(), torch.ones(N), sums)
    for found, exact in (
        (into_x, logits.softmax(1) @ y.double()),
        (into_y, logits.softmax(1).T @ x.double()),
    ):
        assert (found.double() / 10 - exact).abs().max() < 4 * torch.finfo(dtype).eps


def test_rows_of_which_all_is_excluded():
    x, y = _inputs()
    mask = torch.zeros(N, M, dtype=torch.bool)
    mask[3] = True
    sums = log_sums(x, y, 5.0, Exclusion(mask=mask))
    assert sums[3] == -torch.inf
    assert sums[:3].isfinite().all()
    into_x, into_y = gradients(x, y, 5.0, Exclusion(mask=mask), torch.ones(N), sums)
    assert into_x[3].eq(0).all()
    assert into_y.isfinite().all()


def test_empty_sets():
    x, y = _inputs()
    assert log_sums(x, y[:0], 5.0, Exclusion()).eq(-torch.inf).all()
    assert log_sums(x[:0], y, 5.0, Exclusion()).shape == (0,)
    into_x, into_y = gradients(x, y[:0], 5.0, Exclusion(), torch.ones(N), torch.zeros(N))
    assert into_x.eq(0).all()
    assert into_y.shape == (0, D)


def test_a_wrong_sum_would_be_seen():
    x, y = _inputs()
    exact = (7 * x @ y.T).logsumexp(1)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(log_sums(x, y, 7.0, Exclusion(offset=0)), exact, rtol=1e-6, atol=1e-5)
