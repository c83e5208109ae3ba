"""Losses with a center for each class: center loss, island loss, and the latter beside AM-Softmax."""

from typing import Any

import torch
from torch import Tensor, nn

from cosnorm.functional.arrays import takes_arrays
from cosnorm.functional.checks import (
    Reduction,
    check_count,
    check_dtype,
    check_labels,
    check_reduction,
    check_rows_of_classes,
    reduced,
)
from cosnorm.functional.counting import check_ignored
from cosnorm.functional.overrides import overridable
from cosnorm.losses.heads import AMSoftmaxLoss
from cosnorm.norms import accumulation_dtype
from cosnorm.operators.indices import indices_in
from cosnorm.operators.unit_vectors import unit_vectors


@overridable
@takes_arrays
def center_loss(
    embeddings: Tensor,
    labels: Tensor,
    centers: Tensor,
    *,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Half the squared distance of each embedding from the center of its class.

    .. math:: \ell_i = \tfrac12 |x_i - c_{y_i}|^2

    Args:
        embeddings: shape (N, D).
        labels: classes, whole numbers in [0, C), shape (N,).
        centers: shape (C, D), on the same device.
        ignore_index: a label whose embeddings have loss 0 and do not count.
        reduction: "mean", "sum", or "none": shape (N,).

    Returns:
        The loss: float32 for half types. No matrix of N×C distances is made.

    Raises:
        TypeError: not tensors, wrong dtypes.
        ValueError: shapes that do not fit, labels out of range.

    Source: Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016, eq.
        2. The centers learn by gradient, with the optimizer of the model, not by that paper's update.

    Example:
        >>> import torch
        >>> center_loss(torch.tensor([[3.0, 4.0]]), torch.tensor([1]), torch.zeros(2, 2))
        tensor(12.5000)
    """
    where = "center_loss"
    check_rows_of_classes(where, embeddings=embeddings, centers=centers)
    check_labels(where, labels, embeddings)
    check_reduction(where, reduction)
    check_ignored(where, ignore_index)
    ignored = labels == ignore_index
    own = centers[indices_in(labels.masked_fill(ignored, 0), centers.shape[0], f"{where}: labels must be")]
    dtype = accumulation_dtype(own.dtype)
    losses = (embeddings.to(dtype) - own.to(dtype)).square().sum(1) / 2
    losses = losses.masked_fill(ignored, 0)
    return losses if reduction == "none" else reduced(losses.sum(), (~ignored).sum(), reduction)


@overridable
@takes_arrays
def island_loss(
    embeddings: Tensor,
    labels: Tensor,
    centers: Tensor,
    *,
    island_weight: float = 10.0,
    ignore_index: int = -100,
) -> Tensor:
    r"""Center loss, and how much the centers of different classes point in the same direction.

    .. math:: \ell = \frac1N \sum_i \tfrac12 |x_i - c_{y_i}|^2
        + \lambda \sum_j \sum_{k \ne j} \Big( \frac{c_j \cdot c_k}{|c_j|\,|c_k|} + 1 \Big)

    The double sum is |Σ ĉ|² − Σ |ĉ|² + C (C − 1) with unit centers ĉ: no C×C matrix is made.

    Args:
        embeddings: shape (N, D).
        labels: classes, whole numbers in [0, C), shape (N,).
        centers: shape (C, D), on the same device.
        island_weight: λ.
        ignore_index: a label whose embeddings do not count.

    Returns:
        The loss, shape (): float32 for half types.

    A zero center has cosine 0 with the others and receives gradient 0 from the double sum.

    Raises:
        TypeError: not tensors, wrong dtypes.
        ValueError: shapes that do not fit, labels out of range.

    Source: Cai et al., "Island Loss for Learning Discriminative Features in Facial Expression Recognition",
        arXiv 1710.03144, eq. 3 (the mean over the batch in place of its sum).

    Example:
        >>> import torch
        >>> centers = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> island_loss(centers, torch.tensor([0, 1]), centers, island_weight=1.0)  # cos 0, twice
        tensor(2.)
    """
    loss = center_loss(embeddings, labels, centers, ignore_index=ignore_index)
    unit = unit_vectors(centers)
    classes = centers.shape[0]
    present = unit.detach().square().sum()  # 1 for each center but those at zero; constant
    pairs = unit.sum(0).square().sum() - present + classes * (classes - 1)
    return loss + island_weight * pairs


class CenterLoss(nn.Module):
    """`center_loss` with learned centers.

    Args:
        num_classes: C.
        embedding_size: D.
        ignore_index: a label that does not count.
        reduction: "mean", "sum" or "none".
        device: of the centers.
        dtype: of the centers.

    Attributes:
        centers: (C, D), drawn from a normal distribution.

    Example:
        >>> import torch
        >>> CenterLoss(10, 4)(torch.randn(3, 4), torch.tensor([1, 2, 9])).shape
        torch.Size([])
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_ignored(type(self).__name__, ignore_index)
        self.ignore_index, self.reduction = int(ignore_index), reduction
        self.centers = _centers(type(self).__name__, num_classes, embedding_size, device, dtype)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of embeddings (N, D) of the classes `labels` (N,)."""
        return center_loss(
            embeddings, labels, self.centers, ignore_index=self.ignore_index, reduction=self.reduction
        )

    def extra_repr(self) -> str:
        """The options, for `print`."""
        return f"{', '.join(map(str, self.centers.shape))}, reduction={self.reduction!r}"


class IslandLoss(nn.Module):
    """`island_loss` with learned centers.

    Args:
        num_classes: C.
        embedding_size: D.
        island_weight: λ of the pairs of centers.
        ignore_index: a label that does not count.
        device: of the centers.
        dtype: of the centers.

    Attributes:
        centers: (C, D), drawn from a normal distribution.

    Example:
        >>> import torch
        >>> IslandLoss(10, 4)(torch.randn(3, 4), torch.tensor([1, 2, 9])).shape
        torch.Size([])
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        island_weight: float = 10.0,
        ignore_index: int = -100,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_ignored(type(self).__name__, ignore_index)
        self.island_weight, self.ignore_index = island_weight, int(ignore_index)
        self.centers = _centers(type(self).__name__, num_classes, embedding_size, device, dtype)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of embeddings (N, D) of the classes `labels` (N,)."""
        return island_loss(
            embeddings,
            labels,
            self.centers,
            island_weight=self.island_weight,
            ignore_index=self.ignore_index,
        )

    def extra_repr(self) -> str:
        """The options, for `print`."""
        return f"{', '.join(map(str, self.centers.shape))}, island_weight={self.island_weight:g}"


class CosineDistanceLoss(nn.Module):
    """AM-Softmax and island loss together: separated by the cosine, drawn to centers that point apart.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: m of AM-Softmax.
        scale: s of AM-Softmax.
        center_weight: what the island loss counts beside AM-Softmax.
        island_weight: λ of the pairs of centers within the island loss.
        class_weights: of the softmax, see `CosineSoftmaxLoss`, as is the next.
        label_smoothing: of the softmax.
        ignore_index: a label that does not count.
        device: of weight and centers.
        dtype: of weight and centers.

    Attributes:
        softmax: an `AMSoftmaxLoss`, with `weight` (C, D).
        island: an `IslandLoss`, with `centers` (C, D).

    Source: Wu et al., "Facial Expression Recognition Based on Cosine Distance Loss Function", Laser &
        Optoelectronics Progress 56(24), 241502, 2019.

    Example:
        >>> import torch
        >>> CosineDistanceLoss(10, 4)(torch.randn(3, 4), torch.tensor([1, 2, 9])).shape
        torch.Size([])
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        margin: float = 0.35,
        scale: float = 10.0,
        center_weight: float = 0.01,
        island_weight: float = 10.0,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"ignore_index": ignore_index, "device": device, "dtype": dtype}
        self.softmax = AMSoftmaxLoss(
            num_classes,
            embedding_size,
            margin=margin,
            scale=scale,
            class_weights=class_weights,
            label_smoothing=label_smoothing,
            **options,
        )
        self.island = IslandLoss(num_classes, embedding_size, island_weight=island_weight, **options)
        self.center_weight = center_weight

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of embeddings (N, D) of the classes `labels` (N,)."""
        loss: Tensor = self.softmax(embeddings, labels)
        return loss + self.center_weight * self.island(embeddings, labels)

    def logits(self, embeddings: Tensor, *, dim: int | None = None) -> Tensor:
        """Those of the softmax, (N, num_classes); see `CosineSoftmaxLoss.logits`."""
        return self.softmax.logits(embeddings, dim=dim)

    def predict(
        self,
        embeddings: Tensor,
        *,
        topk: int | None = None,
        chunk_size: int | None = None,
        dim: int | None = None,
    ) -> Tensor:
        """The likeliest classes, (N,) or (N, topk); see `CosineSoftmaxLoss.predict`."""
        return self.softmax.predict(embeddings, topk=topk, chunk_size=chunk_size, dim=dim)

    def extra_repr(self) -> str:
        """The options, for `print`."""
        return f"center_weight={self.center_weight:g}"


def _centers(
    where: str, num_classes: int, embedding_size: int, device: Any, dtype: torch.dtype | None
) -> nn.Parameter:
    check_count(where, "num_classes", num_classes)
    check_count(where, "embedding_size", embedding_size)
    check_dtype(where, dtype)
    return nn.Parameter(torch.randn(num_classes, embedding_size, device=device, dtype=dtype))
