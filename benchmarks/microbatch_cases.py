"""Micro-batches: one batch whose graph is kept, and the same in parts of an eighth, whose graphs are not."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.registry import Case, Step
from cosnorm import microbatch
from cosnorm.losses import nt_xent_loss

PARTS = 8


class Words(nn.Module):
    """A small transformer over sequences of vectors, and the mean of what it gives."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0, batch_first=True, activation="gelu", norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean(1)


def pictures(channels: int) -> nn.Module:
    """Six convolutions with norms of each picture."""

    def block(before: int, after: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
            nn.GroupNorm(8, after),
            nn.ReLU(inplace=True),
        ]

    sizes = [(3, channels, 1), *[(channels, channels, 1)] * 2, (channels, 2 * channels, 2)]
    sizes += [(2 * channels, 2 * channels, 1)] * 2
    blocks = [layer for size in sizes for layer in block(*size)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def steps(make: Callable[[], nn.Module], *shape: int) -> dict[str, Step]:
    """Forward and backward of NT-Xent of two views: of one graph, and by `microbatch` in parts and in one."""
    encoder, views = make(), torch.randn(2, *shape).unbind()

    def whole() -> Tensor:
        value = nt_xent_loss(*(encoder(view) for view in views))
        value.backward()
        return value.detach()

    def parts(size: int) -> Callable[[], Tensor]:
        return lambda: microbatch(encoder, views, nt_xent_loss, size=size)

    def step(run: Callable[[], Tensor]) -> Step:
        def inner() -> list[Tensor]:
            encoder.zero_grad()
            return [run(), *(parameter.grad for parameter in encoder.parameters())]

        return inner

    return {
        "plain": step(whole),
        "ours, parts of 1/8": step(parts(shape[0] // PARTS)),
        "ours, one part": step(parts(shape[0])),
    }


CASES = [
    Case("microbatch-transformer-2x256", lambda: steps(lambda: Words(128, 4), 256, 32, 128)),
    Case("microbatch-convolutions-2x256", lambda: steps(lambda: pictures(32), 256, 3, 32, 32)),
]
