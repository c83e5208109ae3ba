"""Margins of the cosine softmax: what replaces the cosine of an embedding and its own class.

A margin maps the angle θ between the two to a value ψ(θ), given cos θ and sin θ. It also gives −dψ/dθ, which
is finite everywhere; dψ/d(cos θ) = −dψ/dθ / sin θ is not.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


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
        margin: m, at least 0.

    Example:
        >>> import torch
        >>> AdditiveCosine(0.35)(torch.tensor(0.6), torch.tensor(0.8))
        (tensor(0.2500), tensor(0.8000))
    """

    margin: float = 0.35

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 2:
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
        margin: m in radians, between 0 and π/2.

    Example:
        >>> import torch
        >>> AdditiveAngle(0.5)(torch.tensor(0.6), torch.tensor(0.8))
        (tensor(0.1430), tensor(0.9897))
        >>> AdditiveAngle(0.5)(torch.tensor(-1.0), torch.tensor(0.0))
        (tensor(-1.2397), tensor(0.))
    """

    margin: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= math.pi / 2:
            raise ValueError(
                f"the margin of an angle must be between 0 and π/2, in radians, got {self.margin}; "
                f"for degrees pass math.radians({self.margin:g})"
            )

    def __call__(self, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        """ψ(θ) and −dψ/dθ."""
        along, across = math.cos(self.margin), math.sin(self.margin)
        inside = torch.atan2(sine, cosine) <= math.pi - self.margin
        value = torch.where(inside, cosine * along - sine * across, cosine - self.margin * across)
        slope = torch.where(inside, sine * along + cosine * across, sine)
        return value, slope
