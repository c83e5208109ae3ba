"""The kernels of convolutions against unfolding in float64, in Triton's interpreter."""

from functools import partial

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
each_centering = pytest.mark.parametrize("centered", [False, True])


def _gradients(function, x: torch.Tensor, w: torch.Tensor, cotangent: torch.Tensor):
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    output = function(x, w)
    return output.detach(), *torch.autograd.grad(output, (x, w), cotangent)


@each_case
@each_centering
@pytest.mark.parametrize("augment", [0.0, 0.5])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_values_and_gradients(case: str, centered: bool, augment: float, dtype: torch.dtype):
    call, x_shape, w_shape, options = CASES[case]
    options = {"centered": centered, "augment": augment, **options}
    x, w = torch.randn(x_shape).to(dtype), torch.randn(w_shape).to(dtype)
    exact = reference.conv(x, w, **options)
    cotangent = torch.randn(exact.shape).to(dtype)
    own = _gradients(partial(call, impl="triton", **options), x, w, cotangent)
    expected = _gradients(partial(reference.conv, **options), x.double(), w.double(), cotangent.double())
    assert own[0].dtype == dtype
    assert (own[0].double() - exact).abs().max() < TOLERANCE[dtype]
    for gradient, other in zip(own[1:], expected[1:], strict=True):
        assert (gradient.double() - other).norm() < TOLERANCE[dtype] * other.norm()


@each_case
@each_centering
@pytest.mark.parametrize("augment", [0.0, 1e-4])
def test_each_field_is_exact_for_itself(case: str, centered: bool, augment: float):
    call, x_shape, w_shape, options = CASES[case]
    options = {"centered": centered, "augment": augment, **options}
    places = 10.0 ** torch.randint(-37, 37, (x_shape[0], 1, *x_shape[2:])).double()
    filters = 10.0 ** torch.randint(-37, 37, (w_shape[0], *[1] * (len(w_shape) - 1))).double()
    x, w = (torch.randn(x_shape) * places).float(), (torch.randn(w_shape) * filters).float()
    exact = reference.conv(x, w, **options)
    cotangent = torch.randn(exact.shape)
    cotangent[0] *= 1e25
    own = _gradients(partial(call, impl="triton", **options), x, w, cotangent)
    assert (own[0].double() - exact).abs().max() < 1e-6
    expected = _gradients(partial(reference.conv, **options), x.double(), w.double(), cotangent.double())
    # Each place for itself: 24 bits of what its fields give, of which one may cancel most of another.
    most = torch.finfo(torch.float32).max
    for gradient, other in zip(own[1:], expected[1:], strict=True):
        other = other.clamp(-most, most)
        assert (gradient.double() - other).norm() <= 1e-6 * other.norm()
        small = other.abs() < 1e30
        assert (gradient.double() - other)[small].norm() <= 1e-6 * other[small].norm()


@each_centering
def test_channels_last_is_read_as_it_lies(centered: bool):
    x, w, cotangent = torch.randn(2, 4, 5, 4), torch.randn(4, 2, 3, 2), torch.randn(2, 4, 5, 5)
    options = {"groups": 2, "padding": 1, "centered": centered, "impl": "triton"}
    plain = _gradients(partial(cosine_conv2d, **options), x, w, cotangent)
    last = [one.contiguous(memory_format=torch.channels_last) for one in (x, w, cotangent)]
    for own, other in zip(_gradients(partial(cosine_conv2d, **options), *last), plain, strict=True):
        assert own.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_constant_fields_and_large_means(dtype: torch.dtype):
    x, w = torch.randn(2, 3, 5, 5), torch.randn(2, 3, 2, 2)
    x[0, :, :3, :3] = 3e38 if dtype == torch.float32 else 100.0
    x[1] += 1000
    x, w = x.to(dtype), w.to(dtype)
    own = cosine_conv2d(x, w, centered=True, impl="triton")
    assert own[0, :, :2, :2].eq(0).all()
    exact = reference.conv(x[1:], w, centered=True)
    # Deviations are 1: the error grows as the mean over them.
    assert (own[1:].double() - exact).abs().max() < 4 * 1000 * torch.finfo(dtype).eps
    leaf = x.detach().requires_grad_()
    cosine_conv2d(leaf, w, centered=True, impl="triton").sum().backward()
    assert leaf.grad[0, :, :2, :2].eq(0).all()
    assert leaf.grad.isfinite().all()


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


def test_no_images():
    x, w = torch.randn(0, 1, 3, 3), torch.randn(1, 1, 2, 2)
    assert cosine_conv2d(x, w, impl="triton").shape == (0, 1, 2, 2)
