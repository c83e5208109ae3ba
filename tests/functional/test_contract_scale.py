"""Clause 1: a result equals exact arithmetic on the stored inputs over the whole range of the dtype."""

import pytest
import reference
import torch
from operations import Operation, every_operation, every_operation_and_dtype, value_and_gradients

from cosnorm import functional


def _spread(operation: Operation, x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """One power of ten for each sample, from 10^low to 10^high."""
    scales = torch.logspace(low, high, x.shape[0], dtype=torch.float64)
    return scales.reshape(-1, *[1] * (x.ndim - 1))


def _check(operation: Operation, x, y, x_scale, y_scale, tolerance: float) -> None:
    """Values, and gradients times the magnitude of their rows, against the float64 formula."""
    output, *gradients = value_and_gradients(operation.call, x, y, operation.cotangent)
    expected, *expected_gradients = value_and_gradients(
        operation.reference, x.double(), y.double(), operation.cotangent
    )
    assert (output.double() - expected).abs().max() < tolerance
    for gradient, exact, scale in zip(gradients, expected_gradients, (x_scale, y_scale), strict=True):
        limit = torch.finfo(x.dtype).max
        assert not gradient.isnan().any()
        assert ((gradient.double() - exact.clamp(-limit, limit)) * scale).abs().max() < 20 * tolerance


@every_operation
@pytest.mark.parametrize("weights_too", [False, True], ids=["x", "both"])
def test_float32_rows_of_one_batch_span_1e_38_to_1e38(operation: Operation, weights_too: bool):
    x, y = operation.inputs()
    x_scale = _spread(operation, x, -37, 37)
    y_scale = _spread(operation, y, 37, -37) if weights_too else torch.ones(())
    x, y = (x * x_scale).float(), (y * y_scale).float()
    _check(operation, x, y, x_scale, y_scale, 1e-6)


@every_operation
def test_float32_subnormal_rows(operation: Operation):
    x, y = operation.inputs()
    x = (x.double() * 1e-42).float()
    assert 0 < x.abs().max() < torch.finfo(torch.float32).smallest_normal
    _check(operation, x, y, 1e-42, 1.0, 1e-6)


@every_operation
def test_float16_rows_span_its_range(operation: Operation):
    x, y = operation.inputs()
    x_scale = _spread(operation, x, -5, 4)
    x, y = (x * x_scale).half(), (3000 * y).half()
    output = operation.call(x, y)
    assert (output.double() - operation.reference(x, y)).abs().max() < 1e-3


@every_operation
def test_bfloat16_rows_span_its_range(operation: Operation):
    x, y = operation.inputs()
    x, y = (x * _spread(operation, x, -37, 37)).bfloat16(), (1e30 * y).bfloat16()
    output = operation.call(x, y)
    # A sample of seven fields may hold a centered one that bfloat16 calls constant: none does here.
    assert (output.double() - operation.reference(x, y)).abs().max() < 1.6e-2


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("augment", [0.0, 1e-4])
def test_float64_against_mpmath(centered: bool, augment: float):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 5, dtype=torch.float64, generator=generator)
    x *= torch.tensor([5e-324, 1e-310, 1e-160, 1.0, 1e-3, 1e150, 1e307], dtype=torch.float64).unsqueeze(1)
    w = torch.randn(3, 5, dtype=torch.float64, generator=generator)
    w *= torch.tensor([1e-200, 1.0, 1e300], dtype=torch.float64).unsqueeze(1)
    output = functional.cosine_linear(x, w, centered=centered, augment=augment)
    paired = functional.pairwise_cosine(x, w, centered=centered)
    for row, values in enumerate(x.tolist()):
        for column, weights in enumerate(w.tolist()):
            if centered and row == 0:
                continue  # multiples of the smallest number: their mean is no float64
            exact = reference.exact_cosine(values, weights, centered, augment)
            assert output[row, column].item() == pytest.approx(exact, abs=1e-15)
            exact = reference.exact_cosine(values, weights, centered)
            assert paired[row, column].item() == pytest.approx(exact, abs=1e-15)


@pytest.mark.parametrize("magnitude", [1e-320, 1e-200, 1.0, 1e200, 1e307])
@pytest.mark.parametrize("cotangent", [1e-300, 1.0, 1e300])
def test_float64_gradient_against_mpmath(magnitude: float, cotangent: float):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, dtype=torch.float64, generator=generator) * magnitude
    y = torch.randn(5, dtype=torch.float64, generator=generator)
    x.requires_grad_()
    functional.cosine_similarity(x, y, dim=-1).backward(torch.tensor(cotangent, dtype=torch.float64))
    exact = torch.tensor(reference.exact_gradient(x.tolist(), y.tolist(), cotangent), dtype=torch.float64)
    limit = torch.finfo(torch.float64).max
    smallest = 4 * 5e-324
    torch.testing.assert_close(x.grad, exact.clamp(-limit, limit), rtol=1e-13, atol=smallest)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("centered", [False, True])
def test_each_receptive_field_for_itself(rank: int, centered: bool):
    """Fields of 1e-36 and of 1e36 lie in one image."""
    torch.manual_seed(1)  # one whose mean is negative: a shift of the wrong sign once ate its small fields
    x, w = torch.randn(2, 3, *[12] * rank), torch.randn(4, 3, *[2] * rank)
    scale = torch.logspace(-36, 36, 12)
    x = x * scale
    call = getattr(functional, f"cosine_conv{rank}d")
    expected, *exact = value_and_gradients(
        lambda x, w: reference.conv(x, w, centered=centered), x.double(), w.double(), torch.ones_like
    )
    output, *gradients = value_and_gradients(
        lambda x, w: call(x, w, centered=centered), x, w, torch.ones_like
    )
    assert (output - expected).abs().max() < 1e-6
    assert ((gradients[0] - exact[0]) * scale).abs().max() < 1e-4
    assert (gradients[1] - exact[1]).abs().max() < 1e-4 * exact[1].abs().max()


@every_operation
def test_a_power_of_two_changes_no_bit(operation: Operation):
    x, y = operation.inputs()
    assert torch.equal(operation.call(x, y), operation.call(x * 2.0**20, y * 2.0**-9))


@every_operation_and_dtype
def test_gradients_beyond_the_range_saturate(operation: Operation, dtype: torch.dtype):
    if dtype == torch.float16:
        pytest.skip("float16 goes to inf: the next test")
    x, y = operation.inputs(dtype=dtype)
    tiny = torch.finfo(dtype).smallest_normal
    _, gradient, _ = value_and_gradients(operation.call, x * tiny, y, lambda o: 1e6 * operation.cotangent(o))
    assert gradient.isfinite().all()
    assert gradient.abs().max() == torch.finfo(dtype).max


@every_operation
def test_float16_gradients_beyond_the_range_are_inf(operation: Operation):
    x, y = operation.inputs()
    x = (x * 1e-6).half()
    _, gradient, _ = value_and_gradients(operation.call, x, y.half(), lambda o: 100 * operation.cotangent(o))
    assert gradient.isinf().any()
    assert not gradient.isnan().any()


@every_operation
def test_scaled_and_plain_forms_agree(operation: Operation):
    """One row outside the window sends the whole batch through the other form."""
    x, y = operation.inputs()
    extreme = torch.cat([x, x[:1] * 1e-36])
    y_extreme = torch.cat([y, y[:1]]) if operation.name.startswith("similarity") else y
    torch.testing.assert_close(
        operation.call(extreme, y_extreme)[:-1], operation.call(x, y), rtol=0, atol=5e-7
    )


def test_pairwise_never_makes_an_n_by_m_by_d_tensor():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(tensor, torch.Tensor):
                    self.numel = max(self.numel, tensor.numel())
            return result

    x, y = torch.randn(50, 40, requires_grad=True), torch.randn(60, 40, requires_grad=True)
    with Largest() as seen:
        functional.pairwise_cosine(x, y).sum().backward()
    assert seen.numel == 50 * 60
    with Largest() as seen:
        (x[:, None] * y[None]).sum()
    assert seen.numel == 50 * 60 * 40
