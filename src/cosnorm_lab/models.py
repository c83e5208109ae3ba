"""The paper's fully connected networks; the normalization is an argument."""

from itertools import pairwise

import torch
from torch import Tensor, nn

import cosnorm.nn
from cosnorm_lab.config import METHODS


class MLP(nn.Module):
    """Hidden layers with ReLU, and a plain linear layer at the end.

    Attributes:
        hidden: one module a hidden layer; its output is the pre-activation, what enters the ReLU.
        output: the last layer, never normalized.
    """

    def __init__(self, hidden: list[nn.Module], output: nn.Linear) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(hidden)
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) → (N, classes), before the softmax."""
        for layer in self.hidden:
            x = torch.relu(layer(x))
        logits: Tensor = self.output(x)
        return logits


def mlp(
    sizes: tuple[int, ...],
    method: str,
    *,
    init_std: float = 0.1,
    augment: float = 1e-4,
    hidden_bias: bool = True,
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
        seed: seed of the initial weights.

    Raises:
        ValueError: unknown method, or fewer than three sizes.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    if len(sizes) < 3:
        raise ValueError(f"sizes must be (features, hidden, ..., classes), at least three; got {sizes}")
    generator = torch.Generator().manual_seed(seed)
    hidden = [
        _hidden_layer(method, _normal(fan_in, fan_out, init_std, generator), augment, hidden_bias)
        for fan_in, fan_out in pairwise(sizes[:-1])
    ]
    fan_in, classes = sizes[-2:]
    output = _linear(_normal(fan_in, classes, init_std, generator))
    return MLP(hidden, output)


def _normal(fan_in: int, fan_out: int, std: float, generator: torch.Generator) -> Tensor:
    return torch.empty(fan_out, fan_in).normal_(0.0, std, generator=generator)


def _linear(weight: Tensor, bias: bool = True) -> nn.Linear:
    fan_out, fan_in = weight.shape
    layer = nn.Linear(fan_in, fan_out, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias:
            layer.bias.zero_()
    return layer


def _hidden_layer(method: str, weight: Tensor, augment: float, bias: bool) -> nn.Module:
    """One hidden layer up to the ReLU."""
    fan_out, fan_in = weight.shape
    match method:
        case "cosine" | "centered":
            layer = cosnorm.nn.CosineLinear(fan_in, fan_out, centered=method == "centered", augment=augment)
            with torch.no_grad():
                layer.weight.copy_(weight)
            return layer
        case "batch":
            return nn.Sequential(_linear(weight, bias=False), nn.BatchNorm1d(fan_out))
        case "layer":
            return nn.Sequential(_linear(weight, bias=False), nn.LayerNorm(fan_out))
        case "mean-only":
            return nn.Sequential(_linear(weight, bias=False), cosnorm.nn.MeanOnlyBatchNorm1d(fan_out))
        case "weight":
            linear = _linear(weight, bias=False)
            nn.utils.parametrizations.weight_norm(linear)
            gain = linear.get_parameter("parametrizations.weight.original0")  # the paper fixes g = 1
            gain.data.fill_(1.0)
            gain.requires_grad_(False)
            return linear
        case _:
            return _linear(weight, bias)


def trained_weights(model: MLP) -> dict[str, Tensor]:
    """The weight (out, in) of each linear layer as the optimizer sees it: "hidden1", …, "output".

    Under weight normalization this is the direction v before it is normalized: its norm, like that of a
    cosine layer's weight, sets the effective learning rate.
    """
    weights: dict[str, Tensor] = {}
    for number, layer in enumerate(model.hidden, start=1):
        linear = layer[0] if isinstance(layer, nn.Sequential) else layer
        normalized = nn.utils.parametrize.is_parametrized(linear)
        parameter = "parametrizations.weight.original1" if normalized else "weight"
        weights[f"hidden{number}"] = linear.get_parameter(parameter)
    weights["output"] = model.output.weight
    return weights
