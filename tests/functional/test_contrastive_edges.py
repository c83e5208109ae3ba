"""`contrastive_cross_entropy` at the edges: scale, zero, NaN, halves, empty batches, memory, NumPy."""

import numpy as np
import pytest
import torch
from allocations import Allocations
from test_contrastive import NUMBER, SIZE, dense, form
from torch import Tensor
from torch.nn import functional as F

from cosnorm.backends.torch.softmax import KEPT
from cosnorm.functional import contrastive_cross_entropy

EYE = torch.eye(NUMBER, dtype=torch.bool)
PAIR = torch.arange(NUMBER).roll(NUMBER // 2)


def expected_loss(rows: Tensor, temperature: float) -> Tensor:
    """Two views, the mean, in float64."""
    average = F.one_hot(PAIR, NUMBER).double()
    return dense(rows, rows, average, EYE, torch.tensor(temperature, dtype=torch.float64)).mean()


def gradient(loss: Tensor, rows: Tensor) -> Tensor:
    return torch.autograd.grad(loss, rows)[0]


def test_near_duplicates_at_a_low_temperature():
    base = torch.randn(SIZE)
    rows = (base + 1e-3 * torch.randn(NUMBER, SIZE)).requires_grad_()
    found = contrastive_cross_entropy(rows, positives=PAIR, temperature=0.01)
    exact = rows.detach().double().requires_grad_()
    expected = expected_loss(exact, 0.01)
    assert abs(found - expected) < 2e-5
    other = gradient(expected, exact)
    assert (gradient(found, rows) - other).abs().max() < 1e-3 * other.abs().max()


@pytest.mark.parametrize("temperature", [1.0, 0.01])
def test_identical_vectors(temperature: float):
    rows = torch.randn(1, SIZE).repeat(NUMBER, 1).requires_grad_()
    loss = contrastive_cross_entropy(rows, positives=PAIR, temperature=temperature)
    assert loss.item() == pytest.approx(np.log(NUMBER - 1), abs=1e-4)
    assert gradient(loss, rows).abs().max() < 1e-4 / temperature


@pytest.mark.parametrize(
    "options", [{"positives": PAIR}, {"labels": torch.arange(NUMBER) // 3}], ids=["pair", "label"]
)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_zero_rows_get_gradient_zero(options, reduction: str):
    rows = torch.randn(NUMBER, SIZE)
    rows[[0, 7]] = 0
    rows.requires_grad_()
    loss = contrastive_cross_entropy(rows, reduction=reduction, **options)
    found = gradient(loss.sum(), rows)
    assert loss.isfinite().all()
    assert found.isfinite().all()
    assert not found[[0, 7]].any()
    assert found[1].any()


def test_one_class_only():
    rows = torch.randn(NUMBER, SIZE, dtype=torch.float64, requires_grad=True)
    found = contrastive_cross_entropy(rows, labels=torch.zeros(NUMBER, dtype=torch.long), temperature=0.1)
    average = (~EYE).double() / (NUMBER - 1)
    expected = dense(rows, rows, average, EYE, torch.tensor(0.1, dtype=torch.float64)).mean()
    assert abs(found - expected) < 1e-10
    decoupled = contrastive_cross_entropy(rows, labels=torch.zeros(NUMBER, dtype=torch.long), decoupled=True)
    assert decoupled == 0  # no negatives: no query takes part
    assert not gradient(decoupled, rows).any()


def test_queries_without_positives_do_not_count():
    rows = torch.randn(5, SIZE, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 3])
    losses = contrastive_cross_entropy(rows, labels=labels, reduction="none")
    assert losses[:3].tolist() == [0, 0, 0]
    mean = contrastive_cross_entropy(rows, labels=labels)
    torch.testing.assert_close(mean, losses[3:].mean())
    nothing = contrastive_cross_entropy(rows, labels=torch.arange(5))
    assert nothing == 0
    assert not gradient(nothing, rows).any()


@pytest.mark.parametrize("number", [0, 1])
def test_empty_and_lonely(number: int):
    rows = torch.randn(number, SIZE, requires_grad=True)
    for options in (
        {"labels": torch.zeros(number, dtype=torch.long)},
        {"positives": torch.full((number,), -1)},
    ):
        loss = contrastive_cross_entropy(rows, **options)
        assert loss == 0
        assert not gradient(loss, rows).any()
    keys = torch.randn(number, SIZE)
    assert contrastive_cross_entropy(rows, keys).abs() < 1e-6  # the only key is the positive


@pytest.mark.parametrize("keys", [False, True])
def test_rows_of_every_length_are_exact(keys: bool):
    rows = torch.randn(NUMBER, SIZE)
    lengths = torch.logspace(-37, 37, NUMBER).unsqueeze(1)
    scaled = (rows * lengths).requires_grad_()
    other = scaled.detach().roll(1, 0) if keys else None
    loss = contrastive_cross_entropy(scaled, other, None if keys else PAIR, temperature=0.1)
    exact = scaled.detach().double().requires_grad_()
    if keys:
        none = torch.zeros(NUMBER, NUMBER, dtype=torch.bool)
        same = torch.eye(NUMBER).double()
        tau = torch.tensor(0.1, dtype=torch.float64)
        expected = dense(exact, exact.detach().roll(1, 0), same, none, tau).mean()
    else:
        expected = expected_loss(exact, 0.1)
    assert abs(loss - expected) < 1e-5
    found, right = gradient(loss, scaled).double(), gradient(expected, exact)
    largest = torch.finfo(torch.float32).max
    assert found.isfinite().all()
    error = (found - right.clamp(-largest, largest)).abs().amax(1) / right.abs().amax(1).clamp(max=largest)
    assert error[1:].max() < 1e-4  # for each row by itself


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_summed_in_float32(dtype: torch.dtype):
    rows = torch.randn(NUMBER, SIZE).to(dtype).requires_grad_()
    loss = contrastive_cross_entropy(rows, positives=PAIR, temperature=0.05)
    exact = rows.detach().double().requires_grad_()
    expected = expected_loss(exact, 0.05)
    assert loss.dtype == torch.float32
    assert abs(loss - expected) < 1e-5
    found = gradient(loss, rows)
    assert found.dtype == dtype
    assert (found - gradient(expected, exact)).abs().max() < torch.finfo(dtype).eps


def test_autocast_changes_nothing():
    rows = torch.randn(NUMBER, SIZE, requires_grad=True)
    plain = contrastive_cross_entropy(rows, positives=PAIR)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = contrastive_cross_entropy(rows, positives=PAIR)
    assert loss.dtype == torch.float32
    assert loss == plain
    assert torch.equal(gradient(loss, rows), gradient(plain, rows))


def test_nan_in_a_query_touches_its_own_loss_only():
    queries, keys = torch.randn(NUMBER, SIZE), torch.randn(NUMBER, SIZE)
    queries[3, 2] = torch.nan
    losses = contrastive_cross_entropy(queries, keys, reduction="none")
    assert losses.isnan().nonzero().flatten().tolist() == [3]
    keys[5, 0] = torch.inf
    assert contrastive_cross_entropy(queries, keys, reduction="none").isnan().all()
    masked = torch.zeros(NUMBER, dtype=torch.bool)
    masked[5] = True
    kept = contrastive_cross_entropy(queries, keys, exclude=masked, reduction="none").isnan()
    assert kept.nonzero().flatten().tolist() == [3, 5]  # key 5 is still the positive of query 5


@pytest.mark.parametrize("cotangent", [1e-30, 1e30])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_cotangents_of_any_size(cotangent: float, reduction: str):
    rows = torch.randn(NUMBER, SIZE, requires_grad=True)
    loss = contrastive_cross_entropy(rows, positives=PAIR, reduction=reduction).sum()
    one = torch.autograd.grad(loss, rows, retain_graph=True)[0]
    scaled = torch.autograd.grad(loss, rows, torch.tensor(cotangent))[0]
    torch.testing.assert_close(scaled / cotangent, one, rtol=1e-5, atol=1e-6 * one.abs().max().item())


def test_a_gradient_beyond_the_range_saturates():
    rows = (torch.randn(NUMBER, SIZE) * 1e-36).requires_grad_()
    loss = contrastive_cross_entropy(rows, positives=PAIR)
    found = torch.autograd.grad(loss, rows, torch.tensor(1e30))[0]
    assert found.isfinite().all()
    assert found.abs().max() == torch.finfo(torch.float32).max


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_first_derivatives_only(reduction: str):
    rows = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    pair = torch.arange(6).roll(3)

    def loss(rows: Tensor) -> Tensor:
        return contrastive_cross_entropy(rows, positives=pair, reduction=reduction)

    assert torch.autograd.gradcheck(loss, (rows,))
    for other in (0, rows.square().sum()):  # beside a loss that can be differentiated again, too
        first = torch.autograd.grad(loss(rows).sum() + other, rows, create_graph=True)[0]
        with pytest.raises(RuntimeError, match=r"cannot be differentiated again.*pairwise_cosine"):
            torch.autograd.grad(first.sum(), rows)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match=r"jvp|forward"):
        loss(torch.autograd.forward_ad.make_dual(rows, torch.ones_like(rows)))
    by_func = torch.func.grad(lambda one: loss(one).sum())(rows.detach())
    torch.testing.assert_close(by_func, gradient(loss(rows).sum(), rows))


def test_layout_does_not_matter():
    rows = torch.randn(SIZE, 2 * NUMBER).T[::2]
    assert contrastive_cross_entropy(rows, positives=PAIR) == contrastive_cross_entropy(
        rows.clone(), positives=PAIR
    )


def memory(options: dict, rows: list[Tensor], chunk_size: int) -> tuple[int, int]:
    """Bytes saved for the backward pass, and those of the largest tensor, forward and backward."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with Allocations() as made:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = contrastive_cross_entropy(*rows, chunk_size=chunk_size, **options)
        loss.sum().backward()
    return sum(seen.values()), made.largest


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("kind", ["two views", "labels", "keys", "both directions"])
def test_memory(kind: str, reduction: str):
    number, size = 600, 4
    rows = [torch.randn(number, size, requires_grad=True)]
    if kind in ("keys", "both directions"):
        rows.append(torch.randn(number, size, requires_grad=True))
    options = {
        "two views": {"positives": torch.arange(number).roll(number // 2)},
        "labels": {"labels": torch.arange(number) // 4},
        "keys": {},
        "both directions": {"directions": ("query_to_key", "key_to_query")},
    }[kind] | {"reduction": reduction}
    saved, largest = zip(*(memory(options, rows, chunk) for chunk in (8, 128, 300)), strict=True)
    assert max(saved) <= 4 * len(rows) * number * (3 * size + 10)
    assert saved[0] == saved[1] == saved[2]
    if reduction == "none" or kind == "keys":
        assert largest[0] < largest[1] < largest[2] < 4 * number * number
    else:
        assert max(largest) <= 4 * KEPT  # some tiles are kept from the first pass for the second


def test_numpy_in_numpy_out():
    rows = np.random.default_rng(0).normal(size=(NUMBER, SIZE)).astype(np.float32)
    expected = contrastive_cross_entropy(torch.tensor(rows), positives=PAIR)
    readonly = rows.copy()
    readonly.flags.writeable = False
    for array in (rows, readonly, rows.astype(">f4"), rows[::-1][::-1], rows.copy(order="F")):
        loss = contrastive_cross_entropy(array, positives=PAIR.numpy())
        assert isinstance(loss, np.float32)
        assert loss == pytest.approx(expected.item(), rel=1e-6)
    losses = contrastive_cross_entropy(rows, labels=np.arange(NUMBER) // 2, reduction="none")
    assert isinstance(losses, np.ndarray)
    assert losses.shape == (NUMBER,)


def test_forms_are_distinct():
    """The forms of test_contrastive.py are not all one."""
    assert form("labels").average.count_nonzero() != form("pairs").average.count_nonzero()
