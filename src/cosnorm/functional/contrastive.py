"""Contrastive cross-entropy: a softmax over cosine similarities, in memory that does not grow with N·M."""

from collections.abc import Sequence

from torch import Tensor

from cosnorm.backends.choose import check_impl
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
from cosnorm.operators.contrastive import pair_softmax
from cosnorm.operators.pair_options import WHERE, PairOptions, check_temperature_value


@overridable
@takes_arrays
def contrastive_cross_entropy(
    queries: Tensor,
    keys: Tensor | None = None,
    positives: Tensor | None = None,
    *,
    positive_weights: Tensor | None = None,
    labels: Tensor | tuple[Tensor, Tensor] | None = None,
    temperature: float | Tensor = 0.1,
    decoupled: bool = False,
    directions: str | Sequence[str] = "query_to_key",
    joint: bool = False,
    exclude: Tensor | None = None,
    exclude_self: bool | None = None,
    exclude_same_label: bool = False,
    groups: Tensor | tuple[Tensor, Tensor] | None = None,
    false_negative_threshold: float | None = None,
    false_negative_margin: float | None = None,
    guide: Tensor | tuple[Tensor, Tensor] | None = None,
    hardness: float = 0.0,
    hard_negatives: Tensor | None = None,
    extra_keys: Tensor | None = None,
    extra_labels: Tensor | None = None,
    extra_groups: Tensor | None = None,
    extra_guide: Tensor | None = None,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    group: Group | None = None,
    exchange: str = "auto",
    impl: str = "auto",
) -> Tensor:
    r"""Cross-entropy of a softmax over the cosines of each query with all keys, a tile at a time.

    .. math:: \ell_i = \log \sum_{j \in A(i)} e^{c_{ij}/\tau} - \sum_{p \in P(i)} w_{ip}\, c_{ip}/\tau,
        \quad \sum_p w_{ip} = 1

    with the cosines c, the positives P(i) of query i and the keys A(i) that enter its sum: all of them, less
    what is excluded. NT-Xent, InfoNCE, SupCon and CLIP's loss are choices of P and A. No matrix of N×M
    numbers is ever made: for the backward pass O((N + M)·D) bytes are saved, and the temporary memory falls
    with `chunk_size`.

    Args:
        queries: shape (N, D), of any length: they are normalized here.
        keys: shape (M, D), of the dtype and on the device of the queries. None: the queries themselves.
        positives: whole numbers; shape (N,): the key of each query, −1 for none; or shape (P, 2): pairs
            (query, key), any number for a query and for a key; or a sparse CSR matrix (N, M) of weights.
            None: by `labels`, else key i belongs to query i.
        positive_weights: with pairs, their weights (P,), not negative. Those of one query count in relation
            to each other; in the direction of keys, those of one key do. They do not learn. None: 1 each.
        labels: whole numbers, shape (N,), or with `keys` the labels of both, ((N,), (M,)). If `positives` is
            None, the positives of a query are the keys of its label.
        temperature: τ > 0, a number or a tensor of one element, which may learn.
        decoupled: the positives leave the sums (decoupled contrastive learning, Yeh et al., 2021).
        directions: who looks for whom; one or more of "query_to_key"; "key_to_query": keys look for their
            queries; "query_to_query", "key_to_key": rows look at their own kind, where all but themselves,
            and what belongs to the same positive (or label, if given), are negatives. Each has a sum of its
            own, and the loss is the mean over directions: CLIP's is that of the first two.
        joint: the directions have one sum, of a query and its positive together.
        exclude: True where a key stays out of a query's sum, and the query out of the key's; bool, broadcasts
            to (N, M).
        exclude_self: key i stays out of the sum of query i. None: only where `keys` is None.
        exclude_same_label: as `groups`, with the labels, which then say nothing of positives.
        groups: whole numbers as `labels`: keys of the query's group stay out of its sum, unless they are its
            positives. Parts of one document, or an older copy of the same sample.
        false_negative_threshold: keys whose cosine with the query is larger stay out of its sum, unless they
            are its positives.
        false_negative_margin: so do those whose cosine exceeds that of the query's positive by more than
            this; of many positives their mean counts.
        guide: other embeddings, (N, G), or with `keys` of both, ((N, G), (M, G)), such as a teacher's. Their
            cosines decide in place of the own ones which keys exceed threshold or margin (a margin of 0, if
            neither is given).
        hardness: β; a negative weighs exp(β·c) in the sum. The weight has no gradient.
        hard_negatives: (N, K, D), K more negatives of each query alone, beside those of the batch.
        extra_keys: further keys (E, D), such as a queue of past ones; they stand behind the others. They
            are met by queries, and look for nothing.
        extra_labels: their labels (E,), where labels are given.
        extra_groups: their groups (E,), where groups are given.
        extra_guide: what the guide says of them (E, G), where it is given.
        reduction: "mean" over those that take part, in each direction; "sum"; or "none": shape (N,). Then
            number i of keys that look, too, is added to query i, and there must be N of them.
        chunk_size: rows and columns of a tile. None: chosen by itself.
        group: a `torch.distributed` group over whose processes the batch is spread. Each gives its own
            queries and keys (any number), and positives among its own keys; the queries look at the keys of
            all. Mean and sum are those of the whole batch, on every process, and the gradient in a process's
            embeddings is the number of processes times that of the whole batch: what
            DistributedDataParallel's average wants. With "none" each gets the losses of its own queries, and
            gradients without that factor. `exclude` has shape (N, all M).
        exchange: with `group`: "gather" brings the keys of all processes together; with "ring" they come one
            process's share after the other, so that the memory of a process is that of its own rows and of
            one share, for some more time; "auto" takes it where the keys of all have more than 256 MiB.
        impl: "torch" (its operators), "triton" (kernels that write no logits, for float32 and half types on a
            GPU), or "auto", which takes the kernels where `cosine_linear` does. A named one computes or
            raises; there is no "c" here.

    Returns:
        The loss: float32 for half types, else of the dtype of the queries. NumPy arrays give NumPy.

    A query without positives, or with an empty sum, has loss 0 and does not count. A zero row has cosine 0
    with everything and receives gradient 0. NaN in a key makes every loss NaN whose sum it enters. What
    leaves a sum because of a cosine has no gradient there. The gradient cannot be differentiated again: that
    raises.

    Raises:
        TypeError: not tensors, wrong dtypes.
        ValueError: shapes that do not fit, two devices, a temperature that is not positive, options that
            exclude each other.
        RuntimeError: `impl="triton"` where the kernels cannot run; the message says why.

    Source: Chen et al., "A Simple Framework for Contrastive Learning", arXiv 2002.05709, eq. 1; Khosla et
        al., "Supervised Contrastive Learning", arXiv 2004.11362, eq. 2 (L_out); joint sums: Li et al.,
        "Towards General Text Embeddings", arXiv 2308.03281, section 3.3; guide: Solatorio, "GISTEmbed", arXiv
        2402.16829; hardness: Robinson et al., "Contrastive Learning with Hard Negative Samples", arXiv
        2010.04592, without its normalization.

    Example:
        >>> import torch
        >>> views = torch.eye(2).repeat(2, 1)  # two views of two things
        >>> contrastive_cross_entropy(views, positives=torch.tensor([2, 3, 0, 1]), temperature=1.0)
        tensor(0.5514)
    """
    itself = keys is None if exclude_self is None else exclude_self
    for name, flag in (
        ("decoupled", decoupled),
        ("joint", joint),
        ("exclude_same_label", exclude_same_label),
        ("exclude_self", itself),
    ):
        check_flag(WHERE, name, flag)
    check_reduction(WHERE, reduction)
    check_impl(WHERE, impl)
    if chunk_size is not None:
        check_count(WHERE, "chunk_size", chunk_size)
    tensor_temperature, fixed_temperature = check_number(WHERE, "temperature", temperature)
    if tensor_temperature is None:
        check_temperature_value(fixed_temperature)
    check_rows(WHERE, queries, keys, extra_keys)
    positives, positive_weights = check_positives(WHERE, positives, positive_weights, queries, keys)
    bits = check_directions(WHERE, directions, keys)
    given = queries, keys, extra_keys
    all_labels = check_labels(WHERE, "labels", labels, extra_labels, *given)
    by_label = positives is None and labels is not None and not exclude_same_label
    if exclude_same_label:
        if labels is None or groups is not None:
            raise ValueError(
                f"{WHERE}: exclude_same_label takes labels=, the classes that stay out, and no groups; "
                "leave it out and pass groups="
            )
        groups, extra_groups = labels, extra_labels
    all_groups = check_labels(WHERE, "groups", groups, extra_groups, *given)
    guides = check_guide(WHERE, guide, extra_guide, *given)
    if guide is not None and false_negative_threshold is None and false_negative_margin is None:
        false_negative_margin = 0.0
    check_negatives(WHERE, queries, false_negative_threshold, false_negative_margin, hardness, hard_negatives)
    if positives is None and labels is None and keys is None:
        raise ValueError(
            f"{WHERE}: without keys the positives must be given; pass positives=, or labels=, or keys="
        )
    if itself and keys is not None:
        check_self(WHERE, queries, keys, bits, group)
    if not by_label and positives is None:
        check_own_keys(WHERE, queries, keys, bits)
    if itself and keys is not None and positives is None and not by_label:
        raise ValueError(
            f"{WHERE}: with exclude_self key i is query i, not its positive; pass positives= or labels="
        )
    if not bits & 1 and any(one is not None for one in (extra_keys, hard_negatives, exclude)):
        raise ValueError(
            f'{WHERE}: extra_keys, hard_negatives and exclude belong to "query_to_key"; add it, or leave '
            "them out"
        )
    if exclude is not None:
        if group is not None and bits & 4:
            raise ValueError(f"{WHERE}: exclude cannot be given with keys that look and group; leave one out")
        check_exclude(WHERE, exclude, queries, queries if keys is None else keys, extra_keys, group)
    both = [bool(bits & 3), bool(bits & 12)]
    if joint and by_label and all(both):
        raise ValueError(
            f"{WHERE}: joint sums of queries and keys take positives as an index or as pairs, not by labels"
        )
    if reduction == "none" and not joint and both[1] and (keys is None or len(keys) != len(queries)):
        raise ValueError(
            f'{WHERE}: reduction="none" with keys that look takes as many keys as queries; ask for each '
            "direction by itself"
        )
    if reduction == "none" and not joint and not both[0]:
        raise ValueError(f'{WHERE}: reduction="none" gives the losses of queries; exchange queries and keys')
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
        fixed_temperature=fixed_temperature,
        threshold=None if false_negative_threshold is None else float(false_negative_threshold),
        margin=None if false_negative_margin is None else float(false_negative_margin),
        hardness=float(hardness),
        decoupled=decoupled,
        directions=bits,
        joint=joint,
        exclude_self=itself,
        by_label=by_label,
        reduction=reduction,
        chunk_size=chunk_size,
        group=name_of(WHERE, group),
        exchange=check_exchange(WHERE, exchange),
        impl=impl,
    )
    loss, count, *_ = pair_softmax(*given, hard_negatives, tensor_temperature, *options, 0)
    return reduced(loss, count, reduction)
