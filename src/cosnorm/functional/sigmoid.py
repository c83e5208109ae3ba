"""A sigmoid for each pair of queries and keys instead of a softmax, a tile at a time (SigLIP)."""

from torch import Tensor

from cosnorm.distributed import Group, name_of
from cosnorm.functional.arrays import takes_arrays
from cosnorm.functional.checks import (
    Reduction,
    check_count,
    check_number,
    check_pair,
    check_reduction,
    reduced,
)
from cosnorm.functional.overrides import overridable
from cosnorm.operators.sigmoid import SigmoidOptions, sigmoid_pairs

_WHERE = "pairwise_sigmoid_loss"


@overridable
@takes_arrays
def pairwise_sigmoid_loss(
    queries: Tensor,
    keys: Tensor,
    *,
    scale: float | Tensor = 10.0,
    bias: float | Tensor = -10.0,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    group: Group | None = None,
) -> Tensor:
    r"""Binary cross-entropy of every pair: query i and key i belong together, all others do not.

    .. math:: \ell_i = -\sum_j \log \sigma\big(z_{ij} (s\,c_{ij} + b)\big),
        \quad z_{ij} = 1 \text{ if } i = j \text{ else } -1

    with the cosines c. No N×N matrix is made, forward or backward.

    Args:
        queries: shape (N, D).
        keys: shape (N, D).
        scale: s, a number or a tensor of one element that learns.
        bias: b, the same.
        reduction: "mean" over the queries, "sum", or "none": shape (N,).
        chunk_size: rows and columns of a tile. None: chosen by itself.
        group: processes over which the batch is spread, as for `contrastive_cross_entropy`: queries look at
            the keys of all.

    Returns:
        The loss: float32 for half types, else of the dtype of the queries. NumPy arrays give NumPy.

    A zero row has cosine 0 with everything and receives gradient 0. The gradient cannot be differentiated
    again: that raises.

    Raises:
        TypeError: not tensors, wrong dtypes.
        ValueError: shapes that do not fit, two devices, a scale or bias that is not finite.

    Source: Zhai et al., "Sigmoid Loss for Language Image Pre-Training", arXiv 2303.15343, section 3.2.

    Example:
        >>> import torch
        >>> pairwise_sigmoid_loss(torch.eye(2), torch.eye(2), scale=10.0, bias=-5.0)
        tensor(0.0134)
    """
    check_pair(_WHERE, queries=queries, keys=keys)
    check_reduction(_WHERE, reduction)
    if chunk_size is not None:
        check_count(_WHERE, "chunk_size", chunk_size)
    tensor_scale, number_scale = check_number(_WHERE, "scale", scale)
    tensor_bias, number_bias = check_number(_WHERE, "bias", bias)
    options = SigmoidOptions(
        number_scale, number_bias, reduction == "none", chunk_size, name_of(_WHERE, group)
    )
    loss, count, *_ = sigmoid_pairs(queries, keys, tensor_scale, tensor_bias, *options, 0)
    return reduced(loss, count, reduction)
