"""The kernels of convolutions against unfolding in float64, in Triton's interpreter."""

import pytest
import reference
import torch

pytest.importorskip("triton", reason="triton is not installed")

from cosnorm.functional import cosine_conv1d, cosine_conv2d, cosine_conv3d
from cosnorm.nn import CosineConv2d

CASES = {
    "1d": (cosine_conv1d, (2, 3, 7), (3, 3, 2), {"stride": 2}),
    "2d": (cosine_conv2d, (2, 4, 5, 4), (4, 2, 3, 2), {"groups": 2, "padding": 1}),
    "dilated": (cosine_conv2d, (2, 2, 6, 5), (3, 2, 2, 2), {"dilation": 2}),
    "3d": (cosine_conv3d, (1, 2, 3, 3, 2), (2, 2, 2, 2, 2), {}),
}
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1.6e-2, torch.float16: 1e-3}
each_case = pytest.mark.parametrize("case", CASES)


@each_case
@pytest.mark.parametrize("augment", [0.0, 0.5])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_values(case: str, augment: float, dtype: torch.dtype):
    call, x_shape, w_shape, options = CASES[case]
    x, w = torch.randn(x_shape).to(dtype), torch.randn(w_shape).to(dtype)
    own = call(x, w, augment=augment, impl="triton", **options)
    assert own.dtype == dtype
    assert (own.double() - reference.conv(x, w, augment=augment, **options)).abs().max() < TOLERANCE[dtype]


@each_case
def test_each_field_is_exact_for_itself(case: str):
    call, x_shape, w_shape, options = CASES[case]
    places = 10.0 ** torch.randint(-37, 37, (x_shape[0], 1, *x_shape[2:])).double()
    filters = 10.0 ** torch.randint(-37, 37, (w_shape[0], *[1] * (len(w_shape) - 1))).double()
    x, w = (torch.randn(x_shape) * places).float(), (torch.randn(w_shape) * filters).float()
    own = call(x, w, impl="triton", **options)
    assert (own.double() - reference.conv(x, w, **options)).abs().max() < 1e-6


def test_zero_fields_bounds_and_nan():
    x, w = torch.zeros(1, 1, 4, 4), torch.randn(2, 1, 2, 2)
    x[..., 2:, 2:] = w[:1]
    output = cosine_conv2d(x, w, impl="triton")
    assert output[0, :, 0, 0].eq(0).all()
    assert output.abs().max() <= 1
    assert output[0, 0, 2, 2] >= 1 - 5e-7
    for bad in (torch.nan, torch.inf):
        x[0, 0, 0, 0] = bad
        spoiled = cosine_conv2d(x, w, impl="triton")
        assert spoiled[..., 0, 0].isnan().all()
        assert torch.equal(spoiled[..., 1:, :], output[..., 1:, :])


def test_gradients_compiling_and_layouts():
    layer = CosineConv2d(4, 4, 2, padding=1, groups=2, impl="triton")
    x = torch.randn(2, 4, 3, 3, requires_grad=True)
    cotangent = torch.randn(2, 4, 4, 4)
    found = []
    for call in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        for change in (lambda t: t, lambda t: t.contiguous(memory_format=torch.channels_last)):
            output = call(change(x))
            found.append((output, *torch.autograd.grad(output, (x, layer.weight), cotangent)))
    layer.impl = "torch"
    output = layer(x)
    expected = output, *torch.autograd.grad(output, (x, layer.weight), cotangent)
    for one in found:
        for own, other in zip(one, expected, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


def test_maps_over_samples_and_filters():
    xs, ws = torch.randn(2, 1, 2, 3, 3), torch.randn(2, 2, 2, 2, 2)
    mapped = torch.func.vmap(lambda x, w: cosine_conv2d(x, w, impl="triton"))(xs, ws)
    each = [cosine_conv2d(x, w) for x, w in zip(xs, ws, strict=True)]
    torch.testing.assert_close(mapped, torch.stack(each), rtol=0, atol=1e-6)


def test_what_has_no_kernel():
    x, w = torch.randn(1, 1, 3, 3), torch.randn(1, 1, 2, 2)
    with pytest.raises(RuntimeError, match="no kernel for centered convolutions"):
        cosine_conv2d(x, w, centered=True, impl="triton")
    assert cosine_conv2d(x[:0], w, impl="triton").shape == (0, 1, 2, 2)
