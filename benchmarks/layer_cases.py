"""Layers: ours beside the plain one, on the same input."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cosnorm
from benchmarks.registry import Case, Step
from cosnorm_lab.models import mlp


def _training(layer: nn.Module, x: Tensor) -> Step:
    """Forward and backward, gradients in the weights and in the input."""
    x = x.clone().requires_grad_()
    cotangent = torch.randn_like(layer(x))

    def step() -> None:
        layer.zero_grad()
        x.grad = None
        layer(x).backward(cotangent)

    return step


def _linear(batch: int, fan_in: int, fan_out: int) -> dict[str, Step]:
    x = torch.randn(batch, fan_in)

    class ByHand(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))

    return {
        "plain": _training(nn.Linear(fan_in, fan_out, bias=False), x),
        "cosine": _training(cosnorm.nn.CosineLinear(fan_in, fan_out), x),
        "centered": _training(cosnorm.nn.CosineLinear(fan_in, fan_out, centered=True), x),
        "normalize + linear by hand": _training(ByHand(fan_in, fan_out, bias=False), x),
        "weight_norm": _training(
            nn.utils.parametrizations.weight_norm(nn.Linear(fan_in, fan_out, bias=False)), x
        ),
    }


def _conv(shape: tuple[int, ...], filters: int, kernel: int) -> dict[str, Step]:
    x = torch.randn(shape)
    plain = nn.Conv2d(shape[1], filters, kernel, padding=kernel // 2, bias=False)
    return {
        "plain": _training(plain, x),
        "cosine": _training(cosnorm.nn.CosineConv2d(shape[1], filters, kernel, padding=kernel // 2), x),
        "conv + batch norm": _training(nn.Sequential(plain, nn.BatchNorm2d(filters)), x),
    }


def _pairwise(rows: int, size: int) -> dict[str, Step]:
    x = torch.randn(rows, size)
    return {"plain": lambda: x @ x.T, "cosine": lambda: cosnorm.functional.pairwise_cosine(x)}


def _mnist_step() -> dict[str, Step]:
    """One step of gradient descent of the Table 1 networks: an epoch is 600 of them."""
    x, labels = torch.rand(100, 784), torch.randint(10, (100,))

    def training(method: str) -> Step:
        network = mlp((784, 1000, 1000, 10), method)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)

        def step() -> None:
            optimizer.zero_grad()
            F.cross_entropy(network(x), labels).backward()
            optimizer.step()

        return step

    names = {"plain": "baseline", "cosine": "cosine", "centered": "centered"}
    names |= {"batch norm": "batch", "layer norm": "layer", "weight norm": "weight"}
    return {name: training(method) for name, method in names.items()}


CASES = [
    Case("mnist-step", _mnist_step),
    Case("linear-100x784-1000", lambda: _linear(100, 784, 1000)),
    Case("linear-100x1000-1000", lambda: _linear(100, 1000, 1000)),
    Case("linear-512x1024-1024", lambda: _linear(512, 1024, 1024)),
    Case("conv-128x64x12x12-64-5x5", lambda: _conv((128, 64, 12, 12), 64, 5)),
    Case("conv-64x64x32x32-64-3x3", lambda: _conv((64, 64, 32, 32), 64, 3)),
    Case("pairwise-4000x512", lambda: _pairwise(4000, 512)),
]
