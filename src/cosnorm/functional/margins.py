"""Margins of the cosine softmax: what replaces the cosine of an embedding and its own class.

A margin maps the angle θ between the two to a value ψ(θ), given cos θ and sin θ. It also gives −dψ/dθ, which
is finite everywhere; dψ/d(cos θ) = −dψ/dθ / sin θ is not. Those that look at more are in `batch_margins`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cosnorm.functional.checks import is_number
from cosnorm.functional.schedules import Number, check_between, check_one, hold, now, shown


class Margin(Protocol):
    """ψ and −dψ/dθ from cos θ and sin θ ≥ 0, element by element."""

    def __call__(self, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        """ψ(θ) and −dψ/dθ."""


@dataclass(frozen=True)
class NoMargin:
    """ψ = cos θ: NormFace (Wang et al., "NormFace", arXiv 1704.06369).

    Example:
        >>> import torch
        >>> NoMargin()(torch.tensor(0.6), torch.tensor(0.8))
        (tensor(0.6000), tensor(0.8000))
    """

    def __call__(self, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        """ψ(θ) and −dψ/dθ."""
        return cosine, sine


@dataclass(frozen=True)
class AdditiveCosine:
    """ψ = cos θ − m: CosFace (Wang et al., arXiv 1801.09414) and AM-Softmax (Wang et al., arXiv 1801.05599).

    Attributes:
        margin: m, at least 0; a tensor of one number is taken as it is, and may learn.

    Example:
        >>> import torch
        >>> AdditiveCosine(0.35)(torch.tensor(0.6), torch.tensor(0.8))
        (tensor(0.2500), tensor(0.8000))
    """

    margin: float | Tensor = 0.35

    def __post_init__(self) -> None:
        if isinstance(self.margin, Tensor):
            check_one("AdditiveCosine", "margin", self.margin)
        elif not 0 <= self.margin <= 2:
            raise ValueError(f"the margin of a cosine must be between 0 and 2, got {self.margin}")

    def __call__(self, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        """ψ(θ) and −dψ/dθ."""
        return cosine - self.margin, sine


@dataclass(frozen=True)
class AdditiveAngle:
    """ψ = cos(θ + m): ArcFace (Deng et al., arXiv 1801.07698, eq. 3).

    Beyond θ = π − m the cosine of θ + m would rise again; there ψ = cos θ − m sin m, which goes on falling
    (below −1, with a step of m sin m − 1 + cos m at π − m), as in the authors' code.

    Attributes:
        margin: m in radians, between 0 and π/2; a tensor of one number is taken as it is, and may learn.

    Example:
        >>> import torch
        >>> AdditiveAngle(0.5)(torch.tensor(0.6), torch.tensor(0.8))
        (tensor(0.1430), tensor(0.9897))
        >>> AdditiveAngle(0.5)(torch.tensor(-1.0), torch.tensor(0.0))
        (tensor(-1.2397), tensor(0.))
    """

    margin: float | Tensor = 0.5

    def __post_init__(self) -> None:
        if isinstance(self.margin, Tensor):
            check_one("AdditiveAngle", "margin", self.margin)
        elif not 0 <= self.margin <= math.pi / 2:
            raise ValueError(
                f"the margin of an angle must be between 0 and π/2, in radians, got {self.margin}; "
                f"for degrees pass math.radians({self.margin:g})"
            )

    def __call__(self, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        """ψ(θ) and −dψ/dθ."""
        return turn(cosine, sine, self.margin)


@dataclass(frozen=True)
class CombinedMargin:
    r"""ψ of the angle a = m₁θ + m₂, less m₃: the combined margin of ArcFace (arXiv 1801.07698, eq. 4).

    .. math:: \psi = (-1)^k \cos a - 2k - m_3, \qquad k = \lfloor a / \pi \rfloor

    Beyond a = π the cosine would rise again; SphereFace's extension (arXiv 1704.08063) goes on
    falling, without a step.

    Attributes:
        multiple: m₁, between 1 and 16.
        angle: m₂ in radians, between 0 and π/2.
        cosine: m₃, between 0 and 2. Each may be a tensor of one number, which is taken as it is.

    Example:
        >>> import torch
        >>> CombinedMargin(1.0, 0.3, 0.2)(torch.tensor(0.6), torch.tensor(0.8))
        (tensor(0.1368), tensor(0.9416))
    """

    multiple: float | Tensor = 1.0
    angle: float | Tensor = 0.0
    cosine: float | Tensor = 0.0

    def __post_init__(self) -> None:
        for name, low, high in (("multiple", 1.0, 16.0), ("angle", 0.0, math.pi / 2), ("cosine", 0.0, 2.0)):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                check_one(type(self).__name__, name, value)
            else:
                check_between(type(self).__name__, name, value, low, high)

    def __call__(self, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        """ψ(θ) and −dψ/dθ."""
        angle = self.multiple * torch.atan2(sine, cosine) + self.angle
        turns = (angle.detach() / math.pi).floor()
        sign = 1 - 2 * turns.remainder(2)
        return sign * angle.cos() - 2 * turns - self.cosine, self.multiple * sign * angle.sin()


@dataclass(frozen=True)
class MultiplicativeAngle:
    r"""ψ of m θ: SphereFace (Liu et al., arXiv 1704.08063), with unit embeddings as SphereFace-R.

    .. math:: \psi = (-1)^k \cos(m\theta) - 2k, \qquad \theta \in [k\pi/m, (k + 1)\pi/m]

    Attributes:
        multiple: m, between 1 and 16; a tensor of one number is taken as it is, and may learn.

    Example:
        >>> import torch
        >>> MultiplicativeAngle(2.0)(torch.tensor(0.6), torch.tensor(0.8))  # cos 2θ, 2 sin 2θ
        (tensor(-0.2800), tensor(1.9200))
    """

    multiple: float | Tensor = 1.35

    def __post_init__(self) -> None:
        CombinedMargin(self.multiple)

    def __call__(self, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        """ψ(θ) and −dψ/dθ."""
        return CombinedMargin(self.multiple)(cosine, sine)


class ScheduledMargin(nn.Module):
    """A margin whose numbers follow the step: it is made anew for each call.

    Args:
        make: makes a margin from numbers: `AdditiveAngle`, ….
        numbers: each a number, a tensor of one (which may be changed in place, or learn), or a function of
            the step, see `cosnorm.functional.Schedule`.

    Attributes:
        number0: the first number, then number1 and so on. Of a tensor a buffer, which is that tensor until
            the margin is copied or its dtype or device changes; changed in place, it is followed.

    Example:
        >>> import torch
        >>> margin = ScheduledMargin(AdditiveCosine, lambda step: 0.1 * step.clamp(max=3))
        >>> margin(torch.tensor(0.6), torch.tensor(0.8))[0], margin(torch.tensor(0.6), torch.tensor(0.8))[0]
        (tensor(0.6000), tensor(0.5000))
    """

    def __init__(self, make: Callable[..., "Margin"], *numbers: Number) -> None:
        super().__init__()
        self.make, self.number = make, len(numbers)
        for place, number in enumerate(numbers):
            hold(self, f"number{place}", number, -math.inf, math.inf)

    def forward(self, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        """ψ(θ) and −dψ/dθ."""
        numbers = (now(getattr(self, f"number{place}")) for place in range(self.number))
        return self.make(*numbers)(cosine, sine)

    def extra_repr(self) -> str:
        """What is made, for `print`."""
        numbers = ", ".join(shown(getattr(self, f"number{place}")) for place in range(self.number))
        return f"{getattr(self.make, '__name__', self.make)}, {numbers}"


def margin_of_numbers(make: Callable[..., Margin], *numbers: Number) -> Margin:
    """A margin of numbers; where one of them may change, one that is made anew for each call."""
    if all(map(is_number, numbers)):
        return make(*numbers)
    return ScheduledMargin(make, *numbers)


def turn(cosine: Tensor, sine: Tensor, margin: float | Tensor) -> tuple[Tensor, Tensor]:
    """The law of `AdditiveAngle` for a margin of each embedding, or one for all: ψ(θ) and −dψ/dθ."""
    along, across = cosine_and_sine(margin)
    inside = torch.atan2(sine, cosine) <= math.pi - margin
    value = torch.where(inside, cosine * along - sine * across, cosine - margin * across)
    slope = torch.where(inside, sine * along + cosine * across, sine)
    return value, slope


def cosine_and_sine(angle: float | Tensor) -> tuple[Any, Any]:
    """Of a number, or of a tensor; a number is brought to no device."""
    if isinstance(angle, Tensor):
        return angle.cos(), angle.sin()
    return math.cos(angle), math.sin(angle)
