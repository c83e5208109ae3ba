"""A sigmoid for each pair of queries and keys instead of a softmax, a tile at a time (SigLIP)."""

from collections.abc import Sequence

from torch import Tensor

from cosnorm.distributed import Group, name_of
from cosnorm.functional.arrays import takes_arrays
from cosnorm.functional.checks import (
    Reduction,
    check_count,
    check_flag,
    check_number,
    check_reduction,
    reduced,
)
from cosnorm.functional.overrides import overridable
from cosnorm.functional.pair_checks import (
    check_directions,
    check_exchange,
    check_exclude,
    check_guide,
    check_labels,
    check_negatives,
    check_own_keys,
    check_positives,
    check_rows,
    check_self,
)
from cosnorm.operators.pair_options import PairOptions
from cosnorm.operators.sigmoid import sigmoid_pairs

_WHERE = "pairwise_sigmoid_loss"


@overridable
@takes_arrays
def pairwise_sigmoid_loss(
    queries: Tensor,
    keys: Tensor | None = None,
    positives: Tensor | None = None,
    *,
    positive_weights: Tensor | None = None,
    labels: Tensor | tuple[Tensor, Tensor] | None = None,
    scale: float | Tensor = 10.0,
    bias: float | Tensor = -10.0,
    directions: str | Sequence[str] = "query_to_key",
    exclude: Tensor | None = None,
    exclude_self: bool | None = None,
    groups: Tensor | tuple[Tensor, Tensor] | None = None,
    false_negative_threshold: float | None = None,
    false_negative_margin: float | None = None,
    guide: Tensor | tuple[Tensor, Tensor] | None = None,
    hard_negatives: Tensor | None = None,
    extra_keys: Tensor | None = None,
    extra_labels: Tensor | None = None,
    extra_groups: Tensor | None = None,
    extra_guide: Tensor | None = None,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    group: Group | None = None,
    exchange: str = "auto",
) -> Tensor:
    r"""Binary cross-entropy of every pair: positives belong together, all others do not.

    .. math:: \ell_i = -\sum_j t_{ij} \log \sigma(z_{ij}) + (1 - t_{ij}) \log \sigma(-z_{ij}),
        \quad z_{ij} = s\,c_{ij} + b

    with the cosines c and the targets t: 1 for positives, 0 for all others. No N×M matrix is made, forward or
    backward. What positives, negatives, groups, guides, extra keys and processes are is said by
    `contrastive_cross_entropy`; here is what differs.

    Args:
        queries: shape (N, D).
        keys: shape (M, D). None: the queries themselves.
        positives: an index (N,), pairs (P, 2) or a sparse CSR matrix (N, M) of targets. None: by `labels`,
            else key i belongs to query i.
        positive_weights: the targets of pairs, (P,), between 0 and 1; None: 1.
        labels: the positives of a query are the keys of its label.
        scale: s, a number or a tensor of one element that learns.
        bias: b, the same.
        directions: "query_to_key": all pairs of queries and keys, which are those of keys and queries, too;
            and of "query_to_query" and "key_to_key", whose pairs are negatives but for those that belong to
            one positive (or label, if given).
        exclude: pairs that are left out, positives as well.
        exclude_self: key i and query i are left out. None: only where `keys` is None.
        groups: pairs of one group are left out, unless they are positives.
        false_negative_threshold: pairs with a larger cosine are left out, unless they are positives.
        false_negative_margin: so are those whose cosine exceeds that of the query's positive by more.
        guide: other embeddings whose cosines decide on that.
        hard_negatives: (N, K, D), more negatives of each query alone.
        extra_keys: further negatives of all queries, (E, D).
        extra_labels: their labels (E,).
        extra_groups: their groups (E,).
        extra_guide: what the guide says of them (E, G).
        reduction: "mean" (over the queries, of the sum of all pairs), "sum", or "none": shape (N,).
        chunk_size: rows and columns of a tile. None: chosen by itself.
        group: processes over which the batch is spread: queries look at the keys of all.
        exchange: "gather", "ring" or "auto", as in `contrastive_cross_entropy`.

    Returns:
        The loss: float32 for half types, else of the dtype of the queries. NumPy arrays give NumPy.

    A zero row has cosine 0 with everything and receives gradient 0. The gradient cannot be differentiated
    again: that raises.

    Raises:
        TypeError: not tensors, wrong dtypes.
        ValueError: shapes that do not fit, two devices, a scale or bias that is not finite, options that
            exclude each other.

    Source: Zhai et al., "Sigmoid Loss for Language Image Pre-Training", arXiv 2303.15343, section 3.2.

    Example:
        >>> import torch
        >>> pairwise_sigmoid_loss(torch.eye(2), torch.eye(2), scale=10.0, bias=-5.0)
        tensor(0.0134)
    """
    itself = keys is None if exclude_self is None else exclude_self
    check_flag(_WHERE, "exclude_self", itself)
    check_reduction(_WHERE, reduction)
    if chunk_size is not None:
        check_count(_WHERE, "chunk_size", chunk_size)
    check_rows(_WHERE, queries, keys, extra_keys)
    positives, positive_weights = check_positives(_WHERE, positives, positive_weights, queries, keys)
    bits = check_directions(_WHERE, directions, keys)
    if bits & 4 or not bits & 1:
        raise ValueError(
            f'{_WHERE}: directions must hold "query_to_key", whose pairs are those of "key_to_query", too; '
            f"got {directions!r}"
        )
    if reduction == "none" and bits & 8:
        raise ValueError(f'{_WHERE}: pairs of "key_to_key" belong to no query; take another reduction')
    given = queries, keys, extra_keys
    all_labels = check_labels(_WHERE, "labels", labels, extra_labels, *given)
    all_groups = check_labels(_WHERE, "groups", groups, extra_groups, *given)
    guides = check_guide(_WHERE, guide, extra_guide, *given)
    if guide is not None and false_negative_threshold is None and false_negative_margin is None:
        false_negative_margin = 0.0
    check_negatives(_WHERE, queries, false_negative_threshold, false_negative_margin, 0.0, hard_negatives)
    by_label = positives is None and labels is not None
    if positives is None and not by_label:
        if itself:
            raise ValueError(
                f"{_WHERE}: the positives must be given where key i is query i; pass positives= or labels="
            )
        check_own_keys(_WHERE, queries, keys, bits & 3)
    if itself and keys is not None:
        check_self(_WHERE, queries, keys, bits, group)
    if exclude is not None:
        check_exclude(_WHERE, exclude, queries, queries if keys is None else keys, extra_keys, group)
    tensor_scale, number_scale = check_number(_WHERE, "scale", scale)
    tensor_bias, number_bias = check_number(_WHERE, "bias", bias)
    options = PairOptions(
        positives=positives,
        positive_weights=positive_weights,
        labels=all_labels[0],
        key_labels=all_labels[1],
        extra_labels=extra_labels,
        groups=all_groups[0],
        key_groups=all_groups[1],
        extra_groups=extra_groups,
        guide=guides[0],
        key_guide=guides[1],
        extra_guide=extra_guide,
        exclude=exclude,
        fixed_temperature=1.0,
        threshold=None if false_negative_threshold is None else float(false_negative_threshold),
        margin=None if false_negative_margin is None else float(false_negative_margin),
        hardness=0.0,
        decoupled=not by_label,  # listed positives leave the tiles
        directions=bits,
        joint=False,
        exclude_self=itself,
        by_label=by_label,
        reduction=reduction,
        chunk_size=chunk_size,
        group=name_of(_WHERE, group),
        exchange=check_exchange(_WHERE, exchange),
        impl="auto",
    )
    numbers = tensor_scale, tensor_bias
    loss, count, *_ = sigmoid_pairs(*given, hard_negatives, *numbers, *options, number_scale, number_bias, 0)
    return reduced(loss, count, reduction)
