"""The paper's networks, fully connected and convolutional; the normalization is an argument."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosnorm_lab.layers import plain
from cosnorm_lab.methods import NORMALIZATIONS, Method
from cosnorm_lab.sparse_linear import SparseLinear


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
        method: one of `cosnorm_lab.methods.NORMALIZATIONS`; a constraint, such as max normalization's, is
            none of the network's.
        init_std: standard deviation of the initial weights.
        augment: the constant extra component of the cosine layers.
        hidden_bias: whether the hidden layers of "baseline" and "max" learn a bias.
        dropout: share of the input, and of each hidden layer's outputs, that training sets to zero.
        sparse: keep the first layer's weight in memory a feature after the other, as sparse input wants it.
        seed: seed of the initial weights.

    Raises:
        ValueError: unknown method, or fewer than three sizes.
    """
    build = _method(method).make
    if len(sizes) < 3:
        raise ValueError(f"sizes must be (features, hidden, ..., classes), at least three; got {sizes}")
    generator = torch.Generator().manual_seed(seed)
    linear = SparseLinear if sparse else nn.Linear
    hidden = [
        build(
            _normal((fan_out, fan_in), init_std, generator), augment=augment, bias=hidden_bias, linear=linear
        )
        for fan_in, fan_out in pairwise(sizes[:-1])
    ]
    output = plain(_normal((sizes[-1], sizes[-2]), init_std, generator))
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
    build = _method(method).make
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = image
    layers: list[nn.Module] = []
    for fan_out in filters:
        weight = _normal((fan_out, channels, 5, 5), init_std, generator)
        layers.append(build(weight, augment=augment))
        channels, height, width = fan_out, -(-height // 2), -(-width // 2)
    for fan_in, fan_out in pairwise((channels * height * width, *hidden)):
        layers.append(build(_normal((fan_out, fan_in), init_std, generator), augment=augment))
    output = plain(_normal((classes, hidden[-1]), init_std, generator))
    assert isinstance(output, nn.Linear)
    network = CNN(layers, output, len(filters))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _normal(shape: tuple[int, ...], std: float, generator: torch.Generator) -> Tensor:
    return torch.empty(shape).normal_(0.0, std, generator=generator)


def _method(name: str) -> Method:
    if name not in NORMALIZATIONS:
        raise ValueError(f"method must be one of {', '.join(NORMALIZATIONS)}; got {name!r}")
    return NORMALIZATIONS[name]


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
