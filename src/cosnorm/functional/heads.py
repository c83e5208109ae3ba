"""Cosine softmax over class weights with a margin, a block of classes at a time."""

from typing import Any, Literal

import torch
from torch import Tensor

from cosnorm.distributed import Group, check_group, gather_rows, multiply_gradient, place_of, share_gradient
from cosnorm.functional.arrays import takes_arrays
from cosnorm.functional.checks import check_count, check_indices, check_tensors
from cosnorm.functional.heads_core import margin_softmax
from cosnorm.functional.heads_target import Head
from cosnorm.functional.implementation import choose
from cosnorm.functional.margins import AdditiveAngle, AdditiveCosine, Margin, NoMargin
from cosnorm.functional.norms import accumulation_dtype
from cosnorm.functional.once import records_gradient
from cosnorm.functional.opaque import opaque

Reduction = Literal["none", "mean", "sum"]
_WHERE = "margin_cross_entropy"
_MARGINS = (NoMargin, AdditiveCosine, AdditiveAngle)  # those that a compiled graph can name


@takes_arrays
def margin_cross_entropy(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    margin: Margin | None = None,
    scale: float = 30.0,
    sub_centers: int = 1,
    classes: Tensor | None = None,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    group: Group | None = None,
    impl: str = "auto",
) -> Tensor:
    r"""Cross-entropy of a softmax over the cosines of each embedding with the weights of all classes.

    .. math:: \ell_i = \log \Big( e^{s \psi(\theta_{i y_i})} + \sum_{c \ne y_i} e^{s \cos \theta_{ic}} \Big)
        - s \psi(\theta_{i y_i})

    with the margin ψ: none (NormFace), cos θ − m (CosFace = AM-Softmax) or cos(θ + m) (ArcFace), see
    `NoMargin`, `AdditiveCosine` and `AdditiveAngle`. Neither the N×C logits nor normalized weights are ever
    made as a whole: beside the weight and its gradient the memory is O(N·D) and that of a block of classes.

    Args:
        embeddings: shape (N, D), of any length: they are normalized here.
        weight: shape (C, D), or (C·K, D) with K sub-centers; on the embeddings' device; of their dtype, or
            one half and one float32, as under autocast.
        labels: the class of each embedding, whole numbers in [0, C), shape (N,).
        margin: ψ of the target; None: none.
        scale: s > 0, what cosines are multiplied by (1/temperature).
        sub_centers: K, rows of the weight for each class; the largest cosine of them counts (Sub-center
            ArcFace).
        classes: numbers of the classes that take part, shape (S,), each once, the labels' among them (Partial
            FC); the others receive gradient 0. `sample_classes` draws them. None: all.
        reduction: "mean", "sum", or "none": shape (N,).
        chunk_size: classes of a block. None: chosen by itself.
        group: a `torch.distributed` group over whose processes the batch *and the classes* are spread: each
            gives its own embeddings and labels (any number), and the weights of its own classes, ranges of
            classes in the order of ranks. Labels count over all classes, `classes` among the process's own.
            Mean and sum are those of the whole batch, on every process. The gradient in a process's
            embeddings is the number of processes times that of the whole batch, which is what
            DistributedDataParallel's average wants; that in its weights is exact, for a parameter that is
            *not* averaged. With "none" each gets the losses of its own embeddings, and gradients without that
            factor.
        impl: "torch" (its operators), "triton" (kernels that write no logits, for float32 and half types on a
            GPU), or "auto", which takes torch's. A named one computes or raises.

    Returns:
        The loss: float32 for half types, else of the dtype of the embeddings. NumPy arrays give NumPy.

    A zero embedding or weight has cosine 0 with everything and receives gradient 0. At sin θ = 0 the target's
    cosine has gradient 0 in both. An empty batch has the mean 0. The gradient cannot be differentiated again:
    that raises.

    Raises:
        TypeError: not tensors, wrong dtypes.
        ValueError: shapes that do not fit, labels out of range, a scale that is not positive.
        RuntimeError: `impl="triton"` where the kernels cannot run; the message says why.

    Source: Wang et al., "Additive Margin Softmax", arXiv 1801.05599, eq. 6; Deng et al., "ArcFace", arXiv
        1801.07698,
    eq. 3; Deng et al., "Sub-center ArcFace", ECCV 2020; An et al., "Partial FC", arXiv 2010.05222.

    Example:
        >>> import torch
        >>> from cosnorm.functional import AdditiveCosine
        >>> embeddings, weight = torch.eye(2), torch.eye(3)[:, :2]
        >>> labels = torch.tensor([0, 1])
        >>> margin_cross_entropy(embeddings, weight, labels, margin=AdditiveCosine(0.35), scale=10.0)
        tensor(0.0030)
    """
    if torch.compiler.is_compiling() and group is None and (margin is None or type(margin) in _MARGINS):
        kind = _MARGINS.index(type(margin or NoMargin()))
        options = (
            kind,
            getattr(margin, "margin", 0.0),
            float(scale),
            sub_centers,
            reduction,
            chunk_size,
            impl,
        )
        return _compiled(embeddings, weight, labels, classes, *options)
    check_rows_of_classes(_WHERE, embeddings=embeddings, weight=weight)
    check_count(_WHERE, "sub_centers", sub_centers)
    if len(weight) % sub_centers:
        raise ValueError(
            f"{_WHERE}: with {sub_centers} sub-centers the rows of weight must be a multiple of as many, "
            f"got {len(weight)}"
        )
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise TypeError(f"{_WHERE}: scale must be a number, got {type(scale).__name__}")
    if not 0 < scale <= 1e6:
        raise ValueError(f"{_WHERE}: scale must be positive (at most 1e6), got {scale}")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{_WHERE}: reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    if chunk_size is not None:
        check_count(_WHERE, "chunk_size", chunk_size)
    if margin is not None and not callable(margin):
        raise TypeError(
            f"{_WHERE}: margin must be a function such as AdditiveCosine({margin!r}), "
            f"got {type(margin).__name__}"
        )
    kernels = choose(_WHERE, impl, embeddings, weight)
    if kernels and sub_centers > 1:
        raise RuntimeError(f'{_WHERE}: impl="triton" has no kernel for sub-centers; use impl="torch"')
    number, offset, total = len(weight) // sub_centers, 0, len(weight) // sub_centers
    rows, own = embeddings, slice(None)
    if group is not None:
        check_group(_WHERE, group)
        offset, total = place_of(number, weight.device, group)
    check_labels(_WHERE, labels, embeddings, total)
    if group is not None:
        factor = reduction != "none"
        rows, first = gather_rows(multiply_gradient(embeddings, group) if factor else embeddings, group)
        own = slice(first, first + len(embeddings))
        labels = gather_rows(labels.long(), group).rows - offset
    if classes is not None:
        classes, labels = _among(classes, labels, number)
    head = Head(
        margin=margin or NoMargin(),
        scale=float(scale),
        sub_centers=sub_centers,
        classes=classes,
        separate=reduction == "none",
        block=chunk_size,
        keep_gradients=records_gradient(rows, weight),
        group=group,
        kernels=min(embeddings.dtype, weight.dtype, key=lambda dtype: dtype.itemsize) if kernels else None,
    )
    loss = margin_softmax(rows, weight, labels.long(), head)
    if reduction == "none":
        return loss if group is None else share_gradient(loss, group)[own]
    return loss / max(1, len(rows)) if reduction == "mean" else loss


@takes_arrays
def sample_classes(
    labels: Tensor, num_classes: int, num_sampled: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """Classes for one step of Partial FC: all of the batch, and others drawn evenly without repetition.

    Args:
        labels: the classes of the batch, (N,).
        num_classes: C.
        num_sampled: how many classes to return; more where the batch itself has more.
        generator: source of the drawing; None: torch's own.

    Returns:
        Sorted class numbers, (S,).

    Raises:
        TypeError: labels that are not whole numbers.
        ValueError: labels out of range, more classes asked for than there are.

    Source: An et al., "Partial FC", arXiv 2010.05222, section 3.

    Example:
        >>> import torch
        >>> sample_classes(torch.tensor([4, 4, 1]), num_classes=5, num_sampled=2)
        tensor([1, 4])
    """
    where = "sample_classes"
    check_indices(
        where, "labels", labels, labels.device if isinstance(labels, Tensor) else torch.device("cpu")
    )
    check_count(where, "num_classes", num_classes)
    check_count(where, "num_sampled", num_sampled)
    if num_sampled > num_classes:
        raise ValueError(
            f"{where}: num_sampled must be at most num_classes = {num_classes}, got {num_sampled}"
        )
    _check_range(where, labels, num_classes)
    present = labels.long().unique()
    order = torch.randperm(num_classes, generator=generator, device=labels.device)
    absent = order[~torch.isin(order, present)]
    return torch.cat([present, absent[: max(0, num_sampled - len(present))]]).sort().values


def check_rows_of_classes(where: str, **tensors: Any) -> None:
    """Raise unless two tensors, embeddings (N, D) and rows of classes (C, D), go together."""
    (_, embeddings), (name, rows) = tensors.items()
    check_tensors(where, embeddings=embeddings)
    check_tensors(where, **{name: rows})
    if accumulation_dtype(embeddings.dtype) != accumulation_dtype(rows.dtype):
        raise TypeError(
            f"{where}: embeddings and {name} must both be float64, or neither; got {embeddings.dtype} and "
            f"{rows.dtype}; convert one of them, for instance {name}.to(embeddings.dtype)"
        )
    if embeddings.device != rows.device:
        raise ValueError(
            f"{where}: embeddings and {name} must be on one device, got {embeddings.device} and "
            f"{rows.device}; move one of them, for instance {name}.to(embeddings.device)"
        )
    if embeddings.ndim != 2 or rows.ndim != 2 or embeddings.shape[1] != rows.shape[1]:
        raise ValueError(
            f"{where}: embeddings and {name} must have shapes (N, D) and (C, D), got "
            f"{tuple(embeddings.shape)} and {tuple(rows.shape)}; flatten(1) makes one vector of each sample"
        )


def check_labels(where: str, labels: Any, embeddings: Tensor, num_classes: int) -> None:
    """Raise unless there is a class in [0, num_classes) for each embedding."""
    check_indices(where, "labels", labels, embeddings.device)
    if labels.shape != (len(embeddings),):
        raise ValueError(
            f"{where}: labels must have shape ({len(embeddings)},), one class for each embedding, "
            f"got {tuple(labels.shape)}"
        )
    _check_range(where, labels, num_classes)


def _check_range(where: str, labels: Tensor, num_classes: int) -> None:
    if labels.numel() and not torch.compiler.is_compiling():  # a graph cannot look at the labels
        low, high = (int(bound) for bound in torch.aminmax(labels))
        if low < 0 or high >= num_classes:
            raise ValueError(f"{where}: labels must be in [0, {num_classes}), got {low} to {high}")


def _among(classes: Tensor, labels: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The classes that take part, sorted, and the labels counted among them."""
    check_indices(_WHERE, "classes", classes, labels.device)
    found = classes.long().unique()
    if classes.ndim != 1 or len(found) != len(classes):
        raise ValueError(
            f"{_WHERE}: classes must have shape (S,) and name each class once, got shape "
            f"{tuple(classes.shape)} with {len(found)} different ones; use classes.unique()"
        )
    _check_range(_WHERE + ": classes", found, number)
    here = (labels >= 0) & (labels < number)  # the others are another process's
    places = torch.searchsorted(found, labels.long()).clamp_(max=max(0, len(found) - 1))
    if bool(here.any()) and (not len(found) or bool((found[places] != labels)[here].any())):
        raise ValueError(
            f"{_WHERE}: classes must hold the labels of the batch, and do not; sample_classes(labels, …) "
            "draws classes that do"
        )
    return found, places.masked_fill(~here, -1)


def _eager(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    classes: Tensor | None,
    kind: int,
    margin: float,
    scale: float,
    sub_centers: int,
    reduction: Any,
    chunk_size: int | None,
    impl: str,
) -> Tensor:
    chosen: Any = NoMargin() if kind == 0 else (AdditiveCosine, AdditiveAngle)[kind - 1](margin)
    loss: Tensor = margin_cross_entropy(
        embeddings,
        weight,
        labels,
        margin=chosen,
        scale=scale,
        sub_centers=sub_centers,
        classes=classes,
        reduction=reduction,
        chunk_size=chunk_size,
        impl=impl,
    )
    return loss


def _fake(embeddings: Tensor, *values: Any) -> Tensor:
    shape = embeddings.shape[:1] if values[-3] == "none" else ()
    return embeddings.new_empty(shape, dtype=accumulation_dtype(embeddings.dtype))


_compiled = opaque(
    "margin_cross_entropy",
    "Tensor embeddings, Tensor weight, Tensor labels, Tensor? classes, int kind, float margin, float scale, "
    "int sub_centers, str reduction, int? chunk_size, str impl",
    _eager,
    _fake,
    differentiable=2,
)
