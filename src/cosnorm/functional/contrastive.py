"""Contrastive cross-entropy: a softmax over cosine similarities, in memory that does not grow with N·M."""

from typing import Any

import torch
from torch import Tensor

from cosnorm.backends.choose import check_impl
from cosnorm.distributed import Group, name_of
from cosnorm.functional.arrays import takes_arrays
from cosnorm.functional.checks import (
    Reduction,
    check_count,
    check_flag,
    check_indices,
    check_number,
    check_reduction,
    check_tensors,
    reduced,
)
from cosnorm.functional.overrides import overridable
from cosnorm.operators.contrastive import pair_softmax
from cosnorm.operators.pair_problem import WHERE, PairOptions, check_mask_shape, check_temperature_value


@overridable
@takes_arrays
def contrastive_cross_entropy(
    queries: Tensor,
    keys: Tensor | None = None,
    positives: Tensor | None = None,
    *,
    labels: Tensor | tuple[Tensor, Tensor] | None = None,
    temperature: float | Tensor = 0.1,
    decoupled: bool = False,
    bidirectional: bool = False,
    exclude: Tensor | None = None,
    exclude_self: bool | None = None,
    exclude_same_label: bool = False,
    extra_keys: Tensor | None = None,
    extra_labels: Tensor | None = None,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    group: Group | None = None,
    impl: str = "auto",
) -> Tensor:
    r"""Cross-entropy of a softmax over the cosines of each query with all keys, a tile at a time.

    .. math:: \ell_i = \log \sum_{j \in A(i)} e^{c_{ij}/\tau} - \frac{1}{|P(i)|} \sum_{p \in P(i)} c_{ip}/\tau

    with the cosines c, the positives P(i) of query i and the keys A(i) that enter its sum: all of them, less
    what is excluded. NT-Xent, InfoNCE, SupCon and CLIP's loss are choices of P and A. No matrix of N×M
    numbers is ever made: for the backward pass O((N + M)·D) bytes are saved, and the temporary memory falls
    with `chunk_size`.

    Args:
        queries: shape (N, D), of any length: they are normalized here.
        keys: shape (M, D), of the dtype and on the device of the queries. None: the queries themselves.
        positives: whole numbers; shape (N,): the key of each query, −1 for none; or shape (P, 2): pairs
            (query, key), any number for a query. None: by `labels`, else key i belongs to query i.
        labels: whole numbers, shape (N,), or with `keys` the labels of both, ((N,), (M,)). If `positives` is
            None, the positives of a query are the keys of its label.
        temperature: τ > 0, a number or a tensor of one element, which may learn.
        decoupled: the positives leave the sums (decoupled contrastive learning, Yeh et al., 2021).
        bidirectional: the mean of ℓ and of the same with queries and keys exchanged; with keys, M = N and
            neither `positives` nor `labels` as positives.
        exclude: True where a key stays out of a query's sum; bool, broadcasts to (N, M).
        exclude_self: key i stays out of the sum of query i. None: only where `keys` is None.
        exclude_same_label: keys of the query's label that are not its positive stay out of its sum; takes
            `labels`, and one positive for each query.
        extra_keys: further keys (E, D), such as a queue of past ones; they stand behind the others.
        extra_labels: their labels (E,), where labels are given.
        reduction: "mean" over the queries that take part, "sum", or "none": shape (N,).
        chunk_size: rows and columns of a tile. None: chosen by itself.
        group: a `torch.distributed` group over whose processes the batch is spread. Each gives its own
            queries and keys (any number), and positives among its own keys; the queries look at the keys of
            all. Mean and sum are those of the whole batch, on every process, and the gradient in a process's
            embeddings is the number of processes times that of the whole batch: what
            DistributedDataParallel's average wants. With "none" each gets the losses of its own queries, and
            gradients without that factor. `exclude` has shape (N, all M).
        impl: "torch" (its operators), "triton" (kernels that write no logits, for float32 and half types on a
            GPU), or "auto", which takes the kernels where `cosine_linear` does. A named one computes or
            raises; there is no "c" here.

    Returns:
        The loss: float32 for half types, else of the dtype of the queries. NumPy arrays give NumPy.

    A query without positives, or with an empty sum, has loss 0 and does not count. A zero row has cosine 0
    with everything and receives gradient 0. NaN in a key makes every loss NaN whose sum it enters. The
    gradient cannot be differentiated again: that raises.

    Raises:
        TypeError: not tensors, wrong dtypes.
        ValueError: shapes that do not fit, two devices, a temperature that is not positive, options that
            exclude each other.
        RuntimeError: `impl="triton"` where the kernels cannot run; the message says why.

    Source: Chen et al., "A Simple Framework for Contrastive Learning", arXiv 2002.05709, eq. 1; Khosla et
        al., "Supervised Contrastive Learning", arXiv 2004.11362, eq. 2 (L_out).

    Example:
        >>> import torch
        >>> views = torch.eye(2).repeat(2, 1)  # two views of two things
        >>> contrastive_cross_entropy(views, positives=torch.tensor([2, 3, 0, 1]), temperature=1.0)
        tensor(0.5514)
    """
    for name, flag in (
        ("decoupled", decoupled),
        ("bidirectional", bidirectional),
        ("exclude_same_label", exclude_same_label),
        ("exclude_self", keys is None if exclude_self is None else exclude_self),
    ):
        check_flag(WHERE, name, flag)
    check_reduction(WHERE, reduction)
    check_impl(WHERE, impl)
    if chunk_size is not None:
        check_count(WHERE, "chunk_size", chunk_size)
    tensor_temperature, fixed_temperature = check_number(WHERE, "temperature", temperature)
    if tensor_temperature is None:
        check_temperature_value(fixed_temperature)
    _check_rows(queries, keys, extra_keys)
    query_labels, key_labels = _check_labels(labels, extra_labels, queries, keys, extra_keys)
    by_label = positives is None and query_labels is not None and not exclude_same_label
    if positives is None and query_labels is None and keys is None:
        raise ValueError(
            f"{WHERE}: without keys the positives must be given; pass positives=, or labels=, or keys="
        )
    if bidirectional and (keys is None or positives is not None or by_label or extra_keys is not None):
        raise ValueError(
            f"{WHERE}: bidirectional takes keys, and query i and key i belong together; leave out positives, "
            "extra_keys, and labels too unless exclude_same_label=True"
        )
    if exclude_same_label and query_labels is None:
        raise ValueError(f"{WHERE}: exclude_same_label takes labels=, the classes that stay out")
    if not by_label:
        _check_positives(positives, queries, queries if keys is None else keys, bidirectional)
    if exclude is not None:
        _check_exclude(exclude, queries, queries if keys is None else keys, extra_keys, group)
    common: dict[str, Any] = {
        "positives": positives,
        "extra_labels": extra_labels,
        "exclude": exclude,
        "fixed_temperature": fixed_temperature,
        "decoupled": decoupled,
        "exclude_self": keys is None if exclude_self is None else exclude_self,
        "exclude_same_label": exclude_same_label,
        "separate": reduction == "none",
        "chunk_size": chunk_size,
        "group": name_of(WHERE, group),
        "impl": impl,
    }
    rows = queries, keys, extra_keys, tensor_temperature
    if group is None or not bidirectional:
        options = PairOptions(
            labels=query_labels, key_labels=key_labels, bidirectional=bidirectional, **common
        )
        return _loss(*rows, options, reduction)
    # Each process has whole rows of both directions, not of the columns.
    if exclude is not None:
        raise ValueError(f"{WHERE}: exclude cannot be given with bidirectional and group; leave one out")
    assert keys is not None
    forth = PairOptions(labels=query_labels, key_labels=key_labels, bidirectional=False, **common)
    back = PairOptions(labels=key_labels, key_labels=query_labels, bidirectional=False, **common)
    return (_loss(*rows, forth, reduction) + _loss(keys, queries, None, rows[3], back, reduction)) / 2


def _loss(
    queries: Tensor,
    keys: Tensor | None,
    extra_keys: Tensor | None,
    temperature: Tensor | None,
    options: PairOptions,
    reduction: Reduction,
) -> Tensor:
    loss, count, *_ = pair_softmax(queries, keys, extra_keys, temperature, *options, 0)
    return reduced(loss, count, reduction)


def _check_rows(queries: Any, keys: Any, extra_keys: Any) -> None:
    check_tensors(WHERE, queries=queries)
    given = {"keys": keys, "extra_keys": extra_keys}
    check_tensors(WHERE, queries=queries, **{name: one for name, one in given.items() if one is not None})
    for name, one in (("queries", queries), *given.items()):
        if one is not None and (one.ndim != 2 or one.shape[1] != queries.shape[-1]):
            raise ValueError(
                f"{WHERE}: queries and keys must have shapes (N, D) and (M, D), got {name} of shape "
                f"{tuple(one.shape)} beside {tuple(queries.shape)}; flatten(1) makes one vector "
                "of each sample"
            )


def _check_labels(
    labels: Any, extra_labels: Any, queries: Tensor, keys: Tensor | None, extra_keys: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """The labels of the queries, and those of the keys if these are others."""
    if (extra_labels is not None) != (extra_keys is not None and labels is not None):
        raise ValueError(
            f"{WHERE}: extra_labels belong to extra_keys and labels; pass all three, or leave them out"
        )
    if extra_labels is not None:
        _check_label("extra_labels", extra_labels, extra_keys)
    if labels is None:
        return None, None
    if (keys is None) != isinstance(labels, Tensor):
        raise ValueError(
            f"{WHERE}: labels must be one tensor without keys, and with keys a pair, "
            f"labels=(query_labels, key_labels); got {type(labels).__name__}"
        )
    if keys is None:
        _check_label("labels", labels, queries)
        return labels, None
    if not isinstance(labels, (tuple, list)) or len(labels) != 2:
        raise TypeError(f"{WHERE}: labels must be a pair of tensors, got {type(labels).__name__}")
    _check_label("labels", labels[0], queries)
    _check_label("labels of the keys", labels[1], keys)
    return labels[0], labels[1]


def _check_label(name: str, labels: Any, rows: Any) -> None:
    check_indices(WHERE, name, labels, rows.device)
    if labels.shape != (len(rows),):
        raise ValueError(f"{WHERE}: {name} must have shape ({len(rows)},), got {tuple(labels.shape)}")


def _check_positives(positives: Any, queries: Tensor, keys: Tensor, same_number: bool) -> None:
    count, own = len(queries), len(keys)
    if positives is None:
        if own < count or (same_number and own != count):
            raise ValueError(
                f"{WHERE}: key i belongs to query i unless positives= says otherwise, but there are {count} "
                f"queries and {own} keys"
            )
        return
    check_indices(WHERE, "positives", positives, queries.device)
    if positives.shape != (count,) and not (positives.ndim == 2 and positives.shape[1] == 2):
        raise ValueError(
            f"{WHERE}: positives must have shape ({count},), a key for each query, or (P, 2), pairs of "
            f"query and key; got {tuple(positives.shape)}"
        )


def _check_exclude(
    exclude: Any, queries: Tensor, keys: Tensor, extra_keys: Tensor | None, group: Group | None
) -> None:
    if not isinstance(exclude, Tensor) or exclude.dtype != torch.bool or exclude.device != queries.device:
        found = (
            f"{exclude.dtype} on {exclude.device}" if isinstance(exclude, Tensor) else type(exclude).__name__
        )
        raise TypeError(f"{WHERE}: exclude must be a bool tensor on {queries.device}, got {found}")
    if group is None:  # how many keys all processes have is known below the wall
        check_mask_shape(exclude, len(queries), len(keys) + (0 if extra_keys is None else len(extra_keys)))
