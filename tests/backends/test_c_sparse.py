"""The compiled passes over sparse rows, each alone, against float64; they refuse what is not theirs."""

import pytest
import torch

from cosnorm.backends.c.library import library
from cosnorm.backends.torch.sparse import SparseRows
from cosnorm.norms import NORM_LIMIT

passes = pytest.importorskip("cosnorm.backends.c.sparse")

pytestmark = pytest.mark.skipif(library() is None, reason="the passes in C were not compiled here")

# features, columns, rows: one of each, blocks of sums and their rests, rows that begin at odd addresses, more
# products than are summed beside the norms, a gradient beyond the cache.
SIZES = [(1, 1, 1), (7, 3, 2), (259, 33, 5), (1031, 17, 4), (64, 1500, 900), (4219, 1003, 6)]


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def case(features: int, columns: int, rows: int):
    """Sparse rows (one is empty where there are several), dense ones, and a weight by feature."""
    generator = torch.Generator().manual_seed(features)
    dense = torch.randn(rows, features, generator=generator)
    dense[torch.rand(rows, features, generator=generator) < 0.9] = 0
    if rows > 1:
        dense[1] = 0
    sparse = dense.to_sparse_csr()
    weight = torch.randn(features, columns, generator=generator).t()
    parts = sparse.crow_indices(), sparse.col_indices(), sparse.values()
    return SparseRows(*parts, torch.zeros(rows, 1)), dense.double(), weight


def assert_near(found, exact, magnitudes):
    """Within some roundings of the sum of the terms' magnitudes."""
    assert ((found.double() - exact).abs() <= 4 * torch.finfo(torch.float32).eps * magnitudes).all()


def assert_products(found, dense, weight):
    assert_near(found, dense @ weight.double().t(), dense.abs() @ weight.double().abs().t())


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_products(size, threads):
    x, dense, weight = case(*size)
    found = passes.product(x, weight)
    assert found.shape == (size[2], size[1])
    assert_products(found, dense, weight)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("size", SIZES[1:], ids=str)
def test_products_and_factors(size, centered, threads):
    x, dense, weight = case(*size)
    weight = weight + 0.1
    assert weight.t().is_contiguous()
    augment = 0.5
    products, factors, means = passes.products_and_factors(x, weight, augment, centered, 1.0)
    exact = weight.double()
    assert_products(products, dense, weight)
    mean = exact.mean(1, keepdim=True) if centered else 0
    norms = ((exact - mean).square().sum(1) + augment**2).sqrt()
    assert ((factors * norms) - 1).abs().max() < 1e-6
    assert means.shape == ((size[1],) if centered else (0,))
    if centered:
        assert_near(means, mean.squeeze(1), exact.abs().mean(1))


@pytest.mark.parametrize("along", [False, True])
@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gradient(size, along, offset, threads):
    x, dense, weight = case(*size)
    generator = torch.Generator().manual_seed(1)
    h = torch.randn(size[2], size[1], generator=generator)
    scale, shift = torch.randn(2, size[1], generator=generator)
    found = passes.adjoint(weight, h, x, scale if along else None, shift if offset else None)
    terms = [(h.double().t(), dense)]
    if along:
        terms.append((scale.double().diag(), weight.double()))
    if offset:
        terms.append((shift.double().unsqueeze(1), torch.ones(1, size[0]).double()))
    assert found.stride() == weight.stride()
    magnitudes = sum(one.abs() @ other.abs() for one, other in terms)
    assert_near(found, sum(one @ other for one, other in terms), magnitudes)


def test_narrow_indices_and_views():
    x, dense, weight = case(31, 5, 4)
    narrow = SparseRows(x[0].int(), x[1].int(), torch.stack([x[2], x[2]], 1)[:, 0], x[3])
    assert_products(passes.product(narrow, weight), dense, weight)
    h = torch.randn(5, 4).t()
    assert_products(passes.adjoint(weight, h, narrow), h.double().t(), dense.t())


@pytest.mark.parametrize(
    ("norm", "fine"), [(0.0, True), (1e-9, True), (1e-10, False), (1e-30, False), (1e9, True), (1e10, False)]
)
def test_norms_out_of_the_window_are_refused(norm, fine):
    x, _, weight = case(31, 5, 4)
    weight[3] *= norm / weight[3].norm()
    assert 1e9 < NORM_LIMIT[torch.float32] < 1e10
    assert (passes.products_and_factors(x, weight, 0.0, False, 1.0) is not None) is fine


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(bad):
    x, _, weight = case(31, 5, 4)
    weight[3, 2] = bad
    assert passes.products_and_factors(x, weight, 0.0, False, 1.0) is None
    assert passes.products_and_factors(x, weight, 0.0, True, 1.0) is None


def test_large_means_are_refused():
    x, _, weight = case(31, 5, 4)
    assert passes.products_and_factors(x, weight, 0.0, True, 1.0) is not None
    assert passes.products_and_factors(x, weight, 0.0, True, 1e-3) is None
    assert passes.products_and_factors(x, weight + 2, 0.0, True, 1.0) is None  # above half of |w|²
    assert passes.products_and_factors(x, weight + 2, 0.0, False, 1.0) is not None


@pytest.mark.parametrize("wrong", [31, -1])
def test_indices_outside_of_the_weight_are_refused(wrong):
    x, _, weight = case(31, 5, 4)
    x[1][2] = wrong
    assert passes.product(x, weight) is None
    assert passes.products_and_factors(x, weight, 0.0, False, 1.0) is None
    assert passes.adjoint(weight, torch.ones(4, 5), x) is None


@pytest.mark.parametrize("starts", [[0, 3, 2, 4, 5], [1, 2, 3, 4, 5], [0, 1, 2, 3, 10**6]])
def test_rows_that_are_none_are_refused(starts):
    x, _, weight = case(31, 5, 4)
    assert passes.product(SparseRows(torch.tensor(starts), *x[1:]), weight) is None


def test_others_are_left_to_torch():
    x, _, weight = case(31, 5, 4)
    doubles = x._replace(values=x.values.double())
    assert passes.handles(x, weight)
    assert not passes.handles(doubles, weight)
    assert not passes.handles(doubles, weight.double())
    assert not passes.handles(x, weight.contiguous())
    assert not passes.handles(x, weight[:0])
    assert not passes.handles(SparseRows(x[0][:1], x[1][:0], x[2][:0], x[3][:0]), weight)
