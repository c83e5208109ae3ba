"""What the convolutional layers alone promise, beside test_layers.py: padding, groups, layouts, kernels."""

import pytest
import reference
import torch
from torch import nn
from torch.nn import functional as F

from cosnorm.nn import CosineConv1d, CosineConv2d, CosineConv3d

LAYERS = {1: (CosineConv1d, nn.Conv1d), 2: (CosineConv2d, nn.Conv2d), 3: (CosineConv3d, nn.Conv3d)}
each_rank = pytest.mark.parametrize("rank", [1, 2, 3])
MODES = [(mode, rank) for rank in (1, 2, 3) for mode in ("zeros", "reflect", "replicate", "circular")]


def _gradients(function, inputs, cotangent):
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    output = function(*inputs)
    return output.detach(), *torch.autograd.grad(output, inputs, cotangent.to(output.dtype))


def _compare(own, expected, tolerance: float = 2e-5) -> None:
    for one, other in zip(own, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() < tolerance * max(1.0, other.abs().max().item())


def _call(layer, weight, x):
    return torch.func.functional_call(layer, {"weight": weight}, (x,))


@pytest.mark.parametrize(("mode", "rank"), MODES)
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("centered", [False, True])
def test_padding_modes_as_torch_pads(mode: str, rank: int, batched: bool, centered: bool):
    own, torchs = LAYERS[rank]
    padding = (2, 1, 0)[:rank]
    options = {"padding": padding, "padding_mode": mode, "stride": 2}
    layer = own(3, 4, 3, centered=centered, **options)
    x = torch.randn(2, 3, *(5, 6, 4)[:rank])
    x = x if batched else x[0]
    shape = torchs(3, 4, 3, **options)(x).shape
    cotangent = torch.randn(shape)
    amounts = [amount for size in reversed(padding) for amount in (size, size)]

    def plain(weight, x):
        batch = x if batched else x.unsqueeze(0)
        padded = F.pad(batch, amounts, mode="constant" if mode == "zeros" else mode)
        output = reference.conv(padded, weight, 2, centered=centered)
        return output if batched else output.squeeze(0)

    mine = _gradients(lambda w, x: _call(layer, w, x), (layer.weight, x), cotangent)
    _compare(mine, _gradients(plain, (layer.weight.double(), x.double()), cotangent))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular"])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("kernel", [(2, 3), (4, 1), (2, 2)])
def test_same_padding_of_even_kernels(mode: str, dilation: int, kernel: tuple[int, int]):
    layer = CosineConv2d(3, 4, kernel, padding="same", dilation=dilation, padding_mode=mode)
    plain = nn.Conv2d(3, 4, kernel, padding="same", dilation=dilation, padding_mode=mode, bias=False)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3, 11, 12)
    assert layer(x).shape == plain(x).shape == (2, 4, 11, 12)
    # The reference gets the padding that torch's own layer is seen to use.
    total = [dilation * (k - 1) for k in kernel]
    amounts = [side for size in reversed(total) for side in (size // 2, size - size // 2)]
    padded = F.pad(x, amounts, mode="constant" if mode == "zeros" else mode)
    torch.testing.assert_close(F.conv2d(padded, layer.weight, dilation=dilation), plain(x))
    assert (layer(x) - reference.conv(padded, layer.weight, dilation=dilation)).abs().max() < 2e-6


@each_rank
@pytest.mark.parametrize(("channels", "groups"), [(3, 1), (4, 2), (4, 4)])
@pytest.mark.parametrize("centered", [False, True])
def test_groups_strides_beyond_the_kernel_and_augment(rank: int, channels: int, groups: int, centered: bool):
    layer = LAYERS[rank][0](channels, 8 if groups > 1 else 5, 2, 3, 1, groups=groups, centered=centered)
    layer.augment = 0.2
    x = torch.randn(2, channels, *[7] * rank)
    cotangent = torch.randn_like(layer(x))
    mine = _gradients(lambda w, x: _call(layer, w, x), (layer.weight, x), cotangent)
    exact = _gradients(
        lambda w, x: reference.conv(x, w, 3, 1, 1, groups, centered, 0.2),
        (layer.weight.double(), x.double()),
        cotangent,
    )
    _compare(mine, exact)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("centered", [False, True])
def test_layouts_do_not_matter(groups: int, centered: bool):
    layer = CosineConv2d(4, 6, (3, 2), padding=1, groups=groups, centered=centered)
    x = torch.randn(3, 4, 6, 5)
    cotangent = torch.randn_like(layer(x))
    expected = _gradients(lambda w, x: _call(layer, w, x), (layer.weight, x), cotangent)
    last = torch.channels_last
    for change in (
        lambda t: t.contiguous(memory_format=last),
        lambda t: t.mT.contiguous().mT,
        lambda t: torch.stack([t, t], -1)[..., 0],
    ):
        found = _gradients(
            lambda w, x: _call(layer, w, x), (change(layer.weight), change(x)), change(cotangent)
        )
        _compare(found, expected, 5e-6)
    _compare(_gradients(lambda x: layer.to(memory_format=last)(x), (x,), cotangent)[1:], expected[2:], 5e-6)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("groups", [1, 3])
def test_the_output_has_the_order_of_torchs(dtype: torch.dtype, centered: bool, groups: int):
    """A network made channels last is so from its first layer on, whose images are not; folded, too."""
    layer = CosineConv2d(3, 6, 3, groups=groups, centered=centered, dtype=dtype)
    x, cotangent = torch.randn(2, 3, 8, 9, dtype=dtype), torch.randn(2, 6, 6, 7, dtype=dtype)
    expected = _gradients(lambda w, x: _call(layer, w, x), (layer.weight, x), cotangent)
    layer = layer.to(memory_format=torch.channels_last)
    torchs = nn.Conv2d(3, 6, 3, groups=groups, dtype=dtype).to(memory_format=torch.channels_last)
    if groups == 1:
        for network in (layer, layer.fold()):
            assert network(x).stride() == torchs(x).stride()
    _compare(_gradients(lambda w, x: _call(layer, w, x), (layer.weight, x), cotangent), expected)
    torch.testing.assert_close(layer.fold()(x), expected[0])
    assert layer(x[0]).shape == (6, 6, 7)


@each_rank
def test_an_empty_batch_has_gradient_zero(rank: int):
    layer = LAYERS[rank][0](4, 6, 3, groups=2, bias=True, scale="learned")
    x = torch.empty(0, 4, *[5] * rank, requires_grad=True)
    layer(x).sum().backward()
    assert layer(x).shape == (0, 6, *[3] * rank)
    for tensor in (x, *layer.parameters()):
        assert tensor.grad.shape == tensor.shape
        assert not tensor.grad.any()


@each_rank
@pytest.mark.parametrize("bias", [False, True])
def test_checkpoints_both_ways(rank: int, bias: bool):
    own, torchs = LAYERS[rank]
    plain, layer = torchs(4, 6, 3, bias=bias), own(4, 6, 3, bias=bias, scale="learned")
    with torch.no_grad():
        layer.scale.log_scale.fill_(0.5)
    layer.load_state_dict(plain.state_dict())
    assert layer.scale.log_scale == 0.5
    assert torch.equal(layer.weight, plain.weight)
    assert bias is (layer.bias is not None)
    plain.load_state_dict(own(4, 6, 3, bias=bias).state_dict())


@each_rank
@pytest.mark.parametrize("kernel", [1, 3])
def test_the_paddings_values_count_as_zeros_at_the_border(rank: int, kernel: int):
    """All ones: inside, the fields are equal to all-ones filters; at the border part of them is zero."""
    layer = LAYERS[rank][0](1, 1, kernel, padding=kernel // 2)
    nn.init.ones_(layer.weight)
    output = layer(torch.ones(1, 1, *[5] * rank))
    assert output[(0, 0, *[2] * rank)].item() == pytest.approx(1, abs=1e-6)
    inside = (2 / 3) ** rank if kernel == 3 else 1.0
    assert output[(0, 0, *[0] * rank)].item() == pytest.approx(inside**0.5, abs=1e-6)


@each_rank
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("centered", [False, True])
def test_what_is_not_finite_leaves_the_other_fields_of_its_sample(rank, dtype, value, centered: bool):
    layer = LAYERS[rank][0](2, 3, 3, centered=centered, dtype=dtype)
    x = torch.randn(2, 2, *[7] * rank).to(dtype)
    spoiled = x.clone()
    spoiled[(0, 1, *[0] * rank)] = value
    corner = (0, slice(None), *[0] * rank)
    expected = layer(x)
    expected[corner] = torch.nan
    output = layer(spoiled)
    assert output[corner].isnan().all()
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(output, expected, rtol=0, atol=20 * eps, equal_nan=True)
    # Only what shares a field with the bad value gets a gradient that is not a number.
    one, other = (tensor.requires_grad_() for tensor in (spoiled, x))
    cotangent = torch.randn_like(output)
    found, right = (torch.autograd.grad(layer(t), t, cotangent)[0] for t in (one, other))
    beyond = (slice(None), slice(None), slice(3, None))
    torch.testing.assert_close(found[beyond], right[beyond], rtol=0, atol=50 * eps)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_compile_of_channels_last_with_dynamic_shapes(mode: str):
    torch._dynamo.reset()
    layer = CosineConv2d(4, 6, 3, padding=1, groups=2, padding_mode=mode, augment=0.1)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    for samples, size in ((2, 6), (3, 8)):
        x = torch.randn(samples, 4, size, size).contiguous(memory_format=torch.channels_last)
        cotangent = torch.randn_like(layer(x))
        found = _gradients(compiled, (x,), cotangent)
        _compare(found, _gradients(layer, (x,), cotangent), 1e-5)
