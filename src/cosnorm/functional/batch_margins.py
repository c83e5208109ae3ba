"""Margins that look at more than an angle: at norms, at the batch, and at what came before.

Such a margin is a module: it is called with `Targets`, what there is to see of each embedding, and gives a
`Changed`. What it remembers of former batches is in its `state_dict`, and is that of all processes.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cosnorm.functional.margins import cosine_and_sine, turn
from cosnorm.functional.schedules import Number, check_between, hold, now, shown
from cosnorm.operators.statistics import statistics_of


class Targets(NamedTuple):
    """What a margin sees of each embedding and its own class, (N,) each, of float64 where a device has it.

    Attributes:
        cosine: cos θ; it has no gradient here, that goes by the slope.
        sine: sin θ ≥ 0.
        norms: |x|, exact at every scale; differentiable.
        counted: whether the embedding counts: False where its label is ignored.
        group: name of the processes over which the batch is spread; "" for one.

    Example:
        >>> Targets(*torch.tensor([[0.6], [0.8], [5.0]]), torch.tensor([True]), "").norms
        tensor([5.])
    """

    cosine: Tensor
    sine: Tensor
    norms: Tensor
    counted: Tensor
    group: str


class Changed(NamedTuple):
    """What a margin makes of it.

    Attributes:
        value: ψ of each embedding, (N,); differentiable in norms and in what learns.
        slope: −dψ/dθ, (N,); a constant.
        penalty: what is added to the loss of each embedding, (N,), differentiable; None: nothing.
        hard: cosines with other classes above this, (N,), count as c (t + c); None: as they are.
        ease: t, a constant of shape ().

    Example:
        >>> Changed(torch.tensor([0.25]), torch.tensor([0.8])).penalty is None
        True
    """

    value: Tensor
    slope: Tensor
    penalty: Tensor | None = None
    hard: Tensor | None = None
    ease: Tensor | None = None


class BatchMargin(nn.Module):
    """What margins that see `Targets` have in common; their statistics follow the batches in training only.

    To write one: subclass it, and give `forward(targets)`, which returns a `Changed`.

    Example:
        >>> class Short(BatchMargin):
        ...     "cos θ − m for embeddings of small norm alone."
        ...     def forward(self, targets):
        ...         margin = 0.3 * (targets.norms.detach() < 1)
        ...         return Changed(targets.cosine - margin, targets.sine)
        >>> Short()(Targets(*torch.tensor([[0.6], [0.8], [0.5]]), torch.tensor([True]), "")).value
        tensor([0.3000])
    """

    def forward(self, targets: Targets) -> Changed:
        """ψ, its slope, and what else there is."""
        raise NotImplementedError

    @torch.no_grad()
    def _follow(self, running: Tensor, found: Tensor, known: Tensor, momentum: float) -> None:
        """Move a running statistic towards that of the batch, where it has one."""
        running.lerp_(torch.where(known, found.to(running.dtype), running), momentum)

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Statistics stay float32: in a half type a small step towards those of a batch would be lost."""
        super()._apply(function, recurse)
        for name, buffer in self.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(self, name, buffer.to(torch.float32))
        return self

    def extra_repr(self) -> str:
        """The numbers, for `print`."""
        return ", ".join(f"{name}={shown(getattr(self, name))}" for name in self._shown)

    _shown: tuple[str, ...] = ()


class AdaFaceMargin(BatchMargin):
    r"""AdaFace: the larger the norm, the more a hard embedding counts, for norms tell the quality of images.

    .. math:: \psi = \cos(\theta - m k) - m (1 + k), \qquad
        k = \max\Big({-1}, \min\Big(1, \frac{|x| - \mu}{\sigma + \varepsilon} h\Big)\Big)

    The angle θ − m k is cut to [0, π]. Mean μ and deviation σ of the norms follow those of the batches of all
    processes; norms are cut to [0.001, 100] there, and have no gradient, both as in the authors' code.
    Embeddings that are ignored, or not finite, are left out of them.

    Args:
        margin: m in radians, between 0 and π/2; a number, a tensor of one, or a function of the step.
        concentration: h, positive.
        momentum: how far a step moves the statistics towards those of its batch, in (0, 1].

    Attributes:
        mean: μ, a buffer, 20 at first.
        deviation: σ, a buffer, 100 at first.

    Source: Kim et al., "AdaFace", arXiv 2204.00964, and the authors' code.

    Example:
        >>> one = torch.tensor([True])
        >>> margin = AdaFaceMargin(0.4).eval()
        >>> margin(Targets(*torch.tensor([[0.6], [0.8], [20.0]]), one, "")).value  # k = 0: cos θ − m
        tensor([0.2000])
    """

    mean: Tensor
    deviation: Tensor
    _shown = ("margin", "concentration", "momentum")

    def __init__(self, margin: Number = 0.4, concentration: float = 0.333, momentum: float = 0.01) -> None:
        super().__init__()
        hold(self, "margin", margin, 0.0, math.pi / 2)
        check_between("AdaFaceMargin", "concentration", concentration, 1e-6, 1e6)
        check_between("AdaFaceMargin", "momentum", momentum, 1e-9, 1.0)
        self.concentration, self.momentum = float(concentration), float(momentum)
        self.register_buffer("mean", torch.full((), 20.0, dtype=torch.float32))
        self.register_buffer("deviation", torch.full((), 100.0, dtype=torch.float32))

    def forward(self, targets: Targets) -> Changed:
        """ψ and its slope; in training the statistics follow first."""
        norms, margin = targets.norms.detach(), now(self.margin)
        cut = norms.clamp(1e-3, 100.0)
        if self.training:
            number, mean, deviation = statistics_of(cut, targets.counted & norms.isfinite(), targets.group)
            self._follow(self.mean, mean, number > 0, self.momentum)
            self._follow(self.deviation, deviation, number > 1, self.momentum)
        quality = (cut - self.mean) / (self.deviation.to(cut.dtype) + 1e-3) * self.concentration
        quality = quality.clamp(-1, 1)
        angle = torch.atan2(targets.sine, targets.cosine) - margin * quality
        inside = angle.clamp(0, math.pi)
        return Changed(inside.cos() - margin * (1 + quality), inside.sin())


class MagFaceMargin(BatchMargin):
    r"""MagFace: a margin that grows with the norm, and a penalty g that draws norms out.

    .. math:: \psi = \cos(\theta + m(a)), \quad m(a) = l_m + \frac{u_m - l_m}{u_a - l_a} (a - l_a), \quad
        g(a) = \frac1a + \frac{a}{u_a^2}

    with a = \|x\|, cut to [l_a, u_a]; λ_g g(a) is added to the loss of each embedding. Both have their
    gradients in the norm, 0 beyond the bounds. Where θ + m(a) > π see `AdditiveAngle`.

    Args:
        norms: l_a and u_a, between which norms are looked at.
        margins: l_m and u_m in radians, the margins there.
        weight: λ_g.

    Source: Meng et al., "MagFace", arXiv 2103.06627, and the authors' code.

    Example:
        >>> one = torch.tensor([True])
        >>> margin = MagFaceMargin(norms=(10, 110), margins=(0.45, 0.8), weight=35.0)
        >>> changed = margin(Targets(*torch.tensor([[0.6], [0.8], [10.0]]), one, ""))
        >>> changed.value, changed.penalty  # cos(θ + 0.45), 35 (1/10 + 10/110²)
        (tensor([0.1923]), tensor([3.5289]))
    """

    _shown = ("weight",)

    def __init__(
        self,
        norms: tuple[float, float] = (10.0, 110.0),
        margins: tuple[float, float] = (0.45, 0.8),
        weight: Number = 35.0,
    ) -> None:
        super().__init__()
        if not 0 < norms[0] < norms[1]:
            raise ValueError(f"MagFaceMargin: norms must be 0 < l_a < u_a, got {norms}")
        if not 0 <= margins[0] <= margins[1] <= math.pi / 2:
            raise ValueError(f"MagFaceMargin: margins must be 0 ≤ l_m ≤ u_m ≤ π/2, in radians, got {margins}")
        self.norms, self.margins = (float(norms[0]), float(norms[1])), (float(margins[0]), float(margins[1]))
        hold(self, "weight", weight, 0.0, math.inf)

    def forward(self, targets: Targets) -> Changed:
        """ψ, its slope and the penalty."""
        (low, high), (least, most) = self.norms, self.margins
        norms = targets.norms.clamp(low, high)
        margin = least + (most - least) / (high - low) * (norms - low)
        value, slope = turn(targets.cosine, targets.sine, margin)
        return Changed(value, slope, now(self.weight) * (1 / norms + norms / high**2))

    def extra_repr(self) -> str:
        """The numbers, for `print`."""
        return f"norms={self.norms}, margins={self.margins}, {super().extra_repr()}"


class ElasticMargin(BatchMargin):
    r"""ElasticFace: a margin drawn anew for each embedding; in `eval` it is the mean.

    .. math:: \psi = \cos(\theta + e) \,\text{(Arc)} \quad\text{or}\quad \cos\theta - e \,\text{(Cos)},
        \qquad e \sim N(m, \sigma)

    Args:
        margin: m, in radians or a cosine; a number, a tensor of one, or a function of the step.
        deviation: σ.
        angle: add e to the angle (Arc), or take it from the cosine (Cos).
        sort: give the larger of the margins that are drawn to the smaller of the cosines (ElasticFace+).

    Source: Boutros et al., "ElasticFace", arXiv 2109.09416.

    Example:
        >>> one = torch.tensor([True])
        >>> margin = ElasticMargin(0.35, angle=False).eval()
        >>> margin(Targets(*torch.tensor([[0.6], [0.8], [1.0]]), one, "")).value
        tensor([0.2500])
    """

    _shown = ("margin", "deviation", "angle", "sort")

    def __init__(
        self, margin: Number = 0.5, deviation: float = 0.0125, *, angle: bool = True, sort: bool = False
    ) -> None:
        super().__init__()
        hold(self, "margin", margin, 0.0, math.pi / 2 if angle else 2.0)
        check_between("ElasticMargin", "deviation", deviation, 0.0, 1.0)
        self.deviation, self.angle, self.sort = float(deviation), angle, sort

    def forward(self, targets: Targets) -> Changed:
        """ψ and its slope."""
        cosine, margin = targets.cosine, now(self.margin)
        drawn = torch.zeros_like(cosine)
        if self.training and self.deviation:
            drawn = torch.randn_like(cosine) * self.deviation
        if self.sort:
            drawn = drawn.scatter(0, cosine.argsort(descending=True), drawn.sort().values)
        margin = margin + drawn
        if not self.angle:
            return Changed(cosine - margin, targets.sine)
        return Changed(*turn(cosine, targets.sine, margin))


class CurricularMargin(BatchMargin):
    r"""CurricularFace: ψ = cos(θ + m), and other classes that are nearer than that count more as t grows.

    .. math:: c \mapsto c\,(t + c) \quad\text{for}\quad c = \cos\theta_j > \cos(\theta_y + m)

    t follows the mean of cos θ_y over the batches of all processes. Beyond θ = π − m see `AdditiveAngle`.
    Not with label smoothing, which wants cosines as they are, nor in kernels.

    Args:
        margin: m in radians, between 0 and π/2; a number, a tensor of one, or a function of the step.
        momentum: how far a step moves t towards the mean of its batch, in (0, 1].

    Attributes:
        ease: t, a buffer, 0 at first.

    Source: Huang et al., "CurricularFace", arXiv 2004.00288, and the authors' code.

    Example:
        >>> margin = CurricularMargin(0.5)
        >>> changed = margin(Targets(*torch.tensor([[0.6], [0.8], [1.0]]), torch.tensor([True]), ""))
        >>> changed.hard, changed.ease  # cos(θ + 0.5), 0.01 · 0.6
        (tensor([0.1430]), tensor(0.0060))
    """

    ease: Tensor
    _shown = ("margin", "momentum")

    def __init__(self, margin: Number = 0.5, momentum: float = 0.01) -> None:
        super().__init__()
        hold(self, "margin", margin, 0.0, math.pi / 2)
        check_between("CurricularMargin", "momentum", momentum, 1e-9, 1.0)
        self.momentum = float(momentum)
        self.register_buffer("ease", torch.zeros((), dtype=torch.float32))

    def forward(self, targets: Targets) -> Changed:
        """ψ and its slope, and which cosines are hard; in training t follows first."""
        margin = now(self.margin)
        if self.training:
            number, mean, _ = statistics_of(targets.cosine, targets.counted, targets.group)
            self._follow(self.ease, mean, number > 0, self.momentum)
        along, across = cosine_and_sine(margin)
        hard = targets.cosine * along - targets.sine * across
        value, slope = turn(targets.cosine, targets.sine, margin)
        return Changed(value, slope, hard=hard.detach(), ease=self.ease.clone())
