"""Cosine softmax over class weights with a margin, a block of classes at a time."""

import torch
from torch import Tensor

from cosnorm.backends.choose import check_impl
from cosnorm.devices import is_accelerator
from cosnorm.distributed import Group, name_of
from cosnorm.functional.arrays import takes_arrays
from cosnorm.functional.checks import (
    Reduction,
    check_count,
    check_indices,
    check_labels,
    check_reduction,
    check_rows_of_classes,
    is_number,
    reduced,
)
from cosnorm.functional.counting import check_counting
from cosnorm.functional.margins import Margin, NoMargin
from cosnorm.functional.overrides import overridable
from cosnorm.operators.classes import ClassOptions, class_softmax
from cosnorm.operators.indices import indices_in
from cosnorm.operators.targets import class_targets

_WHERE = "margin_cross_entropy"


@overridable
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
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
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
        margin: ψ of the target; None: none. Any function of cos θ and sin θ that gives ψ and −dψ/dθ; what it
            computes ψ from may learn.
        scale: s > 0, what cosines are multiplied by (1/temperature).
        sub_centers: K, rows of the weight for each class; the largest cosine of them counts (Sub-center
            ArcFace).
        classes: numbers of the classes that take part, shape (S,), each once, the labels' among them (Partial
            FC); the others receive gradient 0. `sample_classes` draws them. None: all.
        class_weights: what each class counts, (C,), positive or 0; they do not learn. None: 1 each.
        label_smoothing: ε in [0, 1], the share of the target that is spread evenly over the classes (that
            take part), without a margin; not with sub-centers.
        ignore_index: a label whose embeddings count nothing.
        reduction: "mean", weighed by `class_weights` as `torch.nn.functional.cross_entropy` does; "sum", or
            "none": shape (N,).
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
            GPU), or "auto", which takes the kernels where `cosine_linear` does. A named one computes or
            raises; there is no "c" here.

    Returns:
        The loss: float32 for half types, else of the dtype of the embeddings. NumPy arrays give NumPy.

    Class weights, smoothing and ignored labels are those of `torch.nn.functional.cross_entropy` for the
    logits with ψ at the target. A zero embedding or weight has cosine 0 with everything and receives gradient
    0. At sin θ = 0 the target's cosine has gradient 0 in both. An empty batch, and one of ignored labels, has
    the mean 0. The gradient cannot be differentiated again: that raises.

    Raises:
        TypeError: not tensors, wrong dtypes.
        ValueError: shapes that do not fit, labels out of range, a scale that is not positive.
        RuntimeError: `impl="triton"` where the kernels cannot run; the message says why.

    Source: Wang et al., "Additive Margin Softmax", arXiv 1801.05599, eq. 6; Deng et al., "ArcFace", arXiv
        1801.07698, eq. 3; Deng et al., "Sub-center ArcFace", ECCV 2020; An et al., "Partial FC", arXiv
        2010.05222.

    Example:
        >>> import torch
        >>> from cosnorm.functional import AdditiveCosine
        >>> embeddings, weight = torch.eye(2), torch.eye(3)[:, :2]
        >>> labels = torch.tensor([0, 1])
        >>> margin_cross_entropy(embeddings, weight, labels, margin=AdditiveCosine(0.35), scale=10.0)
        tensor(0.0030)
    """
    check_rows_of_classes(_WHERE, embeddings=embeddings, weight=weight)
    check_labels(_WHERE, labels, embeddings)
    check_count(_WHERE, "sub_centers", sub_centers)
    if weight.shape[0] % sub_centers:
        raise ValueError(
            f"{_WHERE}: with {sub_centers} sub-centers the rows of weight must be a multiple of as many, "
            f"got {len(weight)}"
        )
    if not is_number(scale):
        raise TypeError(f"{_WHERE}: scale must be a number, got {type(scale).__name__}")
    if not 0 < scale <= 1e6:
        raise ValueError(f"{_WHERE}: scale must be positive (at most 1e6), got {scale}")
    check_reduction(_WHERE, reduction)
    if chunk_size is not None:
        check_count(_WHERE, "chunk_size", chunk_size)
    if margin is not None and not callable(margin):
        raise TypeError(
            f"{_WHERE}: margin must be a function such as AdditiveCosine({margin!r}), "
            f"got {type(margin).__name__}"
        )
    check_impl(_WHERE, impl)
    if impl == "triton" and sub_centers > 1:
        raise RuntimeError(f'{_WHERE}: impl="triton" has no kernel for sub-centers; use impl="torch"')
    if classes is not None:
        check_indices(_WHERE, "classes", classes, labels.device)
        if classes.ndim != 1:
            raise ValueError(f"{_WHERE}: classes must have shape (S,), got {tuple(classes.shape)}")
        classes = classes.long().sort().values
    check_counting(
        _WHERE,
        embeddings,
        weight.shape[0] // sub_centers if group is None else None,
        sub_centers,
        class_weights,
        label_smoothing,
        ignore_index,
    )
    processes = name_of(_WHERE, group)
    found = class_targets(
        embeddings.detach(), weight.detach(), labels, classes, sub_centers, int(ignore_index), processes, impl
    )
    value, slope = (margin or NoMargin())(*found)
    options = ClassOptions(
        labels=labels,
        slope=slope.detach(),
        classes=classes,
        class_weights=class_weights,
        scale=float(scale),
        sub_centers=sub_centers,
        label_smoothing=float(label_smoothing),
        ignore_index=int(ignore_index),
        separate=reduction == "none",
        chunk_size=chunk_size,
        group=processes,
        impl=impl,
    )
    loss, count, *_ = class_softmax(embeddings, weight, value, *options, 0)
    return reduced(loss, count, reduction)


@overridable
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
    labels = indices_in(labels, num_classes, f"{where}: labels must be")
    order = torch.randperm(num_classes, generator=generator, device=labels.device)
    if is_accelerator(labels.device) and labels.numel() <= num_sampled:
        # The batch cannot have more: the first ones, those of the batch before all, and nobody waits.
        ranks = torch.empty_like(order).scatter_(0, order, torch.arange(num_classes, device=order.device))
        return (
            ranks.index_fill_(0, labels.flatten(), -1).topk(num_sampled, largest=False).indices.sort().values
        )
    present = labels.unique()
    absent = order[~torch.isin(order, present)]
    return torch.cat([present, absent[: max(0, num_sampled - len(present))]]).sort().values
