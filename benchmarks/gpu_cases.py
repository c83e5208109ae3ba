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

DTYPE, CHUNK = torch.bfloat16, 8192
# Of bfloat16, as a part of the largest number.
TOLERANCE = 4e-2


def _linear(side: int, device: str, make: Callable[..., Step]) -> dict[str, Step]:
    """Square layers; the ratio of the bare product to ours is the part of cuBLAS's rate that is left."""
    x = torch.randn(side, side, device=device, dtype=DTYPE)
    options = {"bias": False, "device": device, "dtype": DTYPE}
    layers: dict[str, nn.Module] = {"plain": nn.Linear(side, side, **options)}
    for name, extra in (
        ("cosine by torch", {"impl": "torch"}),
        ("cosine by triton", {"impl": "triton"}),
        ("cosine in 8 bits", {"precision": "fp8"}),
    ):
        layers[name] = cosnorm.nn.CosineLinear(side, side, **options, **extra)
    layers["normalize + linear by hand"] = ByHand(side, side, **options)
    for layer in layers.values():
        with torch.no_grad():
            layer.weight.copy_(layers["plain"].weight)
    layers["weight norm"] = nn.utils.parametrizations.weight_norm(nn.Linear(side, side, **options))
    return {name: make(layer, x) for name, layer in layers.items()}


def _conv(samples: int, device: str) -> dict[str, Step]:
    x = torch.randn(samples, 64, 56, 56, device=device, dtype=DTYPE)
    x = x.contiguous(memory_format=torch.channels_last)
    options = {"padding": 1, "bias": False, "device": device, "dtype": DTYPE}
    plain = nn.Conv2d(64, 64, 3, **options)
    layers: dict[str, nn.Module] = {"plain": plain}
    for impl in ("torch", "triton"):
        layers[f"cosine by {impl}"] = cosnorm.nn.CosineConv2d(64, 64, 3, **options, impl=impl)
        with torch.no_grad():
            layers[f"cosine by {impl}"].weight.copy_(plain.weight)
    layers["batch norm"] = nn.Sequential(
        nn.Conv2d(64, 64, 3, **options), nn.BatchNorm2d(64, device=device, dtype=DTYPE)
    )
    return {name: training(layer.to(memory_format=torch.channels_last), x) for name, layer in layers.items()}


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


def cases(device: str = "cuda", divisor: int = 1) -> list[Case]:
    """The cases of `make bench-gpu`."""

    def case(name: str, make: Callable[[], dict[str, Step]], **options: tuple[str, ...]) -> Case:
        return Case(f"gpu-{name}", make, tolerance=TOLERANCE, **options)

    side, pairs, size = 8192 // divisor, 65_536 // divisor, max(16, 512 // divisor)
    samples, number, classes = max(1, 256 // divisor), max(8, 4096 // divisor), 1_000_000 // divisor
    others = ("plain", "weight norm", "cosine in 8 bits")
    return [
        case(f"linear-inference-{side}", lambda: _linear(side, device, inference), different=others),
        case(f"linear-training-{side}", lambda: _linear(side, device, training), different=others),
        case(f"conv-{samples}", lambda: _conv(samples, device), different=("plain", "batch norm")),
        case(f"nt-xent-2x{pairs}x{size}", lambda: _nt_xent(pairs, size, device, plain=True)),
        case(f"nt-xent-2x{8 * pairs}x{size}", lambda: _nt_xent(8 * pairs, size, device, plain=False)),
        case(
            f"heads-{number}x{size}-{classes}",
            lambda: _heads(number, size, classes, device),
            different=PEERS,
        ),
    ]
