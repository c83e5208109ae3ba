"""Losses of single pairs."""

import torch
from torch import Tensor, nn

from cosnorm.functional.arrays import takes_arrays
from cosnorm.functional.checks import Reduction, averaged, check_reduction, check_tensors, is_number
from cosnorm.functional.overrides import overridable
from cosnorm.functional.similarity import cosine_similarity
from cosnorm.norms import accumulation_dtype
from cosnorm.operators.indices import signs_of

_WHERE = "cosine_embedding_loss"


@overridable
@takes_arrays
def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    labels: Tensor | None = None,
    *,
    margin: float = 0.0,
    target: float | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Loss of pairs by their cosine: torch's with labels ±1, or the shortfall from a target similarity.

    .. math:: \ell = 1 - c \text{ for label } 1, \quad \max(0, c - m) \text{ for label } -1; \qquad
        \ell = \max(0, t - c) \text{ with a target } t

    Args:
        input1: shape (N, D) or (D,).
        input2: the same shape.
        labels: 1 where the pair belongs together, −1 where it does not, shape (N,) or ().
        margin: m in [-1, 1], the cosine below which a pair of label −1 costs nothing.
        target: t in [-1, 1], in place of labels: the cosine above which a pair costs nothing.
        reduction: "mean", "sum" or "none".

    Returns:
        The loss: float32 for half types. At a cosine equal to the margin or the target the gradient is 0.

    A zero vector has cosine 0 and receives gradient 0.

    Raises:
        TypeError: not tensors.
        ValueError: shapes that do not fit, labels other than ±1 (torch takes them as 0), both or neither of
            labels and target, numbers out of range.

    Source: `torch.nn.CosineEmbeddingLoss`; the target as in the documentation of the crate caffe2op-cos.

    Example:
        >>> import torch
        >>> pair = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
        >>> cosine_embedding_loss(*pair, torch.tensor([1]))
        tensor(0.2929)
        >>> cosine_embedding_loss(*pair, target=0.9)
        tensor(0.1929)
    """
    check_tensors(_WHERE, input1=input1, input2=input2)
    if input1.shape != input2.shape or input1.ndim not in (1, 2):
        raise ValueError(
            f"{_WHERE}: input1 and input2 must have one shape, (N, D) or (D,), got {tuple(input1.shape)} and "
            f"{tuple(input2.shape)}"
        )
    for name, number in (("margin", margin), ("target", 0.0 if target is None else target)):
        if not is_number(number) or not -1 <= number <= 1:
            raise ValueError(f"{_WHERE}: {name} must be a number between -1 and 1, got {number!r}")
    if (labels is None) == (target is None):
        raise ValueError(f"{_WHERE}: pass either labels, of 1 and -1, or target, a cosine")
    check_reduction(_WHERE, reduction)
    # Close pairs differ from 1 by less than half types resolve, and their sums leave the range.
    dtype = accumulation_dtype(input1.dtype)
    cosine = cosine_similarity(input1.to(dtype), input2.to(dtype))
    if target is not None:
        losses = (target - cosine).relu()
    else:
        if not isinstance(labels, Tensor) or labels.shape != cosine.shape:
            raise ValueError(
                f"{_WHERE}: labels must be a tensor of shape {tuple(cosine.shape)}, got {labels!r}"
            )
        losses = torch.where(signs_of(labels, _WHERE), 1 - cosine, (cosine - margin).relu())
    return averaged(losses, reduction)


class CosineEmbeddingLoss(nn.Module):
    """`cosine_embedding_loss` with its options.

    Args:
        margin: the cosine below which a pair of label −1 costs nothing.
        target: in place of labels: the cosine above which a pair costs nothing.
        reduction: "mean", "sum" or "none".

    Example:
        >>> import torch
        >>> pair = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
        >>> CosineEmbeddingLoss(margin=0.5)(*pair, torch.tensor([-1]))
        tensor(0.2071)
        >>> CosineEmbeddingLoss(target=0.9)(*pair)
        tensor(0.1929)
    """

    def __init__(
        self, margin: float = 0.0, *, target: float | None = None, reduction: Reduction = "mean"
    ) -> None:
        super().__init__()
        self.margin, self.target, self.reduction = margin, target, reduction

    def forward(self, input1: Tensor, input2: Tensor, labels: Tensor | None = None) -> Tensor:
        """The loss of pairs (N, D); labels of ±1 unless a target is set."""
        return cosine_embedding_loss(
            input1, input2, labels, margin=self.margin, target=self.target, reduction=self.reduction
        )

    def extra_repr(self) -> str:
        """The options, for `print`."""
        return f"margin={self.margin}, target={self.target}, reduction={self.reduction!r}"
