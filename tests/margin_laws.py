"""Every margin as its paper writes it, for mpmath and for dense float64 logits; without the library.

To add a margin, add its entry here: all tests of margins run over `LAWS`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosnorm.functional import (
    AdaFaceMargin,
    AdditiveAngle,
    AdditiveCosine,
    CombinedMargin,
    CurricularMargin,
    ElasticMargin,
    MagFaceMargin,
    MultiplicativeAngle,
    NoMargin,
)


class InDigits:
    """What the laws are written in, for numbers of 50 digits."""

    pi, cos, sin, floor = mpmath.mpf(math.pi), mpmath.cos, mpmath.sin, mpmath.floor

    @staticmethod
    def where(condition: bool, one: Any, other: Any) -> Any:
        return one if condition else other

    @staticmethod
    def clip(value: Any, low: float, high: float) -> Any:
        return min(max(value, mpmath.mpf(low)), mpmath.mpf(high))


class InTensors:
    """The same for tensors."""

    pi, cos, sin, floor, clip = math.pi, torch.cos, torch.sin, torch.floor, torch.clamp

    @staticmethod
    def where(condition: Tensor, one: Any, other: Any) -> Tensor:
        return torch.where(condition, one, other)


def added(m: Any, angle: Any, margin: Any) -> Any:
    """ArcFace: cos(θ + m), and beyond θ = π − m cos θ − m sin m."""
    sine = m.sin(margin) if isinstance(margin, Tensor | mpmath.mpf) else math.sin(margin)
    return m.where(angle <= m.pi - margin, m.cos(angle + margin), m.cos(angle) - margin * sine)


def continued(m: Any, angle: Any) -> Any:
    """SphereFace: (−1)^k cos a − 2k."""
    turns = m.clip(m.floor(angle / m.pi), 0, 100)
    return m.cos(m.pi * turns) * m.cos(angle) - 2 * turns


def by_quality(m: Any, angle: Any, norm: Any) -> Any:
    """AdaFace, with a mean of 4 and a deviation of 2."""
    quality = m.clip((m.clip(norm, 1e-3, 100.0) - 4) / (2 + 1e-3) * 0.333, -1, 1)
    return m.cos(m.clip(angle - 0.4 * quality, 0, math.pi)) - 0.4 * (1 + quality)


def by_magnitude(m: Any, angle: Any, norm: Any) -> Any:
    """MagFace: a margin of 0.3 to 0.9 for norms of 2 to 6."""
    return added(m, angle, 0.3 + (0.9 - 0.3) / (6 - 2) * (m.clip(norm, 2.0, 6.0) - 2))


def drawn_out(m: Any, norm: Any) -> Any:
    """MagFace: 0.7 g(a)."""
    norm = m.clip(norm, 2.0, 6.0)
    return 0.7 * (1 / norm + norm / 36)


def harder(cosines: Tensor, angle: Tensor) -> Tensor:
    """CurricularFace, with t = 0.25: the cosines with other classes."""
    return torch.where(cosines > torch.cos(angle + 0.5).unsqueeze(1), cosines * (0.25 + cosines), cosines)


@dataclass(frozen=True)
class Law:
    """A margin.

    make: the margin of the library, in `eval`.
    value: ψ from what it is written in, θ and |x|.
    penalty: what is added to the loss, from |x|.
    negatives: what cosines with other classes count, from these and θ.
    learns: whether the gradient goes into |x|.
    """

    make: Callable[[], Any]
    value: Callable[[Any, Any, Any], Any]
    penalty: Callable[[Any, Any], Any] | None = None
    negatives: Callable[[Tensor, Tensor], Tensor] | None = None
    learns: bool = False


def remembering(margin: nn.Module, **numbers: float) -> nn.Module:
    """In `eval`, with what it would have learned from former batches."""
    for name, number in numbers.items():
        getattr(margin, name).fill_(number)
    return margin.eval()


LAWS: dict[str, Law] = {
    "normface": Law(NoMargin, lambda m, angle, norm: m.cos(angle)),
    "cosface": Law(lambda: AdditiveCosine(0.35), lambda m, angle, norm: m.cos(angle) - 0.35),
    "arcface": Law(lambda: AdditiveAngle(0.5), lambda m, angle, norm: added(m, angle, 0.5)),
    "sphereface": Law(lambda: MultiplicativeAngle(2.5), lambda m, angle, norm: continued(m, 2.5 * angle)),
    "combined": Law(
        lambda: CombinedMargin(1.25, 0.3, 0.2),
        lambda m, angle, norm: continued(m, 1.25 * angle + 0.3) - 0.2,
    ),
    "adaface": Law(lambda: remembering(AdaFaceMargin(0.4), mean=4, deviation=2), by_quality),
    "magface": Law(
        lambda: MagFaceMargin((2, 6), (0.3, 0.9), 0.7).eval(), by_magnitude, drawn_out, learns=True
    ),
    "elasticface": Law(lambda: ElasticMargin(0.5).eval(), lambda m, angle, norm: added(m, angle, 0.5)),
    "curricularface": Law(
        lambda: remembering(CurricularMargin(0.5), ease=0.25),
        lambda m, angle, norm: added(m, angle, 0.5),
        negatives=harder,
    ),
}


def dense(
    x: Tensor,
    weight: Tensor,
    labels: Tensor,
    name: str,
    scale: float,
    sub_centers: int = 1,
    classes: Tensor | None = None,
    above: float = 2.0,
) -> Tensor:
    """The losses of all embeddings by the whole matrix, in float64."""
    law = LAWS[name]
    unit, units = (F.normalize(one.double(), dim=1, eps=1e-300) for one in (x, weight))
    cosines = (unit @ units.T).unflatten(1, (-1, sub_centers)).amax(2)
    norms = x.double().norm(dim=1)
    norms = norms if law.learns else norms.detach()
    own = cosines.gather(1, labels.unsqueeze(1)).squeeze(1)
    angle = own.acos()
    others = cosines if law.negatives is None else law.negatives(cosines, angle.detach())
    logits = scale * others.masked_fill(cosines > above, -torch.inf)
    if classes is not None:
        absent = torch.ones(logits.shape[1], dtype=torch.bool)
        absent[classes] = False
        logits = logits.masked_fill(absent, -torch.inf)
    value = law.value(InTensors, angle, norms)
    losses = F.cross_entropy(
        logits.scatter(1, labels.unsqueeze(1), scale * value.unsqueeze(1)), labels, reduction="none"
    )
    return losses if law.penalty is None else losses + law.penalty(InTensors, norms)
