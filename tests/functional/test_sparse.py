"""Sparse input of cosine_linear: the same as dense, in value and gradient, without ever making x dense."""

import pytest
import torch

from cosnorm.backends.c import sparse as c_sparse
from cosnorm.backends.look import sparse as look_sparse
from cosnorm.backends.torch import sparse as torch_sparse
from cosnorm.functional import cosine_linear
from cosnorm.nn import CosineLinear

CASES = [
    pytest.param(centered, augment, by_feature, id=f"{centered}-{augment}-{by_feature}")
    for centered in (False, True)
    for augment in (0.0, 1e-2)
    for by_feature in (False, True)
]


def rows(count: int = 13, size: int = 57, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    """Mostly zeros; row 3 has nothing at all, row 5 one value."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, size, generator=generator, dtype=dtype)
    x[torch.rand(count, size, generator=generator) < 0.8] = 0
    if count > 5:
        x[3] = 0
        x[5] = 0
        x[5, 7] = -2
    return x


def weights(count: int = 9, size: int = 57, dtype: torch.dtype = torch.float64, by_feature: bool = False):
    weight = torch.randn(count, size, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return weight.t().contiguous().t() if by_feature else weight


@pytest.fixture(params=["compiled", "torch"])
def passes(request, force):
    """The compiled passes, and torch's operators in their place."""
    if request.param == "torch":
        force("look")
    return request.param


def both(x, weight, cotangent, **options):
    """Value and gradient of the sparse and of the dense form."""
    found = []
    for given in (x.to_sparse_csr(), x):
        own = weight.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        output = cosine_linear(given, own, **options)
        output.backward(cotangent)
        found += [output.detach(), own.grad]
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("centered", "augment", "by_feature"), CASES)
@pytest.mark.parametrize("gathered", [2**22, 100])
def test_equals_dense(dtype, centered, augment, by_feature, gathered, passes, monkeypatch):
    monkeypatch.setattr(torch_sparse, "GATHERED", gathered)
    x, weight = rows(dtype=dtype), weights(dtype=dtype, by_feature=by_feature)
    weight[2] = 0
    cotangent = torch.randn(13, 9, dtype=dtype)
    value, gradient, dense_value, dense_gradient = both(
        x, weight, cotangent, centered=centered, augment=augment
    )
    bound = 200 * torch.finfo(dtype).eps
    assert (value - dense_value).abs().max() <= bound
    assert (gradient - dense_gradient).abs().max() <= bound * dense_gradient.abs().max()
    assert gradient.stride() == weight.stride()  # so that autograd need not copy it
    if not augment:
        assert value[3].eq(0).all()
        assert value[:, 2].eq(0).all()
        assert gradient[2].eq(0).all()


@pytest.mark.parametrize("shape", [(0, 57), (1, 57), (13, 0), (63, 123), (123, 1)])
@pytest.mark.parametrize("by_feature", [False, True])
def test_awkward_sizes(shape, by_feature):
    count, size = shape
    x, weight = rows(count, max(size, 8))[:, :size], weights(5, size, by_feature=by_feature)
    value, gradient, dense_value, dense_gradient = both(x, weight, torch.randn(count, 5).double())
    torch.testing.assert_close(value, dense_value, atol=1e-14, rtol=0)
    torch.testing.assert_close(gradient, dense_gradient, atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("by_feature", [False, True])
def test_exact_at_every_scale(centered, by_feature, passes):
    """Rows from 1e-38 to 1e38 in one batch, in x and in the weight, against float64."""
    x, weight = rows(dtype=torch.float32), weights(dtype=torch.float32, by_feature=by_feature)
    x *= 10.0 ** torch.linspace(-38, 37, 13).unsqueeze(1)
    weight = weight * 10.0 ** torch.linspace(-37, 37, 9).unsqueeze(1)
    cotangent = torch.randn(13, 9, generator=torch.Generator().manual_seed(2))
    value, gradient, *_ = both(x, weight, cotangent, centered=centered)
    exact, exact_gradient, *_ = both(x.double(), weight.double(), cotangent.double(), centered=centered)
    assert (value - exact).abs().max() < 3e-6
    finite = exact_gradient.abs() < torch.finfo(torch.float32).max
    scale = exact_gradient.abs().amax(1, keepdim=True)
    assert ((gradient - exact_gradient) / scale)[finite].abs().max() < 1e-5
    assert gradient.isfinite().all()


@pytest.mark.parametrize("largest", [1e-38, 1e-20, 1e25, 1e38])
def test_cotangents_of_every_size(largest):
    x, weight = rows(dtype=torch.float32), weights(dtype=torch.float32)
    cotangent = largest * torch.randn(13, 9, generator=torch.Generator().manual_seed(2)).clamp(-1, 1)
    _, gradient, *_ = both(x, weight, cotangent)
    _, exact, *_ = both(x.double(), weight.double(), cotangent.double())
    assert (gradient.double() - exact).abs().max() < 1e-5 * exact.abs().max()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("by_feature", [False, True])
def test_what_is_not_finite_stays_in_its_row(bad, by_feature):
    x, weight = rows(), weights(by_feature=by_feature)
    clean = cosine_linear(x.to_sparse_csr(), weight)
    x[4, 7] = bad
    value = cosine_linear(x.to_sparse_csr(), weight)
    others = torch.arange(13) != 4
    assert value[4].isnan().all()
    assert torch.equal(value[others], clean[others])
    weight[6, 3] = bad
    value = cosine_linear(x[others].to_sparse_csr(), weight)
    assert value[:, 6].isnan().all()
    assert (value[:, :6] - clean[others, :6]).abs().max() < 1e-14


def test_bounded_and_one_for_equal_vectors():
    x = rows(200, 31, torch.float32)
    x = x[x.abs().sum(1) > 0]
    value = cosine_linear((1e-30 * x).to_sparse_csr(), x * 1e20)
    assert value.abs().max() <= 1
    assert (value.diagonal() - 1).abs().max() < 1e-6


def test_centered_rows_that_are_constant_count_as_zero():
    x = torch.zeros(4, 10)
    x[0] = 7.0  # every value stored, all alike
    x[1] = 7.0 * (1 + torch.finfo(torch.float32).eps)
    x[2, 3] = 1.0
    weight = weights(3, 10, torch.float32)
    value = cosine_linear(x.to_sparse_csr(), weight, centered=True)
    assert value[[0, 1, 3]].eq(0).all()
    torch.testing.assert_close(value[2], cosine_linear(x[2], weight, centered=True))


@pytest.mark.parametrize(("centered", "augment", "by_feature"), CASES)
def test_second_derivatives(centered, augment, by_feature):
    x = rows(5, 8).to_sparse_csr()
    weight = weights(3, 8, by_feature=by_feature).requires_grad_()

    def function(w):
        return cosine_linear(x, w, centered=centered, augment=augment)

    assert torch.autograd.gradcheck(function, (weight,))
    assert torch.autograd.gradgradcheck(function, (weight,))


@pytest.mark.parametrize(("centered", "augment", "by_feature"), CASES)
def test_the_gradient_that_can_be_differentiated_is_the_same(centered, augment, by_feature):
    x, cotangent = rows(), torch.randn(13, 9, generator=torch.Generator().manual_seed(2)).double()
    found = []
    for given in (x.to_sparse_csr(), x):
        weight = weights(by_feature=by_feature).requires_grad_()
        output = cosine_linear(given, weight, centered=centered, augment=augment)
        found += torch.autograd.grad(output, weight, cotangent, create_graph=True)
    assert found[0].requires_grad
    torch.testing.assert_close(*found, atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_accumulate_in_float32(dtype):
    x, weight = rows(dtype=torch.float32).to(dtype), weights(dtype=torch.float32).to(dtype)
    value, gradient, *_ = both(x, weight, torch.randn(13, 9).to(dtype))
    exact, *_ = both(x.double(), weight.double(), torch.randn(13, 9).double())
    assert value.dtype == gradient.dtype == dtype
    assert (value - exact).abs().max() <= torch.finfo(dtype).eps


def test_autocast_gives_the_dtype_of_torchs_own_layer():
    x, weight = rows(dtype=torch.float32), weights(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert cosine_linear(x.to_sparse_csr(), weight).dtype == torch.bfloat16


def test_the_layer_takes_sparse_input():
    layer = CosineLinear(57, 9, bias=True, scale="learned", dtype=torch.float64)
    x = rows()
    torch.testing.assert_close(layer(x.to_sparse_csr()), layer(x))


def test_an_in_place_relu_may_follow():
    x, weight = rows().to_sparse_csr(), weights().requires_grad_()
    cosine_linear(x, weight).relu_().sum().backward()
    expected = weights().requires_grad_()
    cosine_linear(rows(), expected).relu().sum().backward()
    torch.testing.assert_close(weight.grad, expected.grad)


def test_errors():
    x, weight = rows().to_sparse_csr(), weights()
    with pytest.raises(ValueError, match=r"must have shape \(N, in_features\).*got \(13, 57\) and \(9, 56\)"):
        cosine_linear(x, weight[:, 1:])
    with pytest.raises(ValueError, match=r"receives no gradient.*x.detach\(\)"):
        cosine_linear(x.requires_grad_(), weight)
    with pytest.raises(TypeError, match="x and weight must have one dtype"):
        cosine_linear(rows().to_sparse_csr(), weight.float())
    with pytest.raises(TypeError, match=r"x must be dense, got torch.sparse_coo"):
        cosine_linear(rows().to_sparse_coo(), weight)
    with pytest.raises(TypeError, match=r"must be float16, bfloat16, float32 or float64, got torch.int64"):
        cosine_linear(torch.eye(57, dtype=torch.int64).to_sparse_csr(), weight)


@pytest.fixture
def without_copy(monkeypatch):
    """Whether the weight was left uncentered, call by call."""
    taken = []

    def spy(products, factor, means, *others):
        taken.append(bool(means.numel()) and bool(means[0] != torch.inf))
        return finish(products, factor, means, *others)

    finish = look_sparse.finish
    for backend in (look_sparse, c_sparse):
        monkeypatch.setattr(backend, "finish", spy)
    return taken


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("augment", [0.0, 1e-2])
@pytest.mark.parametrize("offset", [0.0, 0.01, 1.0, 30.0])
def test_centered_whatever_the_means(offset, augment, constant, passes, without_copy):
    """Small means are taken off the products, large ones off the weight; both against float64."""
    generator = torch.Generator().manual_seed(3)
    x = torch.zeros(13, 400, dtype=torch.float64)
    x[:, ::50] = torch.rand(13, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(9, 400, generator=generator, dtype=torch.float64)
    weight += offset - 0.9 * weight.mean(1, keepdim=True)
    if constant:
        weight[4] = 3.0  # a row of no direction
    weight = weight.t().contiguous().t()
    cotangent = torch.randn(13, 9, generator=generator, dtype=torch.float64)
    exact = both(x, weight, cotangent, centered=True, augment=augment)[2:]
    without_copy.clear()
    found = both(x.float(), weight.float(), cotangent.float(), centered=True, augment=augment)[:2]
    assert without_copy == [offset < 0.5 and not constant]
    eps = torch.finfo(torch.float32).eps
    for one, true in zip(found, exact, strict=True):
        assert (one - true).abs().max() <= 50 * eps * (1 + offset) * true.abs().max()


@pytest.mark.parametrize("density", [0.02, 0.3, 1.0])
def test_means_on_both_sides_cost_no_digits(density, passes):
    """x of many positive values, w of a mean: x·w and the product of the means nearly cancel."""
    generator = torch.Generator().manual_seed(0)
    x = 10 + torch.rand(5, 5000, generator=generator, dtype=torch.float64)
    x[torch.rand(5, 5000, generator=generator) > density] = 0
    weight = torch.randn(7, 5000, generator=generator, dtype=torch.float64) + 0.9
    weight = weight.t().contiguous().t()
    cotangent = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    exact = both(x, weight, cotangent, centered=True)[2:]
    found = both(x.float(), weight.float(), cotangent.float(), centered=True)[:2]
    eps = torch.finfo(torch.float32).eps
    assert (found[0] - exact[0]).abs().max() <= 20 * eps
    assert (found[1] - exact[1]).abs().max() <= 100 * eps * exact[1].abs().max()
