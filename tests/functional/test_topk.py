"""The nearest keys, against the whole matrix of cosines and torch's own top-k."""

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operations import DTYPES
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cosnorm.backends.look import topk as look
from cosnorm.backends.torch import topk as plain
from cosnorm.functional import TopK, cosine_topk, pairwise_cosine


def expected(queries: Tensor, keys: Tensor, k: int, out: Tensor) -> tuple[Tensor, Tensor]:
    """In float64, with −inf where a key stays out."""
    cosines = reference.linear(queries, keys).masked_fill(out, -torch.inf)
    return cosines.topk(k)


def assert_found(found: TopK, queries: Tensor, keys: Tensor, k: int, out: Tensor, tolerance: float) -> None:
    """The right cosines; and keys that have these cosines, each once."""
    values, _ = expected(queries, keys, k, out)
    torch.testing.assert_close(found.values.double(), values, rtol=0, atol=tolerance)
    none = found.values == -torch.inf
    assert torch.equal(found.indices < 0, none)
    own = reference.linear(queries, keys).gather(1, found.indices.clamp(min=0))
    torch.testing.assert_close(own[~none], values[~none], rtol=0, atol=2 * tolerance)
    assert not out.gather(1, found.indices.clamp(min=0))[~none].any()
    for row in found.indices.tolist():
        chosen = [key for key in row if key >= 0]
        assert len(set(chosen)) == len(chosen)


@pytest.mark.parametrize("where", ["cpu", "accelerator"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "keys", "size", "k"), [(1, 1, 1, 1), (63, 507, 123, 10), (507, 63, 5, 63)])
@pytest.mark.parametrize("tile", [None, 1, 17, 64])
def test_awkward_sizes(rows, keys, size, k, tile, dtype, where, request):
    if where == "accelerator":
        request.getfixturevalue("accelerated")
    if tile == 1:  # a tile for each number
        rows, keys, k = min(rows, 7), min(keys, 9), min(k, 9)
    x, y = torch.randn(rows, size).to(dtype), torch.randn(keys, size).to(dtype)
    found = cosine_topk(x, y, k, chunk_size=tile)
    assert found.values.dtype == dtype
    assert_found(found, x, y, k, torch.zeros(rows, keys, dtype=torch.bool), 4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("tile", [None, 8, 100])
@pytest.mark.parametrize("number", [1, 63, 200])
def test_a_set_with_itself_is_the_set_with_its_copy(number: int, tile: int | None):
    x = torch.randn(number, 31)
    for options in ({}, {"labels": torch.randint(4, (number,))}, {"exclude_self": False}):
        copied = dict(options, exclude_self=options.get("exclude_self", True))
        if "labels" in options:
            copied["labels"] = (options["labels"],) * 2
        k = min(7, number)
        alone, apart = cosine_topk(x, None, k, chunk_size=tile, **options), cosine_topk(x, x, k, **copied)
        torch.testing.assert_close(alone.values, apart.values, rtol=0, atol=5e-7)
        twin = x.requires_grad_()
        cotangent = torch.randn(number, k).masked_fill(alone.indices < 0, 0)
        (one,) = torch.autograd.grad(cosine_topk(twin, None, k, **options).values, twin, cotangent)
        other = twin.detach().clone().requires_grad_()
        pair = torch.autograd.grad(cosine_topk(twin, other, k, **copied).values, (twin, other), cotangent)
        torch.testing.assert_close(one, sum(pair), rtol=1e-5, atol=1e-6)
        x = x.detach()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_stays_out(data):
    draw = data.draw
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    rows, keys = draw(st.integers(1, 20)), draw(st.integers(1, 30))
    x = torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(keys, 4, generator=generator, dtype=torch.float64)
    out = torch.zeros(rows, keys, dtype=torch.bool)
    options: dict = {"chunk_size": draw(st.sampled_from([None, 3, 8]))}
    if draw(st.booleans()):
        options["exclude_self"] = True
        out |= torch.eye(rows, keys, dtype=torch.bool)
    if draw(st.booleans()):
        labels = [torch.randint(3, (number,), generator=generator) for number in (rows, keys)]
        options["labels"] = tuple(labels)
        out |= labels[0].unsqueeze(1) == labels[1]
    kind = draw(st.sampled_from(["nothing", "mask", "column", "index", "pairs"]))
    if kind == "mask":
        options["exclude"] = torch.rand(rows, keys, generator=generator) > 0.7
        out |= options["exclude"]
    elif kind == "column":
        options["exclude"] = torch.rand(keys, generator=generator) > 0.7
        out |= options["exclude"]
    elif kind == "index":
        options["exclude"] = torch.randint(-1, keys, (rows,), generator=generator)
        for row, key in enumerate(options["exclude"].tolist()):
            out[row, key] |= key >= 0
    elif kind == "pairs":
        sizes = torch.tensor([rows, keys])
        options["exclude"] = (torch.rand(9, 2, generator=generator) * sizes).long()
        out[options["exclude"].unbind(1)] = True
    if draw(st.booleans()):
        below = torch.rand(rows, generator=generator, dtype=torch.float64)
        options["below"] = draw(st.sampled_from([0.3, below]))
        bound = torch.as_tensor(options["below"]).expand(rows).unsqueeze(1)
        out |= reference.linear(x, y) >= bound
    k = draw(st.integers(1, keys))
    assert_found(cosine_topk(x, y, k, **options), x, y, k, out, 1e-14)


@pytest.mark.parametrize("tile", [None, 50])
def test_ties_duplicates_and_clusters(tile: int | None):
    """What makes a tile full of candidates, or of equal ones."""
    base = torch.randn(3, 16)
    for x in (
        base.repeat(100, 1),
        base.repeat_interleave(100, 0) + 0.01 * torch.randn(300, 16),
        torch.linspace(0, 3, 300).unsqueeze(1).mul(torch.tensor([[1.0, 0]])).add(torch.tensor([[0, 1.0]])),
        torch.zeros(300, 5),
    ):
        out = torch.eye(300, dtype=torch.bool)
        assert_found(cosine_topk(x, k=9, chunk_size=tile), x, x, 9, out, 1e-6)


@pytest.mark.parametrize("where", ["cpu", "accelerator"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_query_gets_nan_and_a_bad_key_is_never_found(bad: float, where: str, request):
    if where == "accelerator":
        request.getfixturevalue("accelerated")
    x, y = torch.randn(7, 5), torch.randn(9, 5)
    clean = cosine_topk(x, y, 4)
    key = int(clean.indices[0, 0])
    x[3, 2] = y[key, 1] = bad
    x.requires_grad_()
    y.requires_grad_()
    found = cosine_topk(x, y, 4)
    assert found.values[3].isnan().all()
    assert (found.indices[3] == -1).all()
    others = [0, 1, 2, 4, 5, 6]
    out = torch.zeros(6, 9, dtype=torch.bool)
    out[:, key] = True
    sound = y.detach().nan_to_num(0, 0, 0)
    assert_found(TopK(*(one[others] for one in found)), x.detach()[others], sound, 4, out, 1e-6)
    gradients = torch.autograd.grad(found.values[others].sum(), (x, y))
    assert gradients[0][others].isfinite().all()
    assert gradients[1][[row for row in range(9) if row != key]].isfinite().all()


def test_a_bad_last_row_spoils_no_gradient_of_those_without_keys():
    x = torch.randn(4, 3, requires_grad=True)
    with torch.no_grad():
        x[0] = torch.nan
    found = cosine_topk(x, k=3)  # of three healthy ones two are left for each
    assert (found.indices[1:, 2] == -1).all()
    found.values[1:, :2].sum().backward()
    assert x.grad[1:].isfinite().all()


def test_a_bound_of_nan_raises():
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match="cosine_topk: below must be a number, got NaN"):
        cosine_topk(x, below=torch.nan)
    with pytest.raises(ValueError, match="cosine_topk: below must be numbers, got NaN"):
        cosine_topk(x, below=torch.tensor([0.1, torch.nan, 0.3, torch.inf]))
    assert (cosine_topk(x, below=-torch.inf).indices == -1).all()


def test_nothing_of_n_by_m_is_made():
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for one in result if isinstance(result, (tuple, list)) else [result]:
                self.numel = max(self.numel, one.numel() if isinstance(one, Tensor) else 0)
            return result

    x = torch.randn(600, 8)
    for module in (look, plain):
        for symmetric in (False, True):
            best = look.Best.none(x, 5)
            with Largest() as seen:
                left_out = look.LeftOut(plain_exclusion(), None)
                module.merge_(best, x, x, 0, left_out, symmetric=symmetric, tile=50)
            assert seen.numel <= 600 * 8


def plain_exclusion():
    from cosnorm.backends.pairs import Exclusion

    return Exclusion(offset=0)


def test_numpy_gives_numpy():
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    found = cosine_topk(x, k=2)
    assert isinstance(found, TopK)
    assert isinstance(found.values, np.ndarray)
    assert isinstance(found.indices, np.ndarray)
    torch.testing.assert_close(torch.from_numpy(found.values), cosine_topk(torch.from_numpy(x), k=2).values)


def test_a_tensor_beside_arrays_keeps_its_gradient():
    x, y = torch.randn(6, 4, requires_grad=True), torch.randn(9, 4)
    found = cosine_topk(x, y.numpy(), 2)
    (own,) = torch.autograd.grad(found.values.sum(), x)
    assert torch.equal(own, torch.autograd.grad(cosine_topk(x, y, 2).values.sum(), x)[0])


def test_compiled_in_one_graph():
    x, y = torch.randn(20, 6, requires_grad=True), torch.randn(30, 6)
    labels = torch.randint(3, (20,)), torch.randint(3, (30,))

    def call(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        found = cosine_topk(x, y, 4, labels=labels, below=0.9)
        return found.values, found.indices

    whole = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, whole(x, y), call(x, y)))
    gradients = [torch.autograd.grad(one(x, y)[0].sum(), x)[0] for one in (whole, call)]
    assert torch.equal(*gradients)


def test_under_autocast_as_without():
    x, y = torch.randn(20, 6), torch.randn(30, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = cosine_topk(x, y, 4)
        mixed = cosine_topk(x.bfloat16(), y, 4)
    assert torch.equal(found.values, cosine_topk(x, y, 4).values)
    assert mixed.values.dtype == torch.bfloat16


def test_values_learn_and_a_wrong_gradient_would_be_seen():
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: cosine_topk(x, k=3).values, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: cosine_topk(x, k=3).values, x)
    assert not cosine_topk(x, k=3).indices.requires_grad


def test_against_pairwise_cosine_at_a_size_of_several_tiles():
    x, y = torch.randn(1500, 24), torch.randn(9000, 24)
    found, whole = cosine_topk(x, y, 10), pairwise_cosine(x, y).topk(10)
    torch.testing.assert_close(found.values, whole.values, rtol=0, atol=5e-7)
    assert (found.indices == whole.indices).float().mean() > 0.999
    found, whole = cosine_topk(y, k=10), pairwise_cosine(y).fill_diagonal_(-2).topk(10)
    torch.testing.assert_close(found.values, whole.values, rtol=0, atol=5e-7)
    assert (found.indices == whole.indices).float().mean() > 0.999
