"""Contrastive cross-entropy: a softmax over cosine similarities, in memory that does not grow with N·M."""

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from cosnorm.distributed import Group, check_group, sum_over
from cosnorm.functional.arrays import takes_arrays
from cosnorm.functional.checks import check_count, check_flag, check_temperature, check_temperature_type
from cosnorm.functional.contrastive_core import Mask, Problem, contrastive
from cosnorm.functional.contrastive_inputs import (
    WHERE,
    Batch,
    check_exclude,
    is_involution,
    mask_given,
    mask_self,
    pair_positives,
)
from cosnorm.functional.contrastive_kernels import kernel_problem, partners
from cosnorm.functional.implementation import choose
from cosnorm.functional.norms import accumulation_dtype
from cosnorm.functional.once import records_gradient
from cosnorm.functional.opaque import opaque
from cosnorm.functional.positives import LabelPositives, PairPositives, Positives

Reduction = Literal["none", "mean", "sum"]


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
    numbers is ever
    made: for the backward pass O((N + M)·D) bytes are saved, and the temporary memory falls with
        `chunk_size`.

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
            GPU), or "auto", which takes torch's. A named one computes or raises.

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
        al.,
    "Supervised Contrastive Learning", arXiv 2004.11362, eq. 2 (L_out).

    Example:
        >>> import torch
        >>> views = torch.eye(2).repeat(2, 1)  # two views of two things
        >>> contrastive_cross_entropy(views, positives=torch.tensor([2, 3, 0, 1]), temperature=1.0)
        tensor(0.5514)
    """
    if torch.compiler.is_compiling() and group is None:
        pair = (labels, None) if isinstance(labels, Tensor) else (None, None) if labels is None else labels
        known = check_temperature_type(WHERE, temperature)
        options = (decoupled, bidirectional, exclude_self, exclude_same_label, reduction, chunk_size, impl)
        return _compiled(queries, keys, extra_keys, known, positives, *pair, exclude, extra_labels, *options)
    for name, flag in (
        ("decoupled", decoupled),
        ("bidirectional", bidirectional),
        ("exclude_same_label", exclude_same_label),
        ("exclude_self", keys is None if exclude_self is None else exclude_self),
    ):
        check_flag(WHERE, name, flag)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{WHERE}: reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    if chunk_size is not None:
        check_count(WHERE, "chunk_size", chunk_size)
    batch = Batch(queries, keys, labels, extra_keys, extra_labels)
    temperature = check_temperature(WHERE, temperature)
    by_label = positives is None and batch.labels is not None and not exclude_same_label
    if positives is None and batch.labels is None and keys is None:
        raise ValueError(
            f"{WHERE}: without keys the positives must be given; pass positives=, or labels=, or keys="
        )
    if bidirectional and (keys is None or positives is not None or by_label or extra_keys is not None):
        raise ValueError(
            f"{WHERE}: bidirectional takes keys, and query i and key i belong together; leave out positives, "
            "extra_keys, and labels too unless exclude_same_label=True"
        )
    if exclude_same_label and batch.labels is None:
        raise ValueError(f"{WHERE}: exclude_same_label takes labels=, the classes that stay out")
    common: dict[str, Any] = {
        "decoupled": decoupled,
        "exclude_self": exclude_self,
        "exclude_same_label": exclude_same_label,
        "reduction": reduction,
        "chunk_size": chunk_size,
        "impl": impl,
    }
    if group is not None:
        check_group(WHERE, group)
        if bidirectional:
            # Each process has whole rows of both directions, not of the columns.
            if exclude is not None:
                raise ValueError(
                    f"{WHERE}: exclude cannot be given with bidirectional and group; leave one out"
                )
            flipped = None if batch.labels is None else batch.labels[::-1]
            there, back = (
                contrastive_cross_entropy(*pair, labels=known, temperature=temperature, group=group, **common)
                for pair, known in (((queries, keys), batch.labels), ((keys, queries), flipped))
            )
            return (there + back) / 2
        batch.gather(group)
    batch.append_extra()

    symmetric = batch.keys is queries
    if exclude_self is None:
        exclude_self = keys is None
    if by_label and batch.labels is not None:
        found: Positives = LabelPositives(*batch.labels, batch.offset if exclude_self else None)
    else:
        found = pair_positives(positives, queries, batch, bidirectional)
    kernels = choose(WHERE, impl, queries, batch.keys)
    masks: list[Mask] = []
    left_out: dict[str, Any] = {}  # the same for the kernels
    if exclude is not None:
        left_out["mask"] = check_exclude(exclude, queries, batch.keys)
        masks.append(partial(mask_given, left_out["mask"]))
        symmetric = False
    if exclude_self:
        left_out["offset"] = batch.offset
        masks.append(partial(mask_self, batch.offset))
    if exclude_same_label and batch.labels is not None:
        if bool((found.counts > 1).any()):
            raise ValueError(
                f"{WHERE}: exclude_same_label takes at most one positive for each query, got "
                f"{int(found.counts.max())}; leave some out"
            )
        left_out["labels"] = batch.labels
        masks.append(LabelPositives(*batch.labels, None).exclude_)
    elif decoupled:
        if isinstance(found, PairPositives) and kernels:
            left_out["partner"] = partners(WHERE, found)
        elif kernels:
            left_out["labels"] = batch.labels
        masks.append(found.exclude_)
        symmetric = symmetric and (by_label or is_involution(positives))
    problem = Problem(
        positives=found,
        masks=tuple(masks),
        own=exclude_same_label and not decoupled,
        symmetric=symmetric,
        bidirectional=bidirectional,
        separate=reduction == "none",
        tile=chunk_size,
        unit_keys=batch.unit,
        keep_gradients=records_gradient(queries, batch.keys, temperature),
        kernels=kernel_problem(queries.dtype, **left_out) if kernels else None,
    )
    loss, count = contrastive(queries, batch.keys, temperature, problem)
    if group is not None and reduction != "none":
        loss, count = sum_over(loss, group), sum_over(count, group)
    return loss / count.clamp(min=1) if reduction == "mean" else loss


def _eager(
    queries: Tensor,
    keys: Tensor | None,
    extra_keys: Tensor | None,
    temperature: Tensor,
    positives: Tensor | None,
    query_labels: Tensor | None,
    key_labels: Tensor | None,
    exclude: Tensor | None,
    extra_labels: Tensor | None,
    decoupled: bool,
    bidirectional: bool,
    exclude_self: bool | None,
    exclude_same_label: bool,
    reduction: Any,
    chunk_size: int | None,
    impl: str,
) -> Tensor:
    labels: Any = query_labels if key_labels is None else (query_labels, key_labels)
    loss: Tensor = contrastive_cross_entropy(
        queries,
        keys,
        positives,
        labels=labels,
        temperature=temperature,
        decoupled=decoupled,
        bidirectional=bidirectional,
        exclude=exclude,
        exclude_self=exclude_self,
        exclude_same_label=exclude_same_label,
        extra_keys=extra_keys,
        extra_labels=extra_labels,
        reduction=reduction,
        chunk_size=chunk_size,
        impl=impl,
    )
    return loss


def _fake(queries: Tensor, *values: Any) -> Tensor:
    shape = queries.shape[:1] if values[-3] == "none" else ()
    return queries.new_empty(shape, dtype=accumulation_dtype(queries.dtype))


_compiled = opaque(
    "contrastive_cross_entropy",
    "Tensor queries, Tensor? keys, Tensor? extra_keys, Tensor temperature, Tensor? positives, "
    "Tensor? query_labels, Tensor? key_labels, Tensor? exclude, Tensor? extra_labels, bool decoupled, "
    "bool bidirectional, bool? exclude_self, bool exclude_same_label, str reduction, int? chunk_size, "
    "str impl",
    _eager,
    _fake,
    differentiable=4,
)
