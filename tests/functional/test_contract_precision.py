"""Clause 4: dtypes, accumulation in float32, and errors beside the naive computation in the same dtype."""

import pytest
import reference
import torch
from operations import DTYPES, Operation, every_operation_and_dtype
from torch.nn import functional as F

from cosnorm import functional


@every_operation_and_dtype
def test_the_dtype_stays(operation: Operation, dtype: torch.dtype):
    x, y = (tensor.requires_grad_() for tensor in operation.inputs(dtype=dtype))
    output = operation.call(x, y)
    output.sum().backward()
    assert output.dtype == x.grad.dtype == y.grad.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size", "centered"),
    # Short centered rows are often constant by the rule of clause 3: its tests hold them.
    [
        (1, False),
        *((size, centered) for size in (63, 123, 507, 4099) for centered in (False, True)),
    ],
)
def test_error_is_that_of_the_naive_formula_and_a_few_eps(dtype: torch.dtype, size: int, centered: bool):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(63, size, generator=generator, dtype=torch.float64).to(dtype)
    w = torch.randn(37, size, generator=generator, dtype=torch.float64).to(dtype)
    exact = reference.linear(x, w, centered)
    centered_x, centered_w = (t - t.mean(-1, keepdim=True) if centered else t for t in (x, w))
    naive = F.linear(F.normalize(centered_x, dim=-1), F.normalize(centered_w, dim=-1))
    own_error = (functional.cosine_linear(x, w, centered=centered).double() - exact).abs().max()
    naive_error = (naive.double() - exact).abs().max()
    assert own_error <= naive_error + 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_accumulate_in_float32(dtype: torch.dtype):
    """65,536 ones: a sum in float16 overflows, one in bfloat16 stops at 256."""
    ones = torch.ones(2, 65_536, dtype=dtype)
    assert functional.cosine_similarity(ones, ones).eq(1).all()
    assert functional.cosine_linear(ones, ones).eq(1).all()
    image = ones[:, :32_800].unsqueeze(0)  # few places: torch's own convolution in bfloat16 is slow
    assert functional.cosine_conv1d(image, ones[:, :32_768].unsqueeze(0)).eq(1).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_autocast_gives_the_dtype_of_torchs_own_operation(dtype: torch.dtype):
    x, w = torch.randn(6, 5).to(dtype), torch.randn(4, 5).to(dtype)
    image, filters = torch.randn(2, 3, 6, 6).to(dtype), torch.randn(4, 3, 2, 2).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert functional.cosine_linear(x, w).dtype == F.linear(x, w).dtype
        assert functional.cosine_conv2d(image, filters).dtype == F.conv2d(image, filters).dtype
        assert functional.pairwise_cosine(x, w).dtype == (x @ w.T).dtype
        assert functional.cosine_similarity(x, x).dtype == F.cosine_similarity(x, x).dtype


def test_autocast_reaches_the_gradients():
    x, w = torch.randn(63, 123), torch.randn(37, 123, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = functional.cosine_linear(x, w)
    output.float().square().sum().backward()
    assert w.grad.dtype == torch.float32
    exact = torch.autograd.grad(reference.linear(x, w).square().sum(), w)[0]
    assert (w.grad - exact).abs().max() < 0.02 * exact.abs().max()
    # Inside our own formulas autocast is off: float64 stays float64.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        exact = functional.cosine_linear(x.double(), w.double())
    assert (exact - reference.linear(x, w)).abs().max() < 1e-15
