"""Layers: ours, the plain one, what cosine normalization replaces, and how people write it by hand."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cosnorm
from benchmarks.registry import Case, Floor, Step
from cosnorm_lab.models import mlp

BYTES = 4  # of a float32 number
LINEAR = ((100, 784, 1000), (100, 1000, 1000), (128, 2304, 384), (512, 1024, 1024), (2048, 512, 512))
FEW_ROWS = (
    (1, 784, 1000),
    (4, 784, 1000),
    (16, 784, 1000),
    (1, 1024, 4096),
    (4, 1024, 4096),
    (16, 1024, 4096),
)
CONV = (
    ((128, 64, 12, 12), 64, 5),
    ((64, 64, 32, 32), 64, 3),
    ((32, 256, 14, 14), 256, 3),
    ((128, 3, 24, 24), 64, 5),
)
# Steps that compute one and the same cosine, and are compared before the clock starts.
COSINES = (
    "cosine",
    "normalize + linear by hand",
    "compiled formula",
    "F.cosine_similarity",
    "unfold by hand",
)


class ByHand(nn.Linear):
    """The formula as most people write it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))


class Broadcast(nn.Linear):
    """Torch's own cosine similarity, every input with every row of the weight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.cosine_similarity(x.unsqueeze(1), self.weight, dim=-1)


class Unfolded(nn.Conv2d):
    """Every receptive field as a row."""

    def forward(self, x: Tensor) -> Tensor:
        rows = F.unfold(x, self.kernel_size, padding=self.padding).transpose(1, 2)
        output = F.normalize(rows, dim=-1) @ F.normalize(self.weight.flatten(1), dim=-1).t()
        return output.transpose(1, 2).unflatten(2, x.shape[2:])


def training(layer: Callable[..., Tensor], x: Tensor, autocast: bool = False) -> Step:
    """Forward and backward, gradients in the parameters and in the input."""
    x = x.clone().requires_grad_()
    parameters = list(layer.parameters()) if isinstance(layer, nn.Module) else []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = layer(x)
    cotangent = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)

    def step() -> list[Tensor]:
        x.grad = None
        for parameter in parameters:
            parameter.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = layer(x)
        output.backward(cotangent)
        return [output.detach(), x.grad, parameters[0].grad]  # type: ignore[list-item]

    return step


def inference(layer: nn.Module, x: Tensor) -> Step:
    """The output alone, without gradients; batch normalization with its running statistics."""
    layer.eval()

    @torch.no_grad()
    def step() -> list[Tensor]:
        return [layer(x)]

    return step


def _with_weight(layers: dict[str, nn.Module], weight: Tensor) -> dict[str, nn.Module]:
    for layer in layers.values():
        with torch.no_grad():
            next(iter(layer.parameters())).copy_(weight)
    return layers


def _linear_layers(fan_in: int, fan_out: int) -> dict[str, nn.Module]:
    def plain() -> nn.Linear:
        return nn.Linear(fan_in, fan_out, bias=False)

    layers = {
        "plain": plain(),
        "cosine": cosnorm.nn.CosineLinear(fan_in, fan_out),
        "centered": cosnorm.nn.CosineLinear(fan_in, fan_out, centered=True),
        "weight norm": plain(),
        "batch norm": nn.Sequential(plain(), nn.BatchNorm1d(fan_out)),
        "layer norm": nn.Sequential(plain(), nn.LayerNorm(fan_out)),
        "normalize + linear by hand": ByHand(fan_in, fan_out, bias=False),
    }
    layers = _with_weight(layers, plain().weight)
    layers["weight norm"] = nn.utils.parametrizations.weight_norm(layers["weight norm"])
    return layers


def _linear(
    batch: int,
    fan_in: int,
    fan_out: int,
    make: Callable[..., Step],
    *,
    compiled: bool,
) -> dict[str, Step]:
    x = torch.randn(batch, fan_in)
    layers = _linear_layers(fan_in, fan_out)
    if batch == 1:
        del layers["batch norm"]  # which wants more than one
    if make is inference:
        layers["folded cosine"] = layers["cosine"].fold()
        layers["folded centered"] = layers["centered"].fold()
    steps = {name: make(layer, x) for name, layer in layers.items()}
    if compiled:
        by_hand = layers["normalize + linear by hand"]
        by_hand.compile()
        steps["compiled formula"] = make(by_hand, x)
        del steps["normalize + linear by hand"]
    return steps


@contextmanager
def busy(processes: int = 6) -> Iterator[None]:
    """So many processes that compute all the time: machines are measured alone, but used like this."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(processes):
            running.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def _linear_of(dtype: torch.dtype, batch: int, fan_in: int, fan_out: int) -> dict[str, Step]:
    x, layers = torch.randn(batch, fan_in), _linear_layers(fan_in, fan_out)
    names = ("plain", "cosine", "centered", "normalize + linear by hand")
    return {name: training(layers[name].to(dtype), x.to(dtype)) for name in names}


def _broadcast(batch: int, fan_in: int, fan_out: int) -> dict[str, Step]:
    """Alone with what it is compared with: so much memory leaves nothing in the caches for the next step."""
    x = torch.randn(batch, fan_in)
    layers = {
        "plain": nn.Linear(fan_in, fan_out, bias=False),
        "cosine": cosnorm.nn.CosineLinear(fan_in, fan_out),
        "F.cosine_similarity": Broadcast(fan_in, fan_out, bias=False),
    }
    layers = _with_weight(layers, layers["plain"].weight)
    return {name: training(layer, x) for name, layer in layers.items()}


def _autocast(batch: int, fan_in: int, fan_out: int) -> dict[str, Step]:
    x = torch.randn(batch, fan_in)
    layers = _linear_layers(fan_in, fan_out)
    steps = {name: training(layers[name], x, autocast=True) for name in ("plain", "cosine", "weight norm")}
    return steps | {"cosine in float32": training(layers["cosine"], x)}


def _conv(shape: tuple[int, ...], filters: int, kernel: int, make: Callable[..., Step]) -> dict[str, Step]:
    x = torch.randn(shape)
    options = {"padding": kernel // 2, "bias": False}
    layers = {
        "plain": nn.Conv2d(shape[1], filters, kernel, **options),
        "cosine": cosnorm.nn.CosineConv2d(shape[1], filters, kernel, padding=kernel // 2),
        "centered": cosnorm.nn.CosineConv2d(shape[1], filters, kernel, padding=kernel // 2, centered=True),
        "batch norm": nn.Sequential(nn.Conv2d(shape[1], filters, kernel, **options), nn.BatchNorm2d(filters)),
    }
    layers = _with_weight(layers, layers["plain"].weight)
    if make is inference:
        layers["folded cosine"] = layers["cosine"].fold()
        layers["folded centered"] = layers["centered"].fold()
    return {name: make(layer, x) for name, layer in layers.items()}


def _unfold(shape: tuple[int, ...], filters: int, kernel: int) -> dict[str, Step]:
    """Alone with what it is compared with, as `_broadcast` is."""
    x = torch.randn(shape)
    options = {"padding": kernel // 2, "bias": False}
    layers = {
        "plain": nn.Conv2d(shape[1], filters, kernel, **options),
        "cosine": cosnorm.nn.CosineConv2d(shape[1], filters, kernel, padding=kernel // 2),
        "unfold by hand": Unfolded(shape[1], filters, kernel, **options),
    }
    layers = _with_weight(layers, layers["plain"].weight)
    return {name: training(layer, x) for name, layer in layers.items()}


def _channels_last(shape: tuple[int, ...], filters: int, kernel: int) -> dict[str, Step]:
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    options = {"padding": kernel // 2}
    layers = {
        "plain": nn.Conv2d(shape[1], filters, kernel, bias=False, **options),
        "cosine": cosnorm.nn.CosineConv2d(shape[1], filters, kernel, **options),
        "centered": cosnorm.nn.CosineConv2d(shape[1], filters, kernel, centered=True, **options),
        "batch norm": nn.Sequential(
            nn.Conv2d(shape[1], filters, kernel, bias=False, **options), nn.BatchNorm2d(filters)
        ),
    }
    return {name: training(layer.to(memory_format=torch.channels_last), x) for name, layer in layers.items()}


def _pairwise(rows: int, size: int) -> dict[str, Step]:
    x = torch.randn(rows, size)

    def by_hand() -> list[Tensor]:
        unit = F.normalize(x)
        return [unit @ unit.T]

    return {
        "plain": lambda: x @ x.T is None,
        "cosine": lambda: [cosnorm.functional.pairwise_cosine(x)],
        "normalize + linear by hand": by_hand,
    }


def _mnist_step() -> dict[str, Step]:
    """One step of gradient descent of the Table 1 networks: an epoch is 600 of them."""
    x, labels = torch.rand(100, 784), torch.randint(10, (100,))

    def step_of(method: str) -> Step:
        network = mlp((784, 1000, 1000, 10), method)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)

        def step() -> None:
            optimizer.zero_grad()
            F.cross_entropy(network(x), labels).backward()
            optimizer.step()

        return step

    names = {"plain": "baseline", "cosine": "cosine", "centered": "centered"}
    names |= {"batch norm": "batch", "layer norm": "layer", "weight norm": "weight"}
    return {name: step_of(method) for name, method in names.items()}


def _compiled_network() -> dict[str, Step]:
    """The three layers of Table 1's network, forward and backward, eager and under `torch.compile`."""
    x = torch.rand(100, 784)

    def network(layer: Callable[[int, int], nn.Module]) -> nn.Sequential:
        parts = [
            part for sizes in ((784, 1000), (1000, 1000), (1000, 10)) for part in (layer(*sizes), nn.ReLU())
        ]
        return nn.Sequential(*parts[:-1])

    def plain(fan_in: int, fan_out: int) -> nn.Module:
        return nn.Linear(fan_in, fan_out, bias=False)

    def by_hand(fan_in: int, fan_out: int) -> nn.Module:
        return ByHand(fan_in, fan_out, bias=False)

    makers = {"plain": plain, "cosine": cosnorm.nn.CosineLinear, "normalize + linear by hand": by_hand}
    steps = {}
    for name, maker in makers.items():
        layers = network(maker)
        steps[name] = training(layers, x)
        steps[f"{name}, compiled"] = training(torch.compile(layers, fullgraph=True), x)
    return steps


def _linear_floor(batch: int, fan_in: int, fan_out: int, products: int) -> Floor:
    numbers = batch * fan_in + fan_in * fan_out + batch * fan_out
    return Floor(2 * products * batch * fan_in * fan_out, BYTES * products * numbers)


def _conv_floor(shape: tuple[int, ...], filters: int, kernel: int, products: int) -> Floor:
    places = shape[0] * shape[2] * shape[3]
    numbers = places * (shape[1] + filters) + filters * shape[1] * kernel**2
    return Floor(2 * products * places * filters * shape[1] * kernel**2, BYTES * products * numbers)


def _size(shape: tuple[int, int, int]) -> str:
    return f"{shape[0]}x{shape[1]}-{shape[2]}"


def _cases() -> list[Case]:
    found = [Case("mnist-step", _mnist_step)]
    pairs = tuple((name, f"{name}, compiled") for name in ("plain", "cosine", "normalize + linear by hand"))
    found.append(Case("mnist-compiled", _compiled_network, groups=pairs))
    for group, shape in [*(("linear", shape) for shape in LINEAR), *(("few", shape) for shape in FEW_ROWS)]:
        for kind, make, products in (("training", training, 3), ("inference", inference, 1)):
            found.append(
                Case(
                    f"{group}-{kind}-{_size(shape)}",
                    lambda shape=shape, make=make: _linear(*shape, make, compiled=False),
                    _linear_floor(*shape, products),
                    groups=(COSINES, ("cosine", "folded cosine"), ("centered", "folded centered")),
                )
            )
    for shape in LINEAR:
        found.append(
            Case(
                f"linear-bfloat16-{_size(shape)}",
                lambda shape=shape: _autocast(*shape),
                groups=(("cosine", "cosine in float32"),),
                tolerance=3e-2,  # of bfloat16
            )
        )
        for name, dtype, tolerance in (("float64", torch.float64, 1e-4), ("half", torch.bfloat16, 3e-2)):
            found.append(
                Case(
                    f"linear-{name}-{_size(shape)}",
                    lambda shape=shape, dtype=dtype: _linear_of(dtype, *shape),
                    groups=(COSINES,),
                    tolerance=tolerance,
                )
            )
    found.append(
        Case(
            "linear-busy-512x1024-1024",
            lambda: _linear(512, 1024, 1024, training, compiled=False),
            _linear_floor(512, 1024, 1024, 3),
            groups=(COSINES,),
            surroundings=busy,
        )
    )
    found.append(
        Case(
            "linear-compiled-100x784-1000",
            lambda: _linear(100, 784, 1000, training, compiled=True),
            _linear_floor(100, 784, 1000, 3),
            groups=(COSINES,),
        )
    )
    found.append(Case("linear-broadcast-100x784-1000", lambda: _broadcast(100, 784, 1000), groups=(COSINES,)))
    for shape, filters, kernel in CONV:
        name = "x".join(map(str, shape)) + f"-{filters}-{kernel}x{kernel}"
        for kind, make, products in (("training", training, 3), ("inference", inference, 1)):
            found.append(
                Case(
                    f"conv-{kind}-{name}",
                    lambda s=shape, f=filters, k=kernel, make=make: _conv(s, f, k, make),
                    _conv_floor(shape, filters, kernel, products),
                    groups=(COSINES, ("cosine", "folded cosine"), ("centered", "folded centered")),
                )
            )
        found.append(
            Case(
                f"conv-unfold-{name}",
                lambda s=shape, f=filters, k=kernel: _unfold(s, f, k),
                groups=(COSINES,),
            )
        )
        found.append(
            Case(
                f"conv-channels-last-{name}",
                lambda s=shape, f=filters, k=kernel: _channels_last(s, f, k),
                _conv_floor(shape, filters, kernel, 3),
                groups=(COSINES,),
            )
        )
    found.append(
        Case(
            "pairwise-10000x512",
            lambda: _pairwise(10_000, 512),
            Floor(2 * 10_000**2 * 512, BYTES * (2 * 10_000 * 512 + 10_000**2)),
            groups=(COSINES,),
        )
    )
    return found


CASES = _cases()
