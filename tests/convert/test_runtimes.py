"""Where models go after training: files, compilers ahead of time, quantizers, summaries."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cosnorm.convert import decompose, fold, to_cosine
from cosnorm.nn import CosineConv2d, CosineLinear

VARIANTS = {
    "plain": {},
    "centered": {"centered": True, "scale": "unit", "bias": True},
    "augmented": {"augment": 0.5, "scale": 3.0},
    "learned": {"centered": True, "scale": "learned", "bias": True},
}
each_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


def network(**options) -> nn.Module:
    return nn.Sequential(
        CosineConv2d(3, 8, 3, **options), nn.ReLU(), nn.Flatten(), CosineLinear(8 * 16, 5, **options)
    )


@each_variant
def test_safetensors(options, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    model, other = network(**options), network(**options)
    safetensors.save_model(model, str(tmp_path / "model.safetensors"))
    safetensors.load_model(other, str(tmp_path / "model.safetensors"))
    images = torch.randn(2, 3, 6, 6)
    assert torch.equal(other(images), model(images))
    folded = fold(model)
    safetensors.save_file(folded.state_dict(), tmp_path / "folded.safetensors")
    again = fold(network(**options))
    again.load_state_dict(safetensors.load_file(tmp_path / "folded.safetensors"))
    torch.testing.assert_close(again(images), folded(images))


def test_torchinfo_sees_every_layer():
    torchinfo = pytest.importorskip("torchinfo", reason="torchinfo is not installed")
    plain = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 20), nn.Linear(20, 5)
    )
    converted = to_cosine(plain)
    found = [torchinfo.summary(one, (2, 3, 6, 6), verbose=0) for one in (plain, converted)]
    assert found[0].total_params == found[1].total_params
    # It counts multiplications of modules without children alone; torch counts those of operators.
    counts = []
    for one in (plain, converted):
        with FlopCounterMode(display=False) as counter:
            one(torch.randn(2, 3, 6, 6))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]
    assert "CosineConv2d" in str(found[1])
    assert "CosineLinear" in str(found[1])


@pytest.mark.slow
@pytest.mark.parametrize("folded", [False, True])
def test_compiled_ahead_of_time(folded: bool, tmp_path):
    """The portable program as a library that needs neither Python nor this one."""
    model = network(centered=True, scale="unit", bias=True).eval()
    model = fold(model) if folded else model
    images = torch.randn(3, 3, 6, 6)
    program = torch.export.export(
        model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=64)},)
    )
    package = torch._inductor.aoti_compile_and_package(
        decompose(program), package_path=str(tmp_path / "model.pt2")
    )
    compiled = torch._inductor.aoti_load_package(package)
    for number in (3, 7):
        images = torch.randn(number, 3, 6, 6)
        with torch.no_grad():
            torch.testing.assert_close(compiled(images), model(images), rtol=1e-5, atol=1e-5)


def linears(**options) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(CosineLinear(64, 48, **options), nn.ReLU(), CosineLinear(48, 10, **options))


@each_variant
def test_folded_for_quantizers(options):
    model = linears(**options)
    separate = fold(model, quantizable=True)
    assert [type(one[1]) for one in (separate[0], separate[2])] == [nn.Linear] * 2
    assert not any(one.requires_grad for one in separate.parameters())
    rows = torch.randn(6, 64) * torch.logspace(-30, 30, 6)[:, None]
    rows[2] = 0
    torch.testing.assert_close(separate(rows), model(rows), rtol=1e-5, atol=1e-5)
    assert torch.equal(copy.deepcopy(separate)(rows), separate(rows))


@each_variant
def test_dynamic_quantization(options):
    model, rows = linears(**options), torch.randn(32, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that this moves to torchao
        quantized = torch.ao.quantization.quantize_dynamic(fold(model, quantizable=True))
    assert all("quantized" in type(one[1]).__module__ for one in (quantized[0], quantized[2]))
    error = (quantized(rows) - model(rows)).abs().max() / model(rows).abs().max()
    assert error < 0.05  # of 8 bits for weights and inputs, twice


@each_variant
def test_torchao(options):
    torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    model, rows = linears(**options), torch.randn(32, 64)
    quantized = fold(model, quantizable=True)
    torchao.quantize_(quantized, torchao.Int8WeightOnlyConfig())
    assert all(type(one[1].weight) is not nn.Parameter for one in (quantized[0], quantized[2]))
    error = (quantized(rows) - model(rows)).abs().max() / model(rows).abs().max()
    assert 0 < error < 0.03


def test_a_model_that_was_not_exported_is_refused():
    with pytest.raises(TypeError, match=r"ExportedProgram, got Linear; torch\.export\.export"):
        decompose(nn.Linear(2, 3))
