"""Exported to ONNX, layers and converted networks give in another runtime what they give here."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cosnorm.convert import decompose, fold, to_cosine
from cosnorm.nn import CosineConv1d, CosineConv2d, CosineConv3d, CosineLinear

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

LAYERS = {
    "linear": (lambda **o: CosineLinear(8, 5, **o), (3, 8)),
    "conv1d": (lambda **o: CosineConv1d(4, 6, 3, stride=2, groups=2, **o), (3, 4, 9)),
    "conv2d": (lambda **o: CosineConv2d(4, 6, (3, 2), padding=1, **o), (3, 4, 7, 6)),
    "same": (lambda **o: CosineConv2d(4, 6, (3, 2), padding="same", **o), (3, 4, 7, 6)),
    "conv3d": (lambda **o: CosineConv3d(2, 4, 2, dilation=2, padding=1, **o), (3, 2, 5, 5, 5)),
}
DOUBLES = (onnx.TensorProto.DOUBLE, onnx.TensorProto.COMPLEX128)


def exported(model: nn.Module, x: Tensor, folder: Path) -> Path:
    """The file, for any number of samples; no float64 is in it."""
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    path = folder / "model.onnx"
    torch.onnx.export(decompose(program), dynamo=True, verbose=False, opset_version=18).save(path)
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    assert not any(one.type.tensor_type.elem_type in DOUBLES for one in values)
    assert {node.domain for node in graph.node} == {""}
    return path


def run(path: Path, x: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path)
    return torch.from_numpy(np.asarray(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("folded", [False, True])
def test_layers(layer: str, centered: bool, folded: bool, tmp_path: Path):
    make, shape = LAYERS[layer]
    model = make(centered=centered, scale="learned", bias=True).eval()
    model = fold(model) if folded else model
    path = exported(model, torch.randn(shape), tmp_path)
    for scale in (1.0, 0.0, 1e-30, 1e30):
        x = torch.cat([torch.randn(shape), scale * torch.randn(shape)])
        torch.testing.assert_close(run(path, x), model(x).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", ["linear", "conv2d"])
def test_a_constant_component_and_half_precision(layer: str, tmp_path: Path):
    make, shape = LAYERS[layer]
    model, x = make(augment=0.3, centered=True).eval(), torch.randn(shape)
    torch.testing.assert_close(run(exported(model, x, tmp_path), x), model(x).detach(), rtol=1e-5, atol=1e-5)
    half, x = make(centered=True).half().eval(), x.half()
    torch.testing.assert_close(run(exported(half, x, tmp_path), x), half(x).detach(), rtol=2e-3, atol=2e-3)


def test_a_converted_residual_network(tmp_path: Path):
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
            self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))

    plain = nn.Sequential(nn.Conv2d(3, 4, 3), Block(), Block(), nn.Flatten(), nn.Linear(4 * 36, 10))
    x = torch.randn(5, 3, 8, 8)
    for model in (to_cosine(plain, remove_norm=True).eval(), fold(to_cosine(plain, remove_norm=True))):
        torch.testing.assert_close(
            run(exported(model, x[:2], tmp_path), x), model(x).detach(), rtol=1e-4, atol=1e-4
        )
