"""Heads whose margin sees norms, the batch or the step: AdaFace, MagFace, ElasticFace, CurricularFace, …."""

from typing import Any

from cosnorm.functional.batch_margins import (
    AdaFaceMargin,
    CurricularMargin,
    ElasticMargin,
    MagFaceMargin,
)
from cosnorm.functional.margins import CombinedMargin, MultiplicativeAngle, margin_of_numbers
from cosnorm.functional.schedules import Number
from cosnorm.losses.heads import CosineSoftmaxLoss


class AdaFaceLoss(CosineSoftmaxLoss):
    """Cosine softmax with a margin by the norm of each embedding: see `cosnorm.functional.AdaFaceMargin`.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: m in radians.
        concentration: h.
        momentum: how far a step moves the statistics of norms.
        scale: s.
        options: sub_centers, num_sampled, exclude_above, class_weights, label_smoothing, ignore_index,
            reduction, chunk_size, group, impl, device, dtype: see `CosineSoftmaxLoss`.

    Attributes:
        weight: (C, D).
        margin: the `AdaFaceMargin`, whose statistics are in `state_dict`.

    Source: Kim et al., "AdaFace", arXiv 2204.00964.

    Example:
        >>> import torch
        >>> loss = AdaFaceLoss(num_classes=10, embedding_size=4)
        >>> loss(torch.randn(3, 4), torch.tensor([1, 2, 9])).shape, list(loss.state_dict())
        (torch.Size([]), ['weight', 'margin.mean', 'margin.deviation'])
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        margin: Number = 0.4,
        concentration: float = 0.333,
        momentum: float = 0.01,
        scale: Number = 64.0,
        **options: Any,
    ) -> None:
        made = AdaFaceMargin(margin, concentration, momentum)
        super().__init__(num_classes, embedding_size, made, scale, **options)


class MagFaceLoss(CosineSoftmaxLoss):
    """Cosine softmax with a margin and a penalty by the norm: see `cosnorm.functional.MagFaceMargin`.

    Args:
        num_classes: C.
        embedding_size: D.
        norms: l_a and u_a, between which norms are looked at.
        margins: l_m and u_m in radians, the margins there.
        penalty: λ_g.
        scale: s.
        options: see `AdaFaceLoss`.

    Attributes:
        weight: (C, D).

    Source: Meng et al., "MagFace", arXiv 2103.06627.

    Example:
        >>> import torch
        >>> loss = MagFaceLoss(num_classes=10, embedding_size=4)
        >>> loss(20 * torch.randn(3, 4), torch.tensor([1, 2, 9])).shape
        torch.Size([])
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        norms: tuple[float, float] = (10.0, 110.0),
        margins: tuple[float, float] = (0.45, 0.8),
        penalty: Number = 35.0,
        scale: Number = 64.0,
        **options: Any,
    ) -> None:
        made = MagFaceMargin(norms, margins, penalty)
        super().__init__(num_classes, embedding_size, made, scale, **options)


class ElasticFaceLoss(CosineSoftmaxLoss):
    """Cosine softmax with a margin drawn for each embedding: see `cosnorm.functional.ElasticMargin`.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: m, the mean of what is drawn, in radians or a cosine.
        deviation: σ.
        angle: add it to the angle (Arc), or take it from the cosine (Cos).
        sort: the larger ones for the smaller cosines (ElasticFace+).
        scale: s.
        options: see `AdaFaceLoss`.

    Attributes:
        weight: (C, D).

    Source: Boutros et al., "ElasticFace", arXiv 2109.09416.

    Example:
        >>> import torch
        >>> loss = ElasticFaceLoss(num_classes=10, embedding_size=4)
        >>> loss(torch.randn(3, 4), torch.tensor([1, 2, 9])).shape
        torch.Size([])
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        margin: Number = 0.5,
        deviation: float = 0.0125,
        angle: bool = True,
        sort: bool = False,
        scale: Number = 64.0,
        **options: Any,
    ) -> None:
        made = ElasticMargin(margin, deviation, angle=angle, sort=sort)
        super().__init__(num_classes, embedding_size, made, scale, **options)


class CurricularFaceLoss(CosineSoftmaxLoss):
    """Cosine softmax in which hard classes count more with time: see `cosnorm.functional.CurricularMargin`.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: m in radians.
        momentum: how far a step moves t.
        scale: s.
        options: see `AdaFaceLoss`, but label_smoothing.

    Attributes:
        weight: (C, D).
        margin: the `CurricularMargin`, whose t is in `state_dict`.

    Source: Huang et al., "CurricularFace", arXiv 2004.00288.

    Example:
        >>> import torch
        >>> loss = CurricularFaceLoss(num_classes=10, embedding_size=4)
        >>> loss(torch.randn(3, 4), torch.tensor([1, 2, 9])).shape
        torch.Size([])
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        margin: Number = 0.5,
        momentum: float = 0.01,
        scale: Number = 64.0,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, embedding_size, CurricularMargin(margin, momentum), scale, **options)


class SphereFaceLoss(CosineSoftmaxLoss):
    """Cosine softmax whose target is ψ(m θ): see `cosnorm.functional.MultiplicativeAngle`.

    Embeddings are normalized, and multiplied by one scale (SphereFace-R); the first SphereFace multiplies by
    their norms.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: m, what the angle is multiplied by.
        scale: s.
        options: see `AdaFaceLoss`.

    Attributes:
        weight: (C, D).

    Source: Liu et al., "SphereFace", arXiv 1704.08063; Liu et al., "SphereFace Revived", arXiv 2109.05565.

    Example:
        >>> import torch
        >>> loss = SphereFaceLoss(num_classes=10, embedding_size=4)
        >>> loss(torch.randn(3, 4), torch.tensor([1, 2, 9])).shape
        torch.Size([])
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        margin: Number = 1.4,
        scale: Number = 30.0,
        **options: Any,
    ) -> None:
        made = margin_of_numbers(MultiplicativeAngle, margin)
        super().__init__(num_classes, embedding_size, made, scale, **options)


class CombinedMarginLoss(CosineSoftmaxLoss):
    """Cosine softmax whose target is ψ(m₁θ + m₂) − m₃: see `cosnorm.functional.CombinedMargin`.

    Args:
        num_classes: C.
        embedding_size: D.
        multiple: m₁.
        angle: m₂ in radians.
        cosine: m₃.
        scale: s.
        options: see `AdaFaceLoss`.

    Attributes:
        weight: (C, D).

    Source: Deng et al., "ArcFace", arXiv 1801.07698, eq. 4.

    Example:
        >>> import torch
        >>> loss = CombinedMarginLoss(num_classes=10, embedding_size=4, multiple=1.0, angle=0.3, cosine=0.2)
        >>> loss(torch.randn(3, 4), torch.tensor([1, 2, 9])).shape
        torch.Size([])
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        multiple: Number = 1.0,
        angle: Number = 0.3,
        cosine: Number = 0.2,
        scale: Number = 64.0,
        **options: Any,
    ) -> None:
        made = margin_of_numbers(CombinedMargin, multiple, angle, cosine)
        super().__init__(num_classes, embedding_size, made, scale, **options)
