"""The paper's networks, fully connected and convolutional; the normalization is an argument."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cosnorm.nn
from cosnorm_lab.config import METHODS
from cosnorm_lab.sparse_linear import SparseLinear, SparseWeightNorm


class MLP(nn.Module):
    """Hidden layers with ReLU, and a plain linear layer at the end.

    Attributes:
        hidden: one module a hidden layer; its output is the pre-activation, what enters the ReLU.
        output: the last layer, never normalized.
        dropout: share of the input, and of each hidden layer's outputs, that training sets to zero.
    """

    def __init__(
        self, hidden: list[nn.Module], output: nn.Linear, dropout: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(hidden)
        self.output = output
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) → (N, classes), before the softmax."""
        of_input, of_hidden = self.dropout
        if of_input:
            x = F.dropout(x, of_input, self.training)
        for layer in self.hidden:
            x = torch.relu(layer(x))
            if of_hidden:
                x = F.dropout(x, of_hidden, self.training)
        logits: Tensor = self.output(x)
        return logits


class CNN(nn.Module):
    """Convolutions, each with ReLU and 3×3 max pooling of stride 2; hidden layers with ReLU; a linear layer.

    Attributes:
        hidden: one module a convolution or hidden layer; its output is the pre-activation.
        output: the last layer, never normalized.
    """

    def __init__(self, hidden: list[nn.Module], output: nn.Linear, convolutions: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(hidden)
        self.output = output
        self.convolutions = convolutions

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, height, width) → (N, classes), before the softmax."""
        # The order in memory in which convolutions and pooling are fastest, whatever computes the filters.
        x = x.contiguous(memory_format=torch.channels_last)
        for number, layer in enumerate(self.hidden):
            if number == self.convolutions:
                x = x.flatten(1)
            x = layer(x)
            if number < self.convolutions:
                x = F.max_pool2d(x, 3, stride=2, padding=1)  # commutes with ReLU, which then has a quarter
            x = F.relu(x)
        logits: Tensor = self.output(x)
        return logits


def mlp(
    sizes: tuple[int, ...],
    method: str,
    *,
    init_std: float = 0.1,
    augment: float = 1e-4,
    hidden_bias: bool = True,
    dropout: tuple[float, float] = (0.0, 0.0),
    sparse: bool = False,
    seed: int = 0,
) -> MLP:
    """Builds the network of the paper's MNIST and Newsgroups experiments.

    Weights are drawn from a normal distribution by a generator of their own: with the same seed every method
    begins with the same weights. Biases begin at zero. With batch, layer and mean-only batch normalization
    the normalization brings the bias; with cosine and weight normalization there is none: the paper's have
    "no additional parameter", and at its learning rate of 5 weight normalization with biases learns nothing.

    Args:
        sizes: number of features, units of each hidden layer, number of classes.
        method: one of `cosnorm_lab.config.METHODS`. "max" is the baseline's network: the projection follows
            each step of the optimizer (`cosnorm.nn.MaxNorm`).
        init_std: standard deviation of the initial weights.
        augment: the constant extra component of the cosine layers.
        hidden_bias: whether the hidden layers of "baseline" and "max" learn a bias.
        dropout: share of the input, and of each hidden layer's outputs, that training sets to zero.
        sparse: keep the first layer's weight in memory a feature after the other, as sparse input wants it.
        seed: seed of the initial weights.

    Raises:
        ValueError: unknown method, or fewer than three sizes.
    """
    _check(method)
    if len(sizes) < 3:
        raise ValueError(f"sizes must be (features, hidden, ..., classes), at least three; got {sizes}")
    generator = torch.Generator().manual_seed(seed)
    linear = SparseLinear if sparse else nn.Linear
    hidden = [
        _layer(method, _normal((fan_out, fan_in), init_std, generator), augment, hidden_bias, linear)
        for fan_in, fan_out in pairwise(sizes[:-1])
    ]
    output = _plain(_normal((sizes[-1], sizes[-2]), init_std, generator))
    assert isinstance(output, nn.Linear)
    network = MLP(hidden, output, dropout)
    if sparse:
        for parameter in network.hidden[0].parameters():
            if parameter.shape == (sizes[1], sizes[0]):
                parameter.data = parameter.data.t().contiguous().t()
    return network


def cnn(
    image: tuple[int, int, int],
    filters: tuple[int, ...],
    hidden: tuple[int, ...],
    classes: int,
    method: str,
    *,
    init_std: float = 0.05,
    augment: float = 1e-4,
    seed: int = 0,
) -> CNN:
    """Builds the network of the paper's CIFAR experiments: that of TensorFlow's old tutorial, less its LRN.

    Convolutions are 5×5 of stride 1 and keep the size; each pooling halves it. Layer normalization takes all
    channels and places of an image together.

    Args:
        image: channels, height and width.
        filters: number of filters of each convolution.
        hidden: units of each fully connected hidden layer.
        classes: number of classes.
        method: as for `mlp`.
        init_std: as for `mlp`.
        augment: as for `mlp`.
        seed: as for `mlp`.

    Raises:
        ValueError: unknown method.
    """
    _check(method)
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = image
    layers: list[nn.Module] = []
    for fan_out in filters:
        weight = _normal((fan_out, channels, 5, 5), init_std, generator)
        layers.append(_layer(method, weight, augment, True))
        channels, height, width = fan_out, -(-height // 2), -(-width // 2)
    for fan_in, fan_out in pairwise((channels * height * width, *hidden)):
        layers.append(_layer(method, _normal((fan_out, fan_in), init_std, generator), augment, True))
    output = _plain(_normal((classes, hidden[-1]), init_std, generator))
    assert isinstance(output, nn.Linear)
    network = CNN(layers, output, len(filters))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _check(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")


def _normal(shape: tuple[int, ...], std: float, generator: torch.Generator) -> Tensor:
    return torch.empty(shape).normal_(0.0, std, generator=generator)


def _plain(weight: Tensor, bias: bool = True, linear: type[nn.Linear] = nn.Linear) -> nn.Linear | nn.Conv2d:
    """A linear layer (out, in) or a convolution (out, in, height, width) that keeps the size."""
    fan_out, fan_in, *kernel = weight.shape
    layer: nn.Linear | nn.Conv2d
    if kernel:
        layer = nn.Conv2d(fan_in, fan_out, (kernel[0], kernel[1]), padding=kernel[0] // 2, bias=bias)
    else:
        layer = linear(fan_in, fan_out, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is not None:
            layer.bias.zero_()
    return layer


def _layer(
    method: str, weight: Tensor, augment: float, bias: bool, linear: type[nn.Linear] = nn.Linear
) -> nn.Module:
    """One hidden layer or convolution up to the ReLU; `linear` makes those that are not cosines."""
    fan_out, fan_in, *kernel = weight.shape
    match method:
        case "cosine" | "centered":
            options: dict[str, Any] = {"centered": method == "centered", "augment": augment}
            layer = (
                cosnorm.nn.CosineConv2d(fan_in, fan_out, kernel[0], padding=kernel[0] // 2, **options)
                if kernel
                else cosnorm.nn.CosineLinear(fan_in, fan_out, **options)
            )
            with torch.no_grad():
                layer.weight.copy_(weight)
            return layer
        case "batch":
            norm = nn.BatchNorm2d(fan_out) if kernel else nn.BatchNorm1d(fan_out)
            return nn.Sequential(_plain(weight, False, linear), norm)
        case "layer":
            return nn.Sequential(
                _plain(weight, False, linear), nn.GroupNorm(1, fan_out) if kernel else nn.LayerNorm(fan_out)
            )
        case "mean-only":
            mean_only = cosnorm.nn.MeanOnlyBatchNorm2d if kernel else cosnorm.nn.MeanOnlyBatchNorm1d
            return nn.Sequential(_plain(weight, False, linear), mean_only(fan_out))
        case "weight":
            if linear is SparseLinear:
                return _plain(weight, False, SparseWeightNorm)
            plain = _plain(weight, False, linear)
            nn.utils.parametrizations.weight_norm(plain)
            gain = plain.get_parameter("parametrizations.weight.original0")  # the paper fixes g = 1
            gain.data.fill_(1.0)
            gain.requires_grad_(False)
            return plain
        case _:
            return _plain(weight, bias, linear)


def trained_weights(model: MLP | CNN) -> dict[str, Tensor]:
    """The weight (out, in) of each layer as the optimizer sees it: "hidden1" or "conv1", …, "output".

    Under weight normalization this is the direction v before it is normalized: its norm, like that of a
    cosine layer's weight, sets the effective learning rate.
    """
    convolutions = model.convolutions if isinstance(model, CNN) else 0
    weights: dict[str, Tensor] = {}
    for number, layer in enumerate(model.hidden):
        linear = layer[0] if isinstance(layer, nn.Sequential) else layer
        normalized = nn.utils.parametrize.is_parametrized(linear)
        parameter = "parametrizations.weight.original1" if normalized else "weight"
        name = f"conv{number + 1}" if number < convolutions else f"hidden{number - convolutions + 1}"
        weights[name] = linear.get_parameter(parameter).flatten(1)
    weights["output"] = model.output.weight
    return weights
