"""Small convolutional networks that embed images: for the contrastive recipe and for the heads."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def build(name: str, image_size: tuple[int, int], features: int, seed: int) -> nn.Module:
    """A network (N, 1, height, width) → (N, features) whose initial weights follow from the seed.

    Args:
        name: "small-cnn" or "mini-xception".
        image_size: height and width.
        features: D.
        seed: torch's own random state is left as it was.

    Raises:
        ValueError: unknown name, or images too small for it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "small-cnn":
            return SmallCNN(image_size, features)
        if name == "mini-xception":
            return MiniXception(image_size, features)
    raise ValueError(f"the network must be small-cnn or mini-xception, got {name!r}")


class SmallCNN(nn.Sequential):
    """Three convolutions of stride 2, each with batch normalization and ReLU, and a linear layer.

    Args:
        image_size: height and width, at least 8.
        features: outputs.
    """

    def __init__(self, image_size: tuple[int, int], features: int) -> None:
        if min(image_size) < 8:
            raise ValueError(f"small-cnn wants images of at least 8x8 pixels, got {image_size}")
        widths = (1, 16, 32, 64)
        layers: list[nn.Module] = []
        for fan_in, fan_out, size in zip(widths, widths[1:], (5, 3, 3), strict=False):
            layers += [
                nn.Conv2d(fan_in, fan_out, size, stride=2, padding=size // 2, bias=False),
                nn.BatchNorm2d(fan_out),
                nn.ReLU(inplace=True),
            ]
        height, width = (-(-length // 8) for length in image_size)
        super().__init__(*layers, nn.Flatten(), nn.Linear(widths[-1] * height * width, features))


class MiniXception(nn.Module):
    """The network of facial expressions, with an embedding in place of its classes.

    Two convolutions of 8 filters, four residual blocks of depthwise separable convolutions (16, 32, 64,
    128), a mean over all places, and a linear layer.

    Args:
        image_size: height and width, at least 16.
        features: outputs.

    Source: Arriaga et al., "Real-time Convolutional Neural Networks for Emotion and Gender Classification",
        arXiv 1710.07557.
    """

    def __init__(self, image_size: tuple[int, int], features: int) -> None:
        super().__init__()
        if min(image_size) < 16:
            raise ValueError(f"mini-xception wants images of at least 16x16 pixels, got {image_size}")
        self.stem = nn.Sequential(*_conv(1, 8), *_conv(8, 8))
        widths = (8, 16, 32, 64, 128)
        self.blocks = nn.Sequential(*(_Block(fan_in, fan_out) for fan_in, fan_out in pairwise(widths)))
        self.output = nn.Linear(widths[-1], features)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, height, width) → (N, features)."""
        x = self.blocks(self.stem(x))
        embedding: Tensor = self.output(x.mean(dim=(2, 3)))
        return embedding


class _Block(nn.Module):
    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.shortcut = nn.Sequential(
            nn.Conv2d(fan_in, fan_out, 1, stride=2, bias=False), nn.BatchNorm2d(fan_out)
        )
        self.first = nn.Sequential(*_separable(fan_in, fan_out))
        self.second = nn.Sequential(*_separable(fan_out, fan_out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.first(x)))
        return F.max_pool2d(y, 3, stride=2, padding=1) + self.shortcut(x)


def _conv(fan_in: int, fan_out: int) -> list[nn.Module]:
    return [nn.Conv2d(fan_in, fan_out, 3, bias=False), nn.BatchNorm2d(fan_out), nn.ReLU(inplace=True)]


def _separable(fan_in: int, fan_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(fan_in, fan_in, 3, padding=1, groups=fan_in, bias=False),
        nn.Conv2d(fan_in, fan_out, 1, bias=False),
        nn.BatchNorm2d(fan_out),
    ]
