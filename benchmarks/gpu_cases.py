"""What a GPU is asked: cosine layers beside cuBLAS, 8-bit products, losses beside their bare products.

Sizes are divided by `divisor`, so that the tests can run every step on a CPU, by Triton's interpreter.
"""

import importlib.util
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cosnorm
from benchmarks.layer_cases import ByHand, inference, training
from benchmarks.loss_cases import MARGIN, SCALE, TEMPERATURE, loss_training
from benchmarks.registry import Case, Step
from cosnorm.functional import AdditiveCosine, margin_cross_entropy
from cosnorm.losses import nt_xent_loss
from cosnorm_lab.models import cnn

DTYPE, CHUNK = torch.bfloat16, 8192
# As a part of the largest number.
TOLERANCE = {torch.bfloat16: 4e-2, torch.float32: 1e-3}
COSINES = (("cosine by torch", {"impl": "torch"}), ("cosine by triton", {"impl": "triton"}))


def _linear(
    rows: int, sizes: tuple[int, int], device: str, make: Callable[..., Step], dtype: torch.dtype = DTYPE
) -> dict[str, Step]:
    """Layers beside the plain one; the bare product by ours is the part of cuBLAS's rate that is left."""
    x = torch.randn(rows, sizes[0], device=device, dtype=dtype)
    options = {"bias": False, "device": device, "dtype": dtype}
    layers: dict[str, nn.Module] = {"plain": nn.Linear(*sizes, **options)}
    for name, extra in (
        *COSINES,
        ("centered", {"centered": True}),
        *((("cosine in 8 bits", {"precision": "fp8"}),) if dtype == torch.bfloat16 else ()),
    ):
        layers[name] = cosnorm.nn.CosineLinear(*sizes, **options, **extra)
    layers["normalize + linear by hand"] = ByHand(*sizes, **options)
    layers["by hand, compiled"] = layers["normalize + linear by hand"]
    for layer in layers.values():
        with torch.no_grad():
            layer.weight.copy_(layers["plain"].weight)
    layers["weight norm"] = nn.utils.parametrizations.weight_norm(nn.Linear(*sizes, **options))
    return {name: make(_compiled(layer, name, device), x) for name, layer in layers.items()}


def _compiled(layer: nn.Module, name: str, device: str) -> nn.Module:
    """The layer as torch.compile makes it where its name says so; in small, on a CPU, as it is."""
    if not name.endswith("compiled") or device == "cpu":
        return layer
    return torch.compile(layer)  # type: ignore[return-value, unused-ignore]


def _conv(samples: int, channels: int, side: int, device: str, dtype: torch.dtype = DTYPE) -> dict[str, Step]:
    """A 3×3 convolution of ResNet-50, channels last."""
    x = torch.randn(samples, channels, side, side, device=device, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    options = {"padding": 1, "bias": False, "device": device, "dtype": dtype}
    plain = nn.Conv2d(channels, channels, 3, **options)
    layers: dict[str, nn.Module] = {"plain": plain}
    for name, extra in (*COSINES, ("centered", {"centered": True})):
        layers[name] = cosnorm.nn.CosineConv2d(channels, channels, 3, **options, **extra)
        with torch.no_grad():
            layers[name].weight.copy_(plain.weight)
    layers["batch norm"] = nn.Sequential(
        nn.Conv2d(channels, channels, 3, **options), nn.BatchNorm2d(channels, device=device, dtype=dtype)
    )
    return {name: training(layer.to(memory_format=torch.channels_last), x) for name, layer in layers.items()}


def _network(samples: int, device: str, how: str) -> dict[str, Step]:
    """A step of the paper's CIFAR network, with gradient descent: eager, compiled, or as a CUDA graph."""
    images = torch.randn(samples, 3, 24, 24, device=device)
    labels = torch.arange(samples, device=device) % 10

    def step(method: str) -> Step:
        network = cnn((3, 24, 24), (64, 64), (384, 192), 10, method).to(device)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        call = torch.compile(network) if how == "compiled" and device != "cpu" else network

        def train() -> None:
            optimizer.zero_grad()
            F.cross_entropy(call(images), labels).backward()
            optimizer.step()

        return _graph(train) if how == "graph" and device != "cpu" else train

    methods = {"plain": "baseline", "cosine": "cosine", "centered": "centered", "batch norm": "batch"}
    return {name: step(method) for name, method in methods.items()}


def _graph(step: Callable[[], None]) -> Step:
    """The step as a CUDA graph, after a few that are not."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _nt_xent(pairs: int, size: int, device: str, *, plain: bool) -> dict[str, Step]:
    """Beside the bare products of a blocked loss: logits, logits again, and one product for each side."""
    views = [torch.randn(pairs, size, device=device, dtype=DTYPE, requires_grad=True) for _ in range(2)]
    rows = torch.cat([view.detach() for view in views])

    def products() -> None:
        for part in rows.split(CHUNK):
            for _ in range(2):
                logits = part @ rows.t()
            logits @ rows
            logits.t() @ part

    def ours(impl: str) -> Step:
        return loss_training(lambda a, b: nt_xent_loss(a, b, temperature=TEMPERATURE, impl=impl), *views)

    steps: dict[str, Step] = {"plain": products} if plain else {}
    steps["ours by triton"] = ours("triton")
    if plain:
        steps["ours by torch"] = ours("torch")
    return steps


def _heads(number: int, size: int, classes: int, device: str) -> dict[str, Step]:
    embeddings = torch.randn(number, size, device=device, dtype=DTYPE, requires_grad=True)
    weight = torch.randn(classes, size, device=device, dtype=DTYPE, requires_grad=True)
    labels = torch.randint(classes, (number,), device=device)
    rows = torch.arange(number, device=device)

    def by_hand(embeddings: Tensor, weight: Tensor) -> Tensor:
        cosines = F.linear(F.normalize(embeddings), F.normalize(weight)).float()
        cosines = cosines.index_put((rows, labels), cosines[rows, labels] - MARGIN)
        return F.cross_entropy(SCALE * cosines, labels)

    def ours(embeddings: Tensor, weight: Tensor, impl: str) -> Tensor:
        margin = AdditiveCosine(MARGIN)
        return margin_cross_entropy(embeddings, weight, labels, margin=margin, scale=SCALE, impl=impl)

    steps = {"plain": loss_training(by_hand, embeddings, weight)}
    for impl in ("torch", "triton"):
        steps[f"ours by {impl}"] = loss_training(partial(ours, impl=impl), embeddings, weight)
    for name, peer in _peers(labels).items():
        steps[name] = loss_training(peer, embeddings, weight)
    return steps


def _peers(labels: Tensor) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Blocked linear losses of others, where they are installed: rows are normalized by hand, no margin."""
    found: dict[str, Callable[[Tensor, Tensor], Tensor]] = {}
    if labels.device.type == "cpu":
        return found  # they run on a GPU alone
    if importlib.util.find_spec("liger_kernel"):
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        fused = LigerFusedLinearCrossEntropyLoss()
        found["Liger-Kernel without margin"] = lambda embeddings, weight: fused(
            F.normalize(weight), SCALE * F.normalize(embeddings), labels
        )
    if importlib.util.find_spec("cut_cross_entropy"):
        from cut_cross_entropy import linear_cross_entropy

        found["cut-cross-entropy without margin"] = lambda embeddings, weight: linear_cross_entropy(
            SCALE * F.normalize(embeddings), F.normalize(weight), labels
        )
    return found


PEERS = ("Liger-Kernel without margin", "cut-cross-entropy without margin")


def cases(device: str = "cuda", divisor: int = 1, quick: bool = False) -> list[Case]:
    """The cases of `make gpu` and `make bench-gpu`, those that matter most first.

    Args:
        device: where they run.
        divisor: of the sizes, for tests.
        quick: those of `make gpu-quick` alone.
    """

    def case(
        name: str, make: Callable[[], dict[str, Step]], dtype: torch.dtype = DTYPE, **options: tuple[str, ...]
    ) -> Case:
        return Case(f"gpu-{name}", make, tolerance=TOLERANCE[dtype], **options)

    side, pairs, size = 8192 // divisor, 65_536 // divisor, max(16, 512 // divisor)
    samples, number, classes = max(1, 128 // divisor), max(8, 4096 // divisor), 1_000_000 // divisor
    tokens, width = max(8, 64 * 197 // divisor), max(16, 768 // divisor)  # a batch of 64 of ViT-B
    others = ("plain", "weight norm", "cosine in 8 bits", "centered")
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        kind = str(dtype)[6:]
        for sizes in ((width, 4 * width), (4 * width, width)):
            name = f"vit-b-training-{tokens}x{sizes[0]}-{sizes[1]}-{kind}"
            make = partial(_linear, tokens, sizes, device, training, dtype)
            found.append(case(name, make, dtype, different=others))
        for channels, length in ((64, 56), (128, 28), (256, 14), (512, 7)):
            channels, length = max(4, channels // divisor), min(length, 56 // min(divisor, 8))
            name = f"resnet-50-conv-{samples}x{channels}x{length}x{length}-{kind}"
            make = partial(_conv, samples, channels, length, device, dtype)
            unlike = ("plain", "batch norm", "centered")
            found.append(case(name, make, dtype, different=unlike))
    found = list({one.name: one for one in found}.values())
    square = partial(_linear, side, (side, side), device)
    batch = max(4, 128 // divisor)
    networks = [
        case(f"cifar-step-{batch}-{how}", partial(_network, batch, device, how))
        for how in ("eager", "compiled", "graph")
    ]
    large = [
        case(f"linear-training-{side}", partial(square, training), different=others),
        case(f"nt-xent-2x{pairs}x{size}", lambda: _nt_xent(pairs, size, device, plain=True)),
        case(
            f"heads-{number}x{size}-{classes}",
            lambda: _heads(number, size, classes, device),
            different=PEERS,
        ),
        case(f"linear-inference-{side}", partial(square, inference), different=others),
        case(f"nt-xent-2x{8 * pairs}x{size}", lambda: _nt_xent(8 * pairs, size, device, plain=False)),
    ]
    if quick:
        return [found[0], found[2], networks[2], *large[:3]]
    return [*found, *networks, *large]
