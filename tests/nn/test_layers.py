"""CosineLinear and CosineConv: formula, options, checkpoints, copies, transforms, compile, export."""

import copy
import inspect
import pickle

import pytest
import reference
import torch
from torch import nn
from torch.nn import functional as F

from cosnorm.convert import decompose
from cosnorm.nn import CosineConv1d, CosineConv2d, CosineConv3d, CosineLinear

CONVS = [(CosineConv1d, nn.Conv1d, 1), (CosineConv2d, nn.Conv2d, 2), (CosineConv3d, nn.Conv3d, 3)]
each_conv = pytest.mark.parametrize(("ours", "torchs", "rank"), CONVS, ids=["1d", "2d", "3d"])
SCALES = [None, 7.5, "learned"]


def _layers() -> list[tuple[nn.Module, nn.Module, torch.Tensor]]:
    """Ours, torch's, and an input."""
    found = [(CosineLinear(6, 5, bias=True), nn.Linear(6, 5), torch.randn(4, 6))]
    for ours, torchs, rank in CONVS:
        x = torch.randn(2, 4, *[6] * rank)
        found.append((ours(4, 6, 3, groups=2, bias=True), torchs(4, 6, 3, groups=2), x))
    return found


every_layer = pytest.mark.parametrize("index", range(4), ids=["linear", "conv1d", "conv2d", "conv3d"])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("augment", [0.0, 0.5])
def test_linear_is_scale_times_cosine_plus_bias(scale, bias, centered, augment):
    layer = CosineLinear(63, 7, bias, centered=centered, augment=augment, scale=scale)
    if bias:
        nn.init.normal_(layer.bias)
    x = torch.randn(5, 63)
    factor = {None: 1.0, "learned": 10.0}.get(scale, scale)
    expected = factor * reference.linear(x, layer.weight, centered, augment)
    expected = expected + layer.bias if bias else expected
    assert (layer(x) - expected).abs().max() < 1e-5


@each_conv
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("centered", [False, True])
def test_conv_is_scale_times_cosine_plus_bias(ours, torchs, rank, scale, centered):
    layer = ours(4, 6, 3, 2, 1, 1, 2, True, centered=centered, augment=0.1, scale=scale)
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 4, *[7] * rank)
    factor = {None: 1.0, "learned": 10.0}.get(scale, scale)
    expected = factor * reference.conv(x, layer.weight, 2, 1, 1, 2, centered, 0.1)
    expected = expected + layer.bias.reshape(-1, *[1] * rank)
    assert (layer(x) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [2, "same"])
def test_padding_modes(mode: str, padding):
    layer = CosineConv2d(3, 4, (3, 4), padding=padding, padding_mode=mode, dilation=1)
    plain = nn.Conv2d(3, 4, (3, 4), padding=padding, padding_mode=mode, bias=False)
    x = torch.randn(2, 3, 7, 8)
    amounts = [1, 2, 1, 1] if padding == "same" else [2] * 4
    padded = F.pad(x, amounts, mode="constant" if mode == "zeros" else mode)
    assert (layer(x) - reference.conv(padded, layer.weight)).abs().max() < 1e-6
    assert layer(x).shape == plain(x).shape


@every_layer
def test_constructors_take_torchs_arguments_in_torchs_order(index: int):
    ours, torchs, _ = _layers()[index]
    own = inspect.signature(type(ours)).parameters
    names = list(inspect.signature(type(torchs)).parameters)
    assert list(own)[: len(names)] == names
    extra = {name: own[name] for name in list(own)[len(names) :]}
    assert set(extra) - {"precision"} == {"centered", "augment", "scale", "impl"}
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in extra.values())
    assert own["bias"].default is False
    assert isinstance(ours, type(torchs))


@every_layer
def test_checkpoints_of_torchs_layers_load(index: int):
    ours, torchs, _ = _layers()[index]
    ours.load_state_dict(torchs.state_dict())
    assert torch.equal(ours.weight, torchs.weight)
    torchs.load_state_dict(ours.state_dict())
    learned = CosineLinear(6, 5, bias=True, scale="learned")
    with torch.no_grad():
        learned.scale.log_scale.fill_(0.25)
    learned.load_state_dict(nn.Linear(6, 5).state_dict())
    assert learned.scale.log_scale == 0.25
    again = CosineLinear(6, 5, bias=True, scale="learned")
    again.load_state_dict(learned.state_dict())
    assert again.scale.log_scale == 0.25
    with pytest.raises(RuntimeError, match="bias"):
        CosineLinear(6, 5).load_state_dict(nn.Linear(6, 5).state_dict())


@every_layer
def test_copies_and_repr(index: int):
    layer, _, x = _layers()[index]
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))
        assert twin.weight is not layer.weight
    assert "centered=False, augment=0.0" in repr(layer)


@every_layer
def test_an_optimizer_step_lowers_the_loss(index: int):
    layer, _, x = _layers()[index]
    target = layer(x).detach().roll(1, 0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        loss = (layer(x) - target).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]


def test_a_learned_scale_is_positive_and_has_the_right_gradient():
    layer = CosineLinear(6, 5, scale="learned", dtype=torch.float64)
    x = torch.randn(4, 6, dtype=torch.float64)
    layer(x).sum().backward()
    assert layer.scale.log_scale.grad.item() == pytest.approx(layer(x).sum().item())
    with torch.no_grad():
        layer.scale.log_scale.fill_(-50.0)
    assert layer.scale(torch.ones(())) > 0
    layer.reset_parameters()
    assert layer.scale.log_scale.exp().item() == pytest.approx(10)


@every_layer
def test_in_place_relu_channels_last_and_unbatched(index: int):
    layer, _, x = _layers()[index]
    one = torch.autograd.grad(layer(x).relu_().square().sum(), layer.weight)[0]
    two = torch.autograd.grad(layer(x).relu().square().sum(), layer.weight)[0]
    assert torch.equal(one, two)
    torch.testing.assert_close(layer(x[0]), layer(x)[0], rtol=1e-5, atol=1e-6)
    if x.ndim == 4:
        torch.testing.assert_close(layer(x.contiguous(memory_format=torch.channels_last)), layer(x))
    empty = x[:0].requires_grad_()
    layer(empty).sum().backward()
    assert empty.grad.shape == empty.shape


@every_layer
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(index: int, dtype: torch.dtype):
    layer, _, x = _layers()[index]
    expected = layer(x)
    output = layer.to(dtype)(x.to(dtype))
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=0.03)


@every_layer
def test_autocast(index: int):
    ours, torchs, x = _layers()[index]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = ours(x)
        assert output.dtype == torchs(x).dtype == torch.bfloat16
        output.float().sum().backward()
    assert ours.weight.grad.dtype == torch.float32
    torch.testing.assert_close(output.float(), ours(x), rtol=0, atol=0.03)


@every_layer
def test_functional_call_grad_and_vmap(index: int):
    layer, _, x = _layers()[index]
    parameters = {name: value.detach() for name, value in layer.named_parameters()}

    def loss(parameters, sample):
        return torch.func.functional_call(layer, parameters, sample.unsqueeze(0)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    layer(x).square().sum().backward()
    torch.testing.assert_close(each["weight"].sum(0), layer.weight.grad, rtol=1e-4, atol=1e-5)


@every_layer
def test_meta_device(index: int):
    layer, _, x = _layers()[index]
    assert layer.to("meta")(x.to("meta")).shape == _layers()[index][0](x).shape
    assert CosineLinear(6, 5, device="meta").weight.is_meta


@every_layer
def test_export_holds_only_torchs_operators(index: int):
    layer, _, x = _layers()[index]
    program = decompose(torch.export.export(layer.eval(), (x,)))
    operators = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert operators
    assert not [name for name in operators if "cosnorm" in name]
    torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@every_layer
@pytest.mark.parametrize("centered", [False, True])
def test_compile_without_graph_breaks(index: int, centered: bool):
    torch._dynamo.reset()
    layer, _, x = _layers()[index]
    layer.centered = centered
    compiled = torch.compile(layer, fullgraph=True)
    x.requires_grad_()
    cotangent = torch.randn_like(layer(x))
    output = compiled(x)
    torch.testing.assert_close(output, layer(x))
    found = torch.autograd.grad(output, (x, layer.weight), cotangent)
    expected = torch.autograd.grad(layer(x), (x, layer.weight), cotangent)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    # Extreme rows are right in compiled code, too.
    tiny = (x * 1e-36).detach()
    torch.testing.assert_close(compiled(tiny), layer(tiny))
