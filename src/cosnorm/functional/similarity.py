"""Cosine similarity of pairs, and of every pair of two sets."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cosnorm.functional.checks import check_flag, check_tensors, is_whole
from cosnorm.functional.overrides import overridable
from cosnorm.operators.rows import cosine_all_pairs, cosine_pairs


@overridable
def cosine_similarity(x: Tensor, y: Tensor, dim: int = 1, *, centered: bool = False) -> Tensor:
    r"""Cosine similarity of paired vectors, broadcasting as torch's function of the same name does.

    .. math:: \cos(x, y) = \frac{x \cdot y}{|x|\,|y|}

    With `centered`, both vectors first lose their means: Pearson's correlation coefficient. Unlike torch's
    function it takes no eps: it is exact at every scale, never exceeds 1, and has no NaN at zero.

    Args:
        x: any shape that broadcasts with that of y; float16, bfloat16, float32 or float64.
        y: like x, of the same dtype and on the same device.
        dim: the dimension of the vectors, counted in the broadcast shape; by default the second, as torch's.
        centered: subtract the means along `dim` first.

    Returns:
        The broadcast shape without `dim`. Under autocast the dtype is that of torch's function.

    A zero vector (centered: one with max|x − μ| ≤ 4·eps·|μ|) has similarity 0 with everything and receives
    gradient 0. NaN or inf in a vector makes its own results NaN.

    Raises:
        TypeError: not tensors, not floating point, or of two dtypes.
        ValueError: shapes that do not broadcast, two devices.
        IndexError: `dim` out of range.

    Source: Luo et al., "Cosine Normalization", arXiv 1702.05870, eqs. 8-12 and 17.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1e-30, 0.0], [2e30, 2e30]])
        >>> cosine_similarity(x, torch.tensor([1.0, 1.0]))
        tensor([0.7071, 1.0000])
    """
    where = "cosine_similarity"
    check_tensors(where, x=x, y=y)
    check_flag(where, "centered", centered)
    if not is_whole(dim):
        raise TypeError(f"{where}: dim must be an int, got {dim!r}")
    rank = max(x.ndim, y.ndim)
    if rank == 0:
        raise ValueError(f"{where}: x and y must have at least one dimension, got two scalars; reshape them")
    if not -rank <= dim < rank:
        raise IndexError(
            f"{where}: dim must be between {-rank} and {rank - 1}, got {dim}; for single vectors pass dim=-1"
        )
    try:
        shape = torch.broadcast_shapes(x.shape, y.shape)
    except RuntimeError:
        raise ValueError(
            f"{where}: the shapes of x and y must broadcast, got {tuple(x.shape)} and {tuple(y.shape)}; for "
            "every pair of two sets of vectors use pairwise_cosine"
        ) from None
    x, y = (t.reshape([1] * (rank - t.ndim) + list(t.shape)).movedim(dim, -1) for t in (x, y))
    size = shape[dim]
    x, y = (t if t.shape[-1] == size else t.expand(*t.shape[:-1], size) for t in (x, y))
    if size == 0:
        x, y = F.pad(x, (0, 1)), F.pad(y, (0, 1))  # empty vectors are zero vectors
    output: Tensor = cosine_pairs(x, y, centered, 0.0, "auto", False)[0]
    return output


@overridable
def pairwise_cosine(x: Tensor, y: Tensor | None = None, *, centered: bool = False) -> Tensor:
    r"""Cosine similarity of every row of x with every row of y, by one matrix product.

    .. math:: c_{nm} = \frac{x_n \cdot y_m}{|x_n|\,|y_m|}

    With `centered`, every row first loses its mean (Pearson). Memory is that of the result: no tensor of
    shape (N, M, D) is ever made.

    Args:
        x: shape (*, N, D); float16, bfloat16, float32 or float64.
        y: shape (*, M, D), of the same dtype and device; leading dimensions broadcast. None: x itself.
        centered: subtract the mean of each row first.

    Returns:
        Shape (*, N, M). Under autocast its dtype is that of `torch.matmul`.

    A zero row (centered: one with max|x − μ| ≤ 4·eps·|μ|) has similarity 0 with everything, itself included,
    and receives gradient 0. NaN or inf in a row makes that row's results NaN and touches no other.

    Raises:
        TypeError: not tensors, not floating point, or of two dtypes.
        ValueError: shapes that do not fit, two devices.

    Source: Luo et al., "Cosine Normalization", arXiv 1702.05870, eqs. 8-12 and 17.

    Example:
        >>> import torch
        >>> pairwise_cosine(torch.tensor([[1.0, 0.0], [3.0, 3.0]]))
        tensor([[1.0000, 0.7071],
                [0.7071, 1.0000]])
    """
    where = "pairwise_cosine"
    y = x if y is None else y
    check_tensors(where, x=x, y=y)
    check_flag(where, "centered", centered)
    if x.ndim < 2 or y.ndim < 2 or x.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"{where}: x and y must have shapes (*, N, D) and (*, M, D), got {tuple(x.shape)} and "
            f"{tuple(y.shape)}; add a dimension with unsqueeze(0) for a single vector"
        )
    try:
        torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    except RuntimeError:
        raise ValueError(
            f"{where}: the leading dimensions of x and y must broadcast, got {tuple(x.shape)} and "
            f"{tuple(y.shape)}"
        ) from None
    if x.shape[-1] == 0:
        x, y = F.pad(x, (0, 1)), F.pad(y, (0, 1))  # empty vectors are zero vectors
    output: Tensor = cosine_all_pairs(x, y, centered, 0.0, "auto", False)[0]
    return output
