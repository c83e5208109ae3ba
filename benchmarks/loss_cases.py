"""Losses: ours, the plain formula with its N×N or N×C logits, and the library most people use."""

import math
from collections.abc import Callable
from typing import Any

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
    pairwise_sigmoid_loss,
)
from cosnorm.losses import clip_loss, nt_xent_loss, sup_con_loss

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


def law_of_positives(pairs: int, size: int) -> dict[str, Step]:
    """NT-Xent, and what else its tiles can be told: the ratio is to the first."""
    first = torch.randn(pairs, size)
    views = [one.requires_grad_() for one in (first, first + torch.randn(pairs, size))]
    labels, guide = torch.randint(pairs // 8, (pairs,)), tuple(torch.randn(2, pairs, size))

    def told(**options: Any) -> Step:
        return loss_training(lambda a, b: nt_xent_loss(a, b, temperature=TEMPERATURE, **options), *views)

    def with_labels(view1: Tensor, view2: Tensor) -> Tensor:
        return sup_con_loss(torch.cat([view1, view2]), labels.repeat(2), temperature=TEMPERATURE)

    return {
        "NT-Xent": told(),
        "labels": loss_training(with_labels, *views),
        "threshold": told(false_negative_threshold=0.3),  # of a cosine in three thousand
        "margin": told(false_negative_margin=-0.4),  # of as many
        "guide": told(guide=guide, false_negative_threshold=0.3),
        "guide and margin": told(guide=guide, false_negative_margin=0.3),
    }


def clip_captions(images: int, captions: int, size: int) -> dict[str, Step]:
    """Several captions an image: each finds its image, an image the mean of its captions."""
    rows = [torch.randn(number, size, requires_grad=True) for number in (images, images * captions)]
    image_of = torch.arange(images).repeat_interleave(captions)
    pairs = torch.stack([image_of, torch.arange(len(image_of))], 1)

    def plain(pictures: Tensor, texts: Tensor) -> Tensor:
        logits = F.normalize(pictures) @ F.normalize(texts).t() / TEMPERATURE
        own = logits[image_of, pairs[:, 1]].view(images, captions).mean(1)
        return ((logits.logsumexp(1) - own).mean() + F.cross_entropy(logits.t(), image_of)) / 2

    def ours(pictures: Tensor, texts: Tensor) -> Tensor:
        return clip_loss(pictures, texts, pairs, temperature=TEMPERATURE)

    return {"plain": loss_training(plain, *rows), "ours": loss_training(ours, *rows)}


def siglip(number: int, size: int) -> dict[str, Step]:
    rows = [torch.randn(number, size, requires_grad=True) for _ in range(2)]
    signs = 2 * torch.eye(number) - 1

    def plain(images: Tensor, texts: Tensor) -> Tensor:
        logits = 10 * (F.normalize(images) @ F.normalize(texts).t()) - 10
        return -F.logsigmoid(signs * logits).sum() / number

    return {"plain": loss_training(plain, *rows), "ours": loss_training(pairwise_sigmoid_loss, *rows)}


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
    Case(
        "law-nt-xent-2x2048x128",
        lambda: law_of_positives(2048, 128),
        different=("labels", "threshold", "margin", "guide", "guide and margin"),
    ),
    Case("clip-4096x3x128", lambda: clip_captions(4096, 3, 128)),
    Case("siglip-8192x128", lambda: siglip(8192, 128)),
    Case("heads-512x128-10000", lambda: heads(512, 128, 10_000), different=("plain without margin",)),
    Case("heads-512x128-100000", lambda: heads(512, 128, 100_000), different=("plain without margin",)),
    Case("arcface-512x128-100000", lambda: margin_heads("arcface", 512, 128, 100_000)),
    Case("adaface-512x128-100000", lambda: margin_heads("adaface", 512, 128, 100_000)),
    Case("curricularface-512x128-100000", lambda: margin_heads("curricularface", 512, 128, 100_000)),
    Case("heads-512x128-1000000", lambda: heads(512, 128, 1_000_000, plain=False)),
]
