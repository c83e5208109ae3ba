"""Folded models give what the models give."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

from cosnorm.convert import fold
from cosnorm.nn import CosineConv1d, CosineConv2d, CosineConv3d, CosineLinear

LAYERS = {
    "linear": (lambda **o: CosineLinear(63, 37, **o), (9, 63)),
    "conv1d": (lambda **o: CosineConv1d(3, 5, 4, stride=2, **o), (9, 3, 11)),
    "conv2d": (lambda **o: CosineConv2d(4, 6, (3, 2), padding=(1, 2), groups=2, **o), (9, 4, 7, 6)),
    "same": (lambda **o: CosineConv2d(4, 6, (3, 2), padding="same", **o), (9, 4, 7, 6)),
    "reflected": (lambda **o: CosineConv2d(4, 6, 3, padding=1, padding_mode="reflect", **o), (9, 4, 7, 6)),
    "conv3d": (lambda **o: CosineConv3d(2, 3, 2, dilation=2, **o), (9, 2, 4, 5, 3)),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("augment", [0.0, 0.3])
def test_a_layer_of_every_kind(layer: str, centered: bool, augment: float):
    make, shape = LAYERS[layer]
    module = make(centered=centered, augment=augment, bias=True, scale="learned")
    folded = fold(module)
    for scale in (1.0, 1e-30, 1e30):
        x = scale * torch.randn(shape)
        x[2] = 0
        torch.testing.assert_close(folded(x), module(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(folded(x[1]), module(x[1]), rtol=1e-5, atol=1e-5)
    assert not list(folded.parameters())


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_and_bounds(layer: str, dtype: torch.dtype):
    make, shape = LAYERS[layer]
    module = make(dtype=dtype)
    x = torch.randn(shape, dtype=dtype)
    output = fold(module)(x)
    assert output.dtype == dtype
    assert output.abs().max() <= 1
    torch.testing.assert_close(output, module(x), rtol=0, atol=8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_reach_the_input(layer: str):
    make, shape = LAYERS[layer]
    module = make(centered=True, augment=0.3)
    x = torch.randn(shape, requires_grad=True)
    output = module(x)
    cotangent = torch.randn_like(output)
    expected = torch.autograd.grad(output, x, cotangent)
    torch.testing.assert_close(
        torch.autograd.grad(fold(module)(x), x, cotangent), expected, rtol=1e-4, atol=1e-5
    )


def test_a_model_keeps_its_other_layers_and_its_state_travels():
    model = nn.Sequential(
        CosineConv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Sequential(CosineLinear(64, 5))
    )
    x = torch.randn(2, 3, 6, 6)
    model(x)
    model.eval()
    folded = fold(model)
    assert isinstance(model[0], CosineConv2d)
    assert not folded.training
    torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)
    other = fold(
        nn.Sequential(
            CosineConv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Sequential(CosineLinear(64, 5))
        )
    )
    other.load_state_dict(folded.state_dict())
    assert torch.equal(other(x), folded(x))
    compiled = torch.compile(folded, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), folded(x), rtol=1e-5, atol=1e-6)
    assert torch.equal(model[0].fold()(x), folded[0](x))
    assert torch.equal(model[3][0].fold().weight, folded[3][0].weight)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("options", [{}, {"centered": True, "scale": "learned"}, {"augment": 0.3}])
def test_a_checkpoint_of_the_layer_before_folding_is_folded(layer: str, dtype: torch.dtype, options: dict):
    make, shape = LAYERS[layer]
    trained = make(bias=True, dtype=dtype, **options)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1.5).add_(0.3)
        trained.weight[1] = 0
    x = torch.randn(shape, dtype=dtype)
    model = nn.Sequential(make(bias=True, dtype=dtype, **options))
    expected = fold(trained)
    for state in (trained.state_dict(), expected.state_dict()):
        deployed = fold(model)
        deployed.load_state_dict({f"0.{name}": value for name, value in state.items()})
        assert torch.equal(deployed(x), expected(x))
        alone = fold(model[0])
        alone.load_state_dict(state)
        assert torch.equal(alone(x), expected(x))
    assert not torch.equal(fold(model)(x), expected(x))


def test_a_folded_layer_takes_no_checkpoint_of_another_size():
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        fold(CosineLinear(8, 3)).load_state_dict(CosineLinear(7, 3).state_dict())
    with pytest.raises(RuntimeError, match=r"Unexpected key.*scale\.log_scale"):
        fold(CosineLinear(8, 3)).load_state_dict(CosineLinear(8, 3, scale="learned").state_dict())


def test_what_is_no_module():
    with pytest.raises(TypeError, match=r"must be a torch\.nn.Module, got str"):
        fold("model")


def test_hooks_go_along_and_a_layer_in_two_places_is_folded_once():
    shared = CosineLinear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared))
    shared.register_forward_hook(lambda layer, given, output: output + 1)
    shared.register_forward_pre_hook(
        lambda layer, args, kwargs: ((2 * args[0] + 1,), kwargs), with_kwargs=True
    )
    folded, x = fold(model), torch.randn(3, 4)
    assert folded[0] is folded[2][0]
    assert not list(folded.parameters())
    torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-6)


def test_what_cannot_be_folded_is_named():
    class Own(CosineLinear):
        def forward(self, input):  # noqa: A002
            return super().forward(input) + 1

    class Renamed(CosineLinear):
        pass

    for layer, message in (
        (Own(3, 2), "Own overrides forward"),
        (
            prune.l1_unstructured(CosineLinear(3, 2), "weight", 0.5),
            "its weight or bias is computed from others",
        ),
        (weight_norm(CosineConv2d(3, 2, 1)), "its weight or bias is computed from others"),
        (
            prune.l1_unstructured(CosineLinear(3, 2, bias=True), "bias", 1),
            "its weight or bias is computed from others",
        ),
    ):
        with pytest.raises(TypeError, match=f"fold: 0: {message}"):
            fold(nn.Sequential(layer))
        with pytest.raises(TypeError, match=f"FoldedCosine.*: {message}"):
            layer.fold()
    x = torch.randn(4, 3)
    for layer in (Renamed(3, 2), parametrizations.weight_norm(CosineLinear(3, 2))):
        torch.testing.assert_close(fold(layer)(x), layer(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("quantizable", [False, True])
def test_torchs_transformer_calls_folded_layers(quantizable: bool):
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    model.linear1 = CosineLinear(8, 16, bias=True)
    x = torch.randn(2, 5, 8)
    expected = model.train()(x)
    with torch.no_grad():
        torch.testing.assert_close(fold(model, quantizable=quantizable)(x), expected, rtol=1e-5, atol=1e-5)


def test_full_backward_hooks_go_along():
    model = nn.Sequential(CosineLinear(4, 4), nn.ReLU(), CosineLinear(4, 2))
    model[0].register_full_backward_hook(lambda layer, into, out: (0 * into[0],))
    x = torch.randn(3, 4, requires_grad=True)
    fold(model)(x).sum().backward()
    assert x.grad.eq(0).all()


@pytest.mark.parametrize("scale", [3.3, "unit", "learned"])
def test_scales_keep_their_digits(scale):
    layer = CosineLinear(10, 4, scale=scale, dtype=torch.float64)
    x = torch.randn(5, 10, dtype=torch.float64)
    torch.testing.assert_close(fold(layer)(x), layer(x), rtol=1e-14, atol=1e-14)
    half = CosineLinear(10, 4, scale=1e5, dtype=torch.float16)
    assert torch.equal(fold(half)(torch.zeros(1, 10).half()), torch.zeros(1, 4).half())


def test_a_folded_layer_is_printed_without_a_look_at_its_numbers():
    assert "scale=learned" in str(fold(CosineLinear(3, 2, scale="learned", device="meta")))
    assert "scale=2.0" in str(fold(CosineLinear(3, 2, scale=2.0)))


def test_others_read_the_sizes():
    linear, conv = fold(CosineLinear(10, 4)), fold(CosineConv2d(4, 6, 3, stride=2, groups=2))
    assert (linear.in_features, linear.out_features) == (10, 4)
    assert (conv.in_channels, conv.out_channels, conv.groups) == (4, 6, 2)
    assert (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (2, 2), (0, 0))


def test_a_forward_that_somebody_put_around_a_layer_is_refused():
    layer = CosineLinear(3, 2)
    layer.forward = lambda x, forward=layer.forward: forward(x) + 1
    with pytest.raises(TypeError, match="fold: the model: somebody put a forward of its own around it"):
        fold(layer)


@pytest.mark.parametrize("scale", [None, 2.0, "unit", "learned"])
@pytest.mark.parametrize("bias", [False, True])
def test_export_of_a_folded_layer_by_itself(scale, bias: bool):
    folded, x = fold(CosineLinear(8, 3, bias=bias, scale=scale)), torch.randn(4, 8)
    program = torch.export.export(folded, (x,), dynamic_shapes=({0: torch.export.Dim("rows", min=1)},))
    torch.testing.assert_close(program.module()(x[:3]), folded(x[:3]))
