"""Cosine softmax over class weights with a margin, a block of classes at a time."""

from torch import Tensor

from cosnorm.backends.choose import check_impl
from cosnorm.distributed import Group, name_of
from cosnorm.functional.arrays import takes_arrays
from cosnorm.functional.batch_margins import BatchMargin, Changed, Targets
from cosnorm.functional.checks import (
    Reduction,
    check_count,
    check_labels,
    check_reduction,
    check_rows_of_classes,
    is_number,
    reduced,
)
from cosnorm.functional.classes import check_classes, check_sub_centers
from cosnorm.functional.counting import check_counting
from cosnorm.functional.margins import Margin, NoMargin
from cosnorm.functional.overrides import overridable
from cosnorm.functional.schedules import check_one
from cosnorm.operators.class_problem import ClassOptions
from cosnorm.operators.classes import class_softmax
from cosnorm.operators.row_norms import row_norms
from cosnorm.operators.targets import class_targets

_WHERE = "margin_cross_entropy"


@overridable
@takes_arrays
def margin_cross_entropy(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    margin: Margin | BatchMargin | None = None,
    scale: float | Tensor = 30.0,
    sub_centers: int = 1,
    classes: Tensor | None = None,
    exclude_above: float | None = None,
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

    with the margin ψ: none (NormFace), cos θ − m (CosFace = AM-Softmax), cos(θ + m) (ArcFace) and others, see
    `cosnorm.functional.named_margins`. Neither the N×C logits nor normalized weights are ever
    made as a whole: beside the weight and its gradient the memory is O(N·D) and that of a block of classes.

    Args:
        embeddings: shape (N, D), of any length: they are normalized here.
        weight: shape (C, D), or (C·K, D) with K sub-centers; on the embeddings' device; of their dtype, or
            one half and one float32, as under autocast.
        labels: the class of each embedding, whole numbers in [0, C), shape (N,).
        margin: ψ of the target; None: none. Any function of cos θ and sin θ that gives ψ and −dψ/dθ, or a
            `BatchMargin`, which sees norms and more; what it computes ψ from may learn.
        scale: s > 0, what cosines are multiplied by (1/temperature); a tensor of one number, which may change
            from step to step, does not learn here.
        sub_centers: K, rows of the weight for each class; the largest cosine of them counts (Sub-center
            ArcFace).
        classes: numbers of the classes that take part, shape (S,), each once, the labels' among them (Partial
            FC); the others receive gradient 0. `sample_classes` draws them. None: all.
        exclude_above: other classes whose cosine with an embedding is above this leave its sum (inter-class
            filtering: they may be the same person). None: none do. Not with label smoothing.
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
            GPU; not for sub-centers, nor where other classes count more or not at all), or "auto", which
            takes them where `cosine_linear` does. A named one computes or raises; there is no "c" here.

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
        2010.05222, and its code (`interclass_filtering_threshold`; there such a class keeps the logit 0).

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
    check_sub_centers(_WHERE, weight, sub_centers)
    tensor_scale = _check_scale(scale)
    check_reduction(_WHERE, reduction)
    if chunk_size is not None:
        check_count(_WHERE, "chunk_size", chunk_size)
    if margin is not None and not callable(margin):
        raise TypeError(
            f"{_WHERE}: margin must be a function such as AdditiveCosine({margin!r}), "
            f"got {type(margin).__name__}"
        )
    check_impl(_WHERE, impl)
    if exclude_above is not None:
        _check_threshold(exclude_above, label_smoothing)
    classes = check_classes(_WHERE, classes, labels)
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
    cosine, sine = class_targets(
        embeddings.detach(),
        weight.detach(),
        labels,
        classes,
        sub_centers,
        int(ignore_index),
        processes,
        _WHERE,
        impl,
    )
    if isinstance(margin, BatchMargin):
        counted = labels != ignore_index
        changed = margin(Targets(cosine, sine, row_norms(embeddings), counted, processes))
    else:
        changed = Changed(*(margin or NoMargin())(cosine, sine))
    if changed.hard is not None and label_smoothing:
        raise ValueError(
            f"{_WHERE}: label_smoothing wants cosines as they are, and {type(margin).__name__} changes those "
            "with other classes; leave one of them out"
        )
    options = ClassOptions(
        labels=labels,
        slope=changed.slope.detach(),
        classes=classes,
        class_weights=class_weights,
        hard=changed.hard,
        ease=changed.ease,
        tensor_scale=tensor_scale,
        scale=1.0 if tensor_scale is not None else float(scale),
        above=2.0 if exclude_above is None else float(exclude_above),
        sub_centers=sub_centers,
        label_smoothing=float(label_smoothing),
        ignore_index=int(ignore_index),
        separate=reduction == "none",
        chunk_size=chunk_size,
        group=processes,
        impl=impl,
    )
    if impl == "triton" and not (options.is_plain and sub_centers == 1):
        raise RuntimeError(
            f'{_WHERE}: impl="triton" has no kernel for sub-centers, nor for logits other than cosines times '
            'a number (exclude_above, CurricularMargin, a tensor for the scale); use impl="torch"'
        )
    loss, count, *_ = class_softmax(embeddings, weight, changed.value, changed.penalty, *options, 0)
    return reduced(loss, count, reduction)


def _check_scale(scale: float | Tensor) -> Tensor | None:
    """The scale if it is a tensor, which is looked at below the wall; raise unless it is one."""
    if isinstance(scale, Tensor):
        check_one(_WHERE, "scale", scale)
        if scale.requires_grad:
            raise ValueError(f"{_WHERE}: scale does not learn here; use scale.detach()")
        return scale
    if not is_number(scale):
        raise TypeError(f"{_WHERE}: scale must be a number, or a tensor of one, got {type(scale).__name__}")
    if not 0 < scale <= 1e6:
        raise ValueError(f"{_WHERE}: scale must be positive (at most 1e6), got {scale}")
    return None


def _check_threshold(exclude_above: float, label_smoothing: float) -> None:
    if not is_number(exclude_above):
        raise TypeError(f"{_WHERE}: exclude_above must be a number, got {type(exclude_above).__name__}")
    if not -1 <= exclude_above <= 1:
        raise ValueError(f"{_WHERE}: exclude_above is a cosine, between -1 and 1, got {exclude_above}")
    if label_smoothing:
        raise ValueError(
            f"{_WHERE}: label_smoothing spreads the target over all classes, and exclude_above leaves some "
            "out; leave one of them out"
        )
