"""Networks as people have them, plain or with their usual norms: what a conversion is tried on."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


def build(name: str, inputs: tuple[int, ...], outputs: int, *, norms: bool, seed: int) -> nn.Module:
    """A network at torch's own first weights, which follow from the seed; with and without norms they agree.

    Args:
        name: "mlp", "cnn", "resnet", "vit" or "gpt".
        inputs: (channels, height, width) of images; (length,) of text.
        outputs: classes, or different characters.
        norms: batch norms, in "vit" and "gpt" layer norms; else nothing in their place.
        seed: torch's own random state is left as it was.

    Raises:
        ValueError: unknown name.
    """
    kinds: dict[str, Callable[[], nn.Module]] = {
        "mlp": lambda: mlp(math.prod(inputs), outputs, nn.BatchNorm1d if norms else _nothing),
        "cnn": lambda: cnn(inputs[0], outputs, nn.BatchNorm2d if norms else _nothing),
        "resnet": lambda: ResNet(inputs[0], outputs, nn.BatchNorm2d if norms else _nothing),
        "vit": lambda: ViT(inputs, outputs, nn.LayerNorm if norms else _nothing),
        "gpt": lambda: GPT(inputs[0], outputs, nn.LayerNorm if norms else _nothing),
    }
    if name not in kinds:
        raise ValueError(f"the network must be one of {', '.join(kinds)}; got {name!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kinds[name]()


def _nothing(_: int) -> nn.Module:
    return nn.Identity()


def mlp(features: int, classes: int, norm: Norm) -> nn.Module:
    """Two hidden layers of 512 units."""
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in in (features, 512):
        layers += [nn.Linear(fan_in, 512), norm(512), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, classes))


def cnn(channels: int, classes: int, norm: Norm) -> nn.Module:
    """Four 3×3 convolutions of 32 to 64 filters with two poolings, and a hidden layer of 128 units."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in ((channels, 32), (32, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1), norm(fan_out), nn.ReLU()]
        if fan_in == fan_out:
            layers.append(nn.MaxPool2d(2))
    hidden = nn.Linear(64 * 16, 128)
    norm1d = nn.BatchNorm1d if norm is nn.BatchNorm2d else norm
    return nn.Sequential(
        *layers,
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        hidden,
        norm1d(128),
        nn.ReLU(),
        nn.Linear(128, classes),
    )


class ResNet(nn.Module):
    """Eight layers: a convolution, three blocks of two, a linear one; 16 to 64 filters (He et al., 2015)."""

    def __init__(self, channels: int, classes: int, norm: Norm) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1, bias=False), norm(16), nn.ReLU())
        self.blocks = nn.Sequential(Block(16, 16, 1, norm), Block(16, 32, 2, norm), Block(32, 64, 2, norm))
        self.output = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, height, width) → (N, classes)."""
        logits: Tensor = self.output(self.blocks(self.stem(images)).mean((2, 3)))
        return logits


class Block(nn.Module):
    """Two 3×3 convolutions beside a way around them."""

    def __init__(self, fan_in: int, fan_out: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=False),
            norm(fan_out),
            nn.ReLU(),
            nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False),
            norm(fan_out),
        )
        self.around = (
            nn.Identity()
            if fan_in == fan_out
            else nn.Sequential(nn.Conv2d(fan_in, fan_out, 1, stride, bias=False), norm(fan_out))
        )

    def forward(self, images: Tensor) -> Tensor:
        """The sum of both, and ReLU."""
        return F.relu(self.branch(images) + self.around(images))


class Attention(nn.Module):
    """Of a number of heads that share the width; `causal`: nobody looks ahead."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.projections = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.heads, self.causal = heads, causal

    def forward(self, x: Tensor) -> Tensor:
        """(N, length, D) → the same."""
        projected = self.projections(x).unflatten(2, (3, self.heads, -1))
        queries, keys, values = projected.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=self.causal)
        y: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return y


class Transformer(nn.Module):
    """A block of attention and of two linear layers, each a residual branch with its norm in front.

    Args:
        width: D.
        heads: that share D.
        blocks: how many there are in the network; each branch counts 1/√(2·blocks).
        norm: of D features.
        causal: nobody looks ahead.
    """

    def __init__(self, width: int, heads: int, blocks: int, norm: Norm, causal: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(width), norm(width)
        self.attention = Attention(width, heads, causal)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.share = 1 / math.sqrt(2 * blocks)

    def forward(self, x: Tensor) -> Tensor:
        """(N, length, D) → the same."""
        x = x + self.share * self.attention(self.norm1(x))
        y: Tensor = x + self.share * self.mlp(self.norm2(x))
        return y


class ViT(nn.Module):
    """Four blocks of 96 features and 4 heads over patches of 4×4 pixels; classifies the mean over places."""

    def __init__(self, inputs: tuple[int, ...], classes: int, norm: Norm) -> None:
        super().__init__()
        channels, height, width = inputs
        self.patches = nn.Conv2d(channels, 96, 4, stride=4)
        self.places = nn.Parameter(0.02 * torch.randn(height // 4 * (width // 4), 96))
        self.blocks = nn.Sequential(*(Transformer(96, 4, 4, norm, causal=False) for _ in range(4)))
        self.norm, self.output = norm(96), nn.Linear(96, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, height, width) → (N, classes)."""
        x = self.patches(images).flatten(2).transpose(1, 2) + self.places
        logits: Tensor = self.output(self.norm(self.blocks(x).mean(1)))
        return logits


class GPT(nn.Module):
    """Four blocks of 128 features and 4 heads that look back, over single characters."""

    def __init__(self, length: int, characters: int, norm: Norm) -> None:
        super().__init__()
        self.characters = nn.Embedding(characters, 128)
        self.places = nn.Parameter(torch.randn(length, 128))
        self.blocks = nn.Sequential(*(Transformer(128, 4, 4, norm, causal=True) for _ in range(4)))
        self.norm, self.output = norm(128), nn.Linear(128, characters)

    def forward(self, text: Tensor) -> Tensor:
        """(N, length) → (N, length, characters): of each character that follows."""
        logits: Tensor = self.output(self.norm(self.blocks(self.characters(text) + self.places)))
        return logits
