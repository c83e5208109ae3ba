"""Losses with a proxy for each class: Proxy-Anchor and Proxy-NCA; and SphereFace2, a sigmoid for each."""

import math
from typing import Any

from torch import Tensor, nn

from cosnorm.functional.anchors import proxy_anchor_loss
from cosnorm.functional.checks import is_number
from cosnorm.functional.class_sigmoid import class_sigmoid_loss
from cosnorm.functional.margins import NoMargin
from cosnorm.learned import number
from cosnorm.losses.heads import CosineSoftmaxLoss


class SphereFace2Loss(CosineSoftmaxLoss):
    """A sigmoid for each class instead of a softmax over all: see `cosnorm.functional.class_sigmoid_loss`.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: m.
        scale: r.
        power: t.
        balance: λ.
        options: sub_centers, num_sampled, class_weights, ignore_index, reduction, chunk_size, group, device,
            dtype: see `CosineSoftmaxLoss`.

    Attributes:
        weight: (C, D).
        bias: b, (1,), a parameter; at first that for which the loss of orthogonal vectors is least. Over
            processes each has the same.

    Source: Wen et al., "SphereFace2", arXiv 2108.01513.

    Example:
        >>> import torch
        >>> loss = SphereFace2Loss(num_classes=10, embedding_size=4)
        >>> loss(torch.randn(3, 4), torch.tensor([1, 2, 9])).shape
        torch.Size([])
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        margin: float = 0.4,
        scale: float = 40.0,
        power: float = 3.0,
        balance: float = 0.7,
        **options: Any,
    ) -> None:
        refused = {"label_smoothing", "exclude_above", "impl"} & options.keys()
        if refused:
            raise TypeError(f"SphereFace2Loss: there is no {' nor '.join(sorted(refused))} here")
        if not is_number(scale):
            raise TypeError(f"SphereFace2Loss: scale must be a number, got {type(scale).__name__}")
        super().__init__(num_classes, embedding_size, NoMargin(), scale, **options)
        self.margin, self.power, self.balance = margin, power, balance
        start = _least_bias(num_classes, margin, self.scale, power, balance)
        self.bias = nn.Parameter(number(start, self.weight.device, self.weight.dtype))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of embeddings (N, D) of the classes `labels` (N,)."""
        return class_sigmoid_loss(
            embeddings,
            self.weight,
            labels,
            margin=self.margin,
            scale=self.scale,
            bias=self.bias,
            power=self.power,
            balance=self.balance,
            sub_centers=self.sub_centers,
            classes=self._classes(labels),
            class_weights=self.class_weights,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            chunk_size=self.chunk_size,
            group=self.group_name,
        )


class ProxyAnchorLoss(CosineSoftmaxLoss):
    """Each class as an anchor of the batch: see `cosnorm.functional.proxy_anchor_loss`.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: δ.
        scale: α.
        options: ignore_index, chunk_size, group, device, dtype: see `CosineSoftmaxLoss`.

    Attributes:
        weight: the proxies, (C, D).

    Source: Kim et al., "Proxy Anchor Loss for Deep Metric Learning", arXiv 2003.13911.

    Example:
        >>> import torch
        >>> loss = ProxyAnchorLoss(num_classes=10, embedding_size=4)
        >>> loss(torch.randn(3, 4), torch.tensor([1, 2, 9])).shape
        torch.Size([])
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        margin: float = 0.1,
        scale: float = 32.0,
        **options: Any,
    ) -> None:
        refused = options.keys() - {"ignore_index", "chunk_size", "group", "device", "dtype"}
        if refused:
            raise TypeError(f"ProxyAnchorLoss: there is no {' nor '.join(sorted(refused))} here")
        if not is_number(scale):
            raise TypeError(f"ProxyAnchorLoss: scale must be a number, got {type(scale).__name__}")
        super().__init__(num_classes, embedding_size, NoMargin(), scale, **options)
        self.margin = margin

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of embeddings (N, D) of the classes `labels` (N,)."""
        return proxy_anchor_loss(
            embeddings,
            self.weight,
            labels,
            margin=self.margin,
            scale=self.scale,
            ignore_index=self.ignore_index,
            chunk_size=self.chunk_size,
            group=self.group_name,
        )


class ProxyNCALoss(CosineSoftmaxLoss):
    """A softmax over squared distances of unit vectors from proxies: cosine softmax of the scale 2/T.

    With d² = 2 − 2 cos θ, exp(−d²/T) is exp(2 cos θ / T) but for a factor that all classes have. All classes
    are in the sum, the own one too, as in Proxy-NCA++.

    Args:
        num_classes: C.
        embedding_size: D.
        temperature: T.
        options: see `AdaFaceLoss`.

    Attributes:
        weight: the proxies, (C, D).

    Source: Movshovitz-Attias et al., "No Fuss Distance Metric Learning using Proxies", arXiv 1703.07464; Teh
        et al., "ProxyNCA++", arXiv 2004.01113.

    Example:
        >>> import torch
        >>> loss = ProxyNCALoss(num_classes=10, embedding_size=4, temperature=0.5)
        >>> loss.scale
        4.0
    """

    def __init__(
        self, num_classes: int, embedding_size: int, *, temperature: float = 1.0, **options: Any
    ) -> None:
        if not is_number(temperature) or not temperature > 0:
            raise ValueError(f"ProxyNCALoss: temperature must be a positive number, got {temperature!r}")
        super().__init__(num_classes, embedding_size, NoMargin(), 2 / temperature, **options)


def _least_bias(classes: int, margin: float, scale: float, power: float, balance: float) -> float:
    """Where λ σ(−a) = (1 − λ) (C − 1) σ(n), with the logits a and n of the own and another class at cos 0."""
    if classes == 1 or not 0 < balance < 1:
        return 0.0
    base = 2 * 0.5**power - 1
    own, other = scale * (base - margin), scale * (base + margin)
    share = balance / ((1 - balance) * (classes - 1))
    root = math.sqrt((1 - share) ** 2 + 4 * share * math.exp(own - other))
    if share > 1:  # of the two ways to write the root of a square, the one without a difference
        return math.log(share - 1 + root) - math.log(2) - own
    return math.log(2 * share) - other - math.log(1 - share + root)
