"""Each class as an anchor that draws its embeddings and pushes all others away (Proxy-Anchor)."""

from torch import Tensor

from cosnorm.distributed import Group, name_of
from cosnorm.functional.arrays import takes_arrays
from cosnorm.functional.checks import check_count, check_labels, check_rows_of_classes, is_number
from cosnorm.functional.counting import check_ignored
from cosnorm.functional.overrides import overridable
from cosnorm.functional.schedules import check_between
from cosnorm.operators.class_anchors import AnchorOptions, class_anchors

_WHERE = "proxy_anchor_loss"


@overridable
@takes_arrays
def proxy_anchor_loss(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    margin: float = 0.1,
    scale: float = 32.0,
    ignore_index: int = -100,
    chunk_size: int | None = None,
    group: Group | None = None,
) -> Tensor:
    r"""Proxy-Anchor: a class with its embeddings, and with all others, each by a softmax over the batch.

    .. math:: \ell = \frac{1}{|P^+|} \sum_{p \in P^+}
        \log\Big(1 + \sum_{i \in p} e^{-\alpha (c_{ip} - \delta)} \Big)
        + \frac{1}{|P|} \sum_p \log\Big(1 + \sum_{i \notin p} e^{\alpha (c_{ip} + \delta)}\Big)

    with the cosines c of embeddings and classes P, of which P⁺ have an embedding in the batch. No N×C matrix
    is made, forward or backward.

    Args:
        embeddings: shape (N, D), of any length.
        weight: the proxies, shape (C, D); of the embeddings' dtype, or one half and one float32.
        labels: the class of each embedding, whole numbers in [0, C), shape (N,).
        margin: δ, between 0 and 2.
        scale: α, positive.
        ignore_index: a label whose embeddings take no part.
        chunk_size: classes of a block. None: chosen by itself.
        group: processes over which batch and classes are spread, as in `margin_cross_entropy`.

    Returns:
        The loss, shape (): float32 for half types, else of the dtype of the embeddings.

    A zero embedding or proxy has cosine 0 with everything and receives gradient 0. The gradient cannot be
    differentiated again: that raises.

    Raises:
        TypeError: not tensors, wrong dtypes.
        ValueError: shapes that do not fit, labels or numbers out of range.

    Source: Kim et al., "Proxy Anchor Loss for Deep Metric Learning", arXiv 2003.13911.

    Example:
        >>> import torch
        >>> proxies = torch.eye(3)
        >>> proxy_anchor_loss(proxies, proxies, torch.arange(3), margin=0.0, scale=1.0)
        tensor(1.4119)
    """
    check_rows_of_classes(_WHERE, embeddings=embeddings, weight=weight)
    check_labels(_WHERE, labels, embeddings)
    for name, number, low, high in (("margin", margin, 0.0, 2.0), ("scale", scale, 1e-6, 1e6)):
        if not is_number(number):
            raise TypeError(f"{_WHERE}: {name} must be a number, got {type(number).__name__}")
        check_between(_WHERE, name, number, low, high)
    check_ignored(_WHERE, ignore_index)
    if chunk_size is not None:
        check_count(_WHERE, "chunk_size", chunk_size)
    options = AnchorOptions(
        labels=labels,
        scale=float(scale),
        margin=float(margin),
        ignore_index=int(ignore_index),
        chunk_size=chunk_size,
        group=name_of(_WHERE, group),
    )
    return class_anchors(embeddings, weight, *options, 0)
