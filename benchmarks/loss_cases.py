"""Losses: ours, the plain formula with its N×N or N×C logits, and the library most people use."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.registry import Case, Step
from cosnorm.functional import (
    AdaFaceMargin,
    AdditiveAngle,
    AdditiveCosine,
    CurricularMargin,
    margin_cross_entropy,
)
from cosnorm.losses import nt_xent_loss

TEMPERATURE, MARGIN, SCALE = 0.1, 0.35, 30.0
ANGLE, ADAPTIVE = 0.5, 0.4


def loss_training(loss: Callable[..., Tensor], *leaves: Tensor) -> Step:
    """Forward and backward; gives the loss and the gradients, for the comparison before the clock starts."""

    def step() -> list[Tensor]:
        for leaf in leaves:
            leaf.grad = None
        value = loss(*leaves)
        value.backward()
        return [value.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    return step


def plain_nt_xent(view1: Tensor, view2: Tensor) -> Tensor:
    rows = F.normalize(torch.cat([view1, view2]), dim=1)
    logits = (rows @ rows.t() / TEMPERATURE).fill_diagonal_(-torch.inf)
    number = len(rows)
    return F.cross_entropy(logits, torch.arange(number).roll(number // 2))


def metric_learning_nt_xent() -> Callable[[Tensor, Tensor], Tensor]:
    from pytorch_metric_learning.losses import NTXentLoss

    criterion = NTXentLoss(temperature=TEMPERATURE)

    def loss(view1: Tensor, view2: Tensor) -> Tensor:
        return criterion(torch.cat([view1, view2]), torch.arange(len(view1)).repeat(2))

    return loss


def nt_xent(pairs: int, size: int, *, plain: bool = True, peer: bool = False) -> dict[str, Step]:
    views = [torch.randn(pairs, size, requires_grad=True) for _ in range(2)]
    steps = {}
    if plain:
        steps["plain"] = loss_training(plain_nt_xent, *views)
    steps["ours"] = loss_training(lambda a, b: nt_xent_loss(a, b, temperature=TEMPERATURE), *views)
    if peer:
        steps["pytorch-metric-learning"] = loss_training(metric_learning_nt_xent(), *views)
    return steps


def heads(number: int, size: int, classes: int, *, plain: bool = True) -> dict[str, Step]:
    embeddings = torch.randn(number, size, requires_grad=True)
    weight = torch.randn(classes, size, requires_grad=True)
    labels = torch.randint(classes, (number,))
    rows = torch.arange(number)

    def by_hand(embeddings: Tensor, weight: Tensor) -> Tensor:
        cosines = F.linear(F.normalize(embeddings), F.normalize(weight))
        cosines[rows, labels] -= MARGIN  # the cheapest way to write a margin
        return F.cross_entropy(SCALE * cosines, labels)

    def without_margin(embeddings: Tensor, weight: Tensor) -> Tensor:
        return F.cross_entropy(SCALE * F.linear(F.normalize(embeddings), F.normalize(weight)), labels)

    def ours(embeddings: Tensor, weight: Tensor) -> Tensor:
        return margin_cross_entropy(embeddings, weight, labels, margin=AdditiveCosine(MARGIN), scale=SCALE)

    steps = {}
    if plain:
        steps["plain"] = loss_training(by_hand, embeddings, weight)
        steps["plain without margin"] = loss_training(without_margin, embeddings, weight)
    steps["ours"] = loss_training(ours, embeddings, weight)
    return steps


def arcface(embeddings: Tensor, cosines: Tensor) -> Tensor:
    """ψ of the own cosines, as it is usually written."""
    angle = cosines.acos() + ANGLE
    return torch.where(angle <= math.pi, angle.cos(), cosines - ANGLE * math.sin(ANGLE))


def adaface(embeddings: Tensor, cosines: Tensor) -> Tensor:
    norms = embeddings.detach().norm(dim=1).clamp(1e-3, 100)
    quality = ((norms - 20) / (100 + 1e-3) * 0.333).clamp(-1, 1)
    return (cosines.acos() - ADAPTIVE * quality).clamp(0, math.pi).cos() - ADAPTIVE * (1 + quality)


def curricularface(embeddings: Tensor, cosines: Tensor) -> Tensor:
    return (cosines.acos() + ANGLE).cos()


def margin_heads(name: str, number: int, size: int, classes: int) -> dict[str, Step]:
    """The formula by hand with one margin; what is remembered of former batches stays as it is."""
    embeddings = torch.randn(number, size, requires_grad=True)
    weight = torch.randn(classes, size, requires_grad=True)
    labels = torch.randint(classes, (number,))
    rows = torch.arange(number)
    by_hand, margin = {
        "arcface": (arcface, AdditiveAngle(ANGLE)),
        "adaface": (adaface, AdaFaceMargin(ADAPTIVE).eval()),
        "curricularface": (curricularface, CurricularMargin(ANGLE).eval()),
    }[name]

    def plain(embeddings: Tensor, weight: Tensor) -> Tensor:
        cosines = F.linear(F.normalize(embeddings), F.normalize(weight))
        own = by_hand(embeddings, cosines[rows, labels])
        if name == "curricularface":  # t = 0
            cosines = torch.where(cosines > own.detach().unsqueeze(1), cosines.square(), cosines)
        cosines[rows, labels] = own
        return F.cross_entropy(SCALE * cosines, labels)

    def ours(embeddings: Tensor, weight: Tensor) -> Tensor:
        return margin_cross_entropy(embeddings, weight, labels, margin=margin, scale=SCALE)

    return {
        "plain": loss_training(plain, embeddings, weight),
        "ours": loss_training(ours, embeddings, weight),
    }


CASES = [
    Case("nt-xent-2x256x128", lambda: nt_xent(256, 128, peer=True)),
    Case("nt-xent-2x2048x128", lambda: nt_xent(2048, 128)),
    Case("nt-xent-2x8192x128", lambda: nt_xent(8192, 128)),
    Case("nt-xent-2x65536x128", lambda: nt_xent(65536, 128, plain=False)),
    Case("heads-512x128-10000", lambda: heads(512, 128, 10_000), different=("plain without margin",)),
    Case("heads-512x128-100000", lambda: heads(512, 128, 100_000), different=("plain without margin",)),
    Case("arcface-512x128-100000", lambda: margin_heads("arcface", 512, 128, 100_000)),
    Case("adaface-512x128-100000", lambda: margin_heads("adaface", 512, 128, 100_000)),
    Case("curricularface-512x128-100000", lambda: margin_heads("curricularface", 512, 128, 100_000)),
    Case("heads-512x128-1000000", lambda: heads(512, 128, 1_000_000, plain=False)),
]
