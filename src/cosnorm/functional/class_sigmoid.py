"""A sigmoid for each class instead of a softmax over all (SphereFace2), a block of classes at a time."""

import torch
from torch import Tensor

from cosnorm.distributed import Group, name_of
from cosnorm.functional.arrays import takes_arrays
from cosnorm.functional.checks import (
    Reduction,
    check_count,
    check_labels,
    check_number,
    check_reduction,
    check_rows_of_classes,
    is_number,
    reduced,
)
from cosnorm.functional.classes import check_classes, check_sub_centers
from cosnorm.functional.counting import check_counting
from cosnorm.functional.overrides import overridable
from cosnorm.functional.schedules import check_between
from cosnorm.operators.class_sigmoid import ClassSigmoidOptions, class_sigmoid
from cosnorm.operators.targets import class_targets

_WHERE = "class_sigmoid_loss"


@overridable
@takes_arrays
def class_sigmoid_loss(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    margin: float = 0.4,
    scale: float = 40.0,
    bias: float | Tensor = 0.0,
    power: float = 3.0,
    balance: float = 0.7,
    sub_centers: int = 1,
    classes: Tensor | None = None,
    class_weights: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    group: Group | None = None,
) -> Tensor:
    r"""SphereFace2: is it this class, asked of each class for itself.

    .. math:: \ell_i = \frac{\lambda}{r} \log\big(1 + e^{-r (g(\cos\theta_{iy}) - m) - b}\big)
        + \frac{1 - \lambda}{r} \sum_{c \ne y} \log\big(1 + e^{r (g(\cos\theta_{ic}) + m) + b}\big),
        \qquad g(z) = 2 \Big(\frac{z + 1}{2}\Big)^t - 1

    No N×C matrix is made, forward or backward, and no class has to know of the others.

    Args:
        embeddings: shape (N, D), of any length.
        weight: shape (C, D), or (C·K, D) with K sub-centers; of the embeddings' dtype, or one half and one
            float32.
        labels: the class of each embedding, whole numbers in [0, C), shape (N,).
        margin: m, between 0 and 2.
        scale: r, positive.
        bias: b, a number, or a tensor of one, which may learn; the gradient in it is exact on every process.
        power: t, between 1 and 16: how much of the range small angles take.
        balance: λ, between 0 and 1: what the own class counts beside the others.
        sub_centers: K, rows of the weight for each class; the largest cosine of them counts.
        classes: as in `margin_cross_entropy`, as are the next three.
        class_weights: what an embedding of each class counts, (C,).
        ignore_index: a label whose embeddings count nothing.
        reduction: "mean", "sum", or "none": shape (N,).
        chunk_size: classes of a block. None: chosen by itself.
        group: processes over which batch and classes are spread, as in `margin_cross_entropy`.

    Returns:
        The loss: float32 for half types, else of the dtype of the embeddings.

    A zero embedding or weight has cosine 0 with everything and receives gradient 0. The gradient cannot be
    differentiated again: that raises.

    Raises:
        TypeError: not tensors, wrong dtypes.
        ValueError: shapes that do not fit, labels or numbers out of range.

    Source: Wen et al., "SphereFace2", arXiv 2108.01513, with the additive margin (SphereFace2-C).

    Example:
        >>> import torch
        >>> weight = torch.eye(3)
        >>> class_sigmoid_loss(weight, weight, torch.arange(3), margin=0.0, scale=1.0, power=1.0)
        tensor(0.6352)
    """
    check_rows_of_classes(_WHERE, embeddings=embeddings, weight=weight)
    check_labels(_WHERE, labels, embeddings)
    check_sub_centers(_WHERE, weight, sub_centers)
    ranges = {
        "margin": (margin, 0.0, 2.0),
        "scale": (scale, 1e-6, 1e6),
        "power": (power, 1.0, 16.0),
        "balance": (balance, 0.0, 1.0),
    }
    for name, (number, low, high) in ranges.items():
        if not is_number(number):
            raise TypeError(f"{_WHERE}: {name} must be a number, got {type(number).__name__}")
        check_between(_WHERE, name, number, low, high)
    tensor, number = check_number(_WHERE, "bias", bias)
    check_reduction(_WHERE, reduction)
    if chunk_size is not None:
        check_count(_WHERE, "chunk_size", chunk_size)
    classes = check_classes(_WHERE, classes, labels)
    among = weight.shape[0] // sub_centers if group is None else None
    check_counting(_WHERE, embeddings, among, sub_centers, class_weights, 0.0, ignore_index)
    processes = name_of(_WHERE, group)
    cosine, sine = class_targets(
        embeddings.detach(),
        weight.detach(),
        labels,
        classes,
        sub_centers,
        int(ignore_index),
        processes,
        _WHERE,
        "auto",
    )
    half = (cosine + 1) / 2
    if tensor is None:
        tensor = torch.full((1,), number, dtype=cosine.dtype, device=cosine.device)
    options = ClassSigmoidOptions(
        labels=labels,
        slope=power * half ** (power - 1) * sine,
        classes=classes,
        class_weights=class_weights,
        scale=float(scale),
        margin=float(margin),
        power=float(power),
        balance=float(balance),
        sub_centers=sub_centers,
        ignore_index=int(ignore_index),
        separate=reduction == "none",
        chunk_size=chunk_size,
        group=processes,
    )
    loss, count = class_sigmoid(embeddings, weight, 2 * half**power - 1 - margin, tensor, *options, 0)
    return reduced(loss, count, reduction)
