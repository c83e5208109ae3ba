"""What CosineLinear alone promises, beside test_layers.py: sizes, gradients, layouts, torch's tools."""

import pickle

import pytest
import reference
import torch
from torch import nn
from torch.nn.utils import skip_init
from torch.nn.utils.parametrizations import weight_norm

from cosnorm.nn import CosineLinear


def _gradients(layer, x, cotangent):
    inputs = [x, *layer.parameters()]
    output = layer(x)
    return output.detach(), *torch.autograd.grad(output, inputs, cotangent.to(output.dtype))


@pytest.mark.parametrize("size", [1, 63, 123])
@pytest.mark.parametrize("lead", [(), (1,), (5,), (2, 3)])
@pytest.mark.parametrize("centered", [False, True])
def test_values_and_gradients_at_awkward_sizes(size: int, lead: tuple[int, ...], centered: bool):
    augment = 0.3 if size == 1 else 0.0  # a single value less its mean is zero
    layer = CosineLinear(size, 7, True, centered=centered, augment=augment, scale=3.0)
    nn.init.normal_(layer.bias)
    x = torch.randn(*lead, size, requires_grad=True)
    cotangent = torch.randn(*lead, 7)
    own = _gradients(layer, x, cotangent)

    exact = [t.detach().double().requires_grad_() for t in (x, layer.weight, layer.bias)]
    output = 3 * reference.linear(exact[0], exact[1], centered, augment) + exact[2]
    expected = output, *torch.autograd.grad(output, exact, cotangent.double())
    for one, other in zip(own, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() < 2e-5 * max(1.0, other.abs().max().item())


@pytest.mark.parametrize("centered", [False, True])
def test_layouts_do_not_matter(centered: bool):
    layer = CosineLinear(6, 5, centered=centered)
    cotangent = torch.randn(2, 4, 5)
    x = torch.randn(2, 4, 6, requires_grad=True)
    expected = _gradients(layer, x, cotangent)
    for changed in (
        x.detach().mT.contiguous().mT,
        torch.stack([x.detach()] * 2, -1)[..., 1],
        torch.cat([x.detach()] * 2, 0)[:2],
    ):
        for one, other in zip(_gradients(layer, changed.requires_grad_(), cotangent), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    row = torch.randn(1, 1, 6)
    stretched = _gradients(layer, row.expand(2, 4, 6).requires_grad_(), cotangent)
    for one, other in zip(
        stretched, _gradients(layer, row.repeat(2, 4, 1).requires_grad_(), cotangent), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_only_what_needs_a_gradient_gets_one():
    layer, x = CosineLinear(6, 5), torch.randn(4, 6)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    layer.requires_grad_(False)
    x.requires_grad_()
    layer(x).square().sum().backward()
    assert x.grad.abs().max() > 0
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), layer(x.clone()))


@pytest.mark.parametrize("lead", [(0,), (3, 0), (0, 2)])
def test_an_empty_batch_has_gradient_zero(lead: tuple[int, ...]):
    layer = CosineLinear(6, 5, True, scale="learned")
    x = torch.empty(*lead, 6, requires_grad=True)
    layer(x).sum().backward()
    assert layer(x).shape == (*lead, 5)
    for tensor in (x, *layer.parameters()):
        assert tensor.grad.shape == tensor.shape
        assert not tensor.grad.any()


def test_gradcheck_of_everything_learned():
    layer = CosineLinear(5, 3, True, scale="learned", dtype=torch.float64)
    names = [name for name, _ in layer.named_parameters()]
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)

    def call(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    inputs = x, *layer.parameters()
    assert names == ["weight", "bias", "scale.log_scale"]
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def test_a_learned_scale_stays_positive_under_any_step():
    layer, x = CosineLinear(6, 5, scale="learned"), torch.randn(4, 6)
    optimizer = torch.optim.SGD(layer.parameters(), lr=100.0)
    for _ in range(5):
        optimizer.zero_grad()
        layer(x).sum().square().backward()
        layer.scale.log_scale.grad.clamp_(-0.01, 0.01)
        optimizer.step()
        assert layer.scale(torch.ones(())) > 0


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [None, 2.0, "learned"])
def test_checkpoints_both_ways_and_round_trip(bias: bool, scale):
    plain, layer = nn.Linear(6, 5, bias), CosineLinear(6, 5, bias, scale=scale)
    state = plain.state_dict()
    layer.load_state_dict(state)
    assert list(state) == list(plain.state_dict())  # loading adds nothing to the checkpoint
    torch.testing.assert_close(
        dict(plain.named_parameters()), {n: p for n, p in layer.named_parameters() if "scale" not in n}
    )
    twin = CosineLinear(6, 5, bias, scale=scale)
    twin.load_state_dict(pickle.loads(pickle.dumps(layer.state_dict())))
    x = torch.randn(4, 6)
    assert torch.equal(twin(x), layer(x))
    found = plain.load_state_dict(layer.state_dict(), strict=False)
    assert not found.missing_keys
    assert found.unexpected_keys == (["scale.log_scale"] if scale == "learned" else [])
    model = nn.Sequential(nn.ReLU(), CosineLinear(6, 5, bias, scale=scale))
    model.load_state_dict(nn.Sequential(nn.ReLU(), plain).state_dict())
    torch.testing.assert_close(model[1].weight, plain.weight)


def test_torchs_own_tools_take_the_layer():
    x = torch.randn(4, 6)
    layer = skip_init(CosineLinear, 6, 5, scale="learned")
    layer.reset_parameters()
    assert layer(x).isfinite().all()
    layer = CosineLinear(6, 5)
    before = layer(x)
    normed = weight_norm(layer)
    torch.testing.assert_close(normed(x), before)
    normed(x).square().sum().backward()
    assert CosineLinear(6, 5, device="meta").to_empty(device="cpu").weight.device.type == "cpu"


def test_an_ensemble_by_vmap_over_weights():
    layers = [CosineLinear(6, 5, True, centered=True) for _ in range(3)]
    stacked, _ = torch.func.stack_module_state(layers)
    x = torch.randn(4, 6)

    def call(parameters, x):
        return torch.func.functional_call(layers[0], parameters, (x,))

    together = torch.func.vmap(call, in_dims=(0, None))(stacked, x)
    torch.testing.assert_close(together, torch.stack([layer(x) for layer in layers]))


@pytest.mark.slow
def test_compile_with_dynamic_shapes():
    torch._dynamo.reset()
    layer = CosineLinear(6, 5, True, augment=0.1, scale="learned")
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    for rows in (3, 7, 1):
        x, cotangent = torch.randn(rows, 6, requires_grad=True), torch.randn(rows, 5)
        for one, other in zip(
            _gradients(compiled, x, cotangent), _gradients(layer, x, cotangent), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
