"""Cosines by 8-bit products: their error, their exactness at every scale, their gradient."""

import pytest
import reference
import torch

from cosnorm.backends.torch.fp8 import DTYPE, quantize
from cosnorm.functional import cosine_linear
from cosnorm.nn import CosineLinear


@pytest.mark.parametrize("size", [16, 64, 1024])
@pytest.mark.parametrize("centered", [False, True])
def test_the_error_that_the_docstring_states(size: int, centered: bool):
    x, w = torch.randn(300, size), torch.randn(200, size)
    own = cosine_linear(x, w, centered=centered, precision="fp8")
    error = own.double() - reference.linear(x, w, centered)
    assert 0.02 < error.std() * size**0.5 < 0.042
    assert abs(error.mean()) < 1e-3 / size**0.5


def test_the_product_is_that_of_the_rounded_rows():
    """What the hardware gets: rounded rows and scales, by a formula of their own."""
    x, w = torch.randn(7, 63), torch.randn(5, 63)
    rounded = [(t * (448 / t.abs().amax(1, keepdim=True))).to(DTYPE).double() for t in (x, w)]
    scales = [
        t.double().abs().amax(1, keepdim=True) / 448 / t.double().norm(dim=1, keepdim=True) for t in (x, w)
    ]
    expected = rounded[0] @ rounded[1].T * scales[0] * scales[1].T
    assert (cosine_linear(x.float(), w.float(), precision="fp8") - expected).abs().max() < 1e-6


def test_small_components_live():
    """To normalize first and round then would lose what is below 2^-9 of the norm."""
    x = torch.ones(1, 2**21)
    assert (x / x.norm()).to(DTYPE).eq(0).all()
    assert cosine_linear(1e-3 * x, x, precision="fp8").item() == pytest.approx(1, abs=1e-5)


def test_components_of_a_ten_thousandth_of_the_largest_are_normal_numbers():
    x, w = torch.full((1, 64), 1e-4), torch.ones(1, 64)
    x[0, 0], w[0, 0] = 1, 0
    exact = reference.linear(x, w).item()
    assert cosine_linear(x, w, precision="fp8").item() == pytest.approx(exact, rel=2**-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_scale_zero_and_nan(dtype: torch.dtype):
    x, w = torch.randn(5, 63, dtype=dtype), torch.randn(4, 63, dtype=dtype)
    expected = cosine_linear(x, w, precision="fp8")
    powers = 2.0 ** torch.tensor([-100, -30, 0, 50, 90], dtype=dtype).unsqueeze(1)
    assert torch.equal(cosine_linear(x * powers, w, precision="fp8"), expected)
    x[1], x[2, 3] = 0, torch.nan
    output = cosine_linear(x, w, precision="fp8")
    assert output.dtype == dtype
    assert output[1].eq(0).all()
    assert output[2].isnan().all()
    assert torch.equal(output[3:], expected[3:])
    assert cosine_linear(w, w, precision="fp8").max() <= 1


@pytest.mark.parametrize("augment", [0.0, 0.5])
@pytest.mark.parametrize("centered", [False, True])
def test_the_gradient_is_that_of_the_rows_as_they_are(augment: float, centered: bool):
    x, w = torch.randn(7, 63, requires_grad=True), torch.randn(5, 63, requires_grad=True)
    cotangent = torch.randn(7, 5)
    options = {"centered": centered, "augment": augment}
    own = torch.autograd.grad(cosine_linear(x, w, precision="fp8", **options), (x, w), cotangent)
    exact = torch.autograd.grad(reference.linear(x, w, **options), (x, w), cotangent.double())
    for one, other in zip(own, exact, strict=True):
        assert (one - other).abs().max() < 1e-6
    assert quantize(x, **options).values.dtype == DTYPE


def test_a_layer_in_eight_bits_learns():
    layer = CosineLinear(16, 3, scale=10.0, precision="fp8")
    assert "precision='fp8'" in repr(layer)
    x, labels = torch.randn(60, 16), torch.arange(60) % 3
    x[:, :3] += 2 * torch.nn.functional.one_hot(labels)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(layer(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3


def test_it_compiles():
    layer = CosineLinear(16, 3, precision="fp8")
    x = torch.randn(4, 16)
    assert torch.equal(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), layer(x))


def test_errors():
    x, w = torch.randn(2, 5), torch.randn(3, 5)
    with pytest.raises(ValueError, match="precision must be None or \"fp8\", got 'fp4'"):
        cosine_linear(x, w, precision="fp4")
    with pytest.raises(TypeError, match="precision must be None or a string, got int"):
        CosineLinear(5, 3, precision=8)
    with pytest.raises(ValueError, match="a sparse x has no precision"):
        cosine_linear(x.to_sparse_csr(), w, precision="fp8")
