"""The kernels of blocked softmaxes against their plain formula, in Triton's interpreter."""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from cosnorm.backends.pairs import Exclusion, Places, direction
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


PLACES = {
    "own key": Places(),
    "given": Places(given=torch.tensor([3, 2, 1, 0, -1, *range(5, 37)])),
    "by label": Places(labels=(torch.arange(N) % 5, torch.arange(M) % 7), offset=1),
}


def _positives(places: Places) -> torch.Tensor:
    """Which pairs are positive, (N, M)."""
    i, j = torch.arange(N).unsqueeze(1), torch.arange(M)
    if places.given is not None:
        return places.given.unsqueeze(1) == j
    if places.labels is None:
        return i + (places.offset or 0) == j
    same = places.labels[0].unsqueeze(1) == places.labels[1]
    return same & (i + places.offset != j)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("learned", [False, True], ids=["a number", "a tensor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PLACES)
def test_whole_losses(name: str, dtype: torch.dtype, learned: bool, own: bool):
    places, positive = PLACES[name], _positives(PLACES[name])
    exclusion = Exclusion(offset=1, labels=(torch.arange(N) % 9, torch.arange(M) % 8))
    x, y = _inputs(dtype)
    scale = torch.tensor(7.0) if learned else 7.0
    logits = 7 * x.double() @ y.double().T
    # A positive stays whatever its label, and not where something else leaves it out.
    kept = ~_excluded(exclusion) | (positive & own & ~_excluded(exclusion._replace(labels=None)))
    counts = positive.sum(1)
    sums = logits.masked_fill(~kept, -torch.inf).logsumexp(1)
    part = (counts > 0) & (sums > -torch.inf)
    share = positive / counts.clamp(min=1).unsqueeze(1)
    exact = (sums - (logits * share).sum(1)).where(part, 0)
    found = softmax.losses(x, y, scale, exclusion, places, own=own, columns=False)
    torch.testing.assert_close(found.losses.double(), exact, rtol=1e-5, atol=1e-5)
    assert found.part.bool().equal(part)
    loss, count = found.sums()
    torch.testing.assert_close(loss.double(), exact.sum(), rtol=1e-5, atol=1e-5)
    assert count == part.sum()
    weight = torch.rand(N) * part
    weights = logits.masked_fill(~kept, -torch.inf).sub(sums.unsqueeze(1)).exp().nan_to_num(0) - share
    weights = weight.double().unsqueeze(1) * weights
    tolerance = 3e-6 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps
    for tile in (None, 10):
        into_x, into_y = torch.empty(N, D), torch.empty(M, D)
        softmax.loss_gradients(
            x,
            y,
            scale,
            exclusion,
            places,
            found._replace(part=weight),
            into_x,
            into_y,
            own=own,
            symmetric=False,
            tile=tile,
        )
        assert (into_x.double() - weights @ y.double()).abs().max() < tolerance
        assert (into_y.double() - weights.T @ x.double()).abs().max() < tolerance


@pytest.mark.parametrize("name", ["given", "by label"])
def test_whole_losses_of_a_set_with_itself(name: str):
    x, _ = _inputs()
    labels = torch.arange(N) % 5
    places = PLACES[name] if name == "given" else Places(labels=(labels, labels), offset=0)
    i, j = torch.arange(N).unsqueeze(1), torch.arange(N)
    given = torch.zeros(N, N, dtype=torch.bool)
    given[:, :] = places.given.unsqueeze(1) == j if name == "given" else (labels.unsqueeze(1) == labels)
    positive = given & (i != j) if name == "by label" else given
    logits = (5 * x.double() @ x.double().T).fill_diagonal_(-torch.inf)
    share = positive / positive.sum(1).clamp(min=1).unsqueeze(1)
    exclusion = Exclusion(offset=0)
    found = softmax.losses(x, x, 5.0, exclusion, places, own=False, columns=False)
    weights = found.part.double().unsqueeze(1) * (logits.softmax(1) - share)
    into = torch.empty(N, D)
    options = {"own": False, "symmetric": True, "tile": 16}
    softmax.loss_gradients(x, x, 5.0, exclusion, places, found, into, None, **options)
    torch.testing.assert_close(into.double(), (weights + weights.T) @ x.double(), rtol=0, atol=3e-6)


def test_whole_losses_of_rows_and_columns():
    x, y = _inputs()
    y = y[:N]
    logits = 5 * x.double() @ y.double().T
    found = softmax.losses(x, y, 5.0, Exclusion(), Places(), own=False, columns=True)
    exact = (logits.logsumexp(1) + logits.logsumexp(0)) / 2 - logits.diagonal()
    torch.testing.assert_close(found.losses.double(), exact, rtol=1e-5, atol=1e-5)
    weights = (logits.softmax(1) + logits.softmax(0)) / 2 - torch.eye(N)
    into_x, into_y = torch.empty(N, D), torch.empty(N, D)
    options = {"own": False, "symmetric": False, "tile": None}
    softmax.loss_gradients(x, y, 5.0, Exclusion(), Places(), found, into_x, into_y, **options)
    torch.testing.assert_close(into_x.double(), weights @ y.double(), rtol=0, atol=3e-6)
    torch.testing.assert_close(into_y.double(), weights.T @ x.double(), rtol=0, atol=3e-6)
