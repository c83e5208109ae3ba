"""Supervised contrastive loss: what has one label belongs together."""

from typing import Any

import torch
from torch import Tensor

from cosnorm.devices import is_accelerator
from cosnorm.distributed import Group
from cosnorm.functional.arrays import takes_arrays
from cosnorm.functional.checks import Reduction, check_indices
from cosnorm.functional.contrastive import contrastive_cross_entropy
from cosnorm.functional.counting import check_ignored
from cosnorm.functional.overrides import overridable
from cosnorm.losses.grouped import Grouped, fixed_options
from cosnorm.losses.temperature import Temperature


@overridable
@takes_arrays
def sup_con_loss(
    embeddings: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.1,
    decoupled: bool = False,
    extra_keys: Tensor | None = None,
    extra_labels: Tensor | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    group: Group | None = None,
    impl: str = "auto",
    **options: Any,
) -> Tensor:
    r"""Supervised contrastive loss: every other embedding of the same label is a positive.

    .. math:: \ell_i = -\frac{1}{|P(i)|} \sum_{p \in P(i)}
        \log \frac{e^{c_{ip}/\tau}}{\sum_{j \ne i} e^{c_{ij}/\tau}}

    Args:
        embeddings: shape (N, D), or (N, V, D) of V views of each sample, all of its label, as the original's
            features.
        labels: whole numbers, shape (N,). None: every sample is a class of its own, of several views.
        temperature: τ > 0, a number or a tensor that learns.
        decoupled: the positives leave the sum.
        extra_keys: past embeddings (E, D) as further positives and negatives.
        extra_labels: their labels (E,).
        ignore_index: a label whose embeddings, extra keys too, are left out of everything, as if not
            in the batch: nobody knows whether they are positives or negatives. None: there is none such.
        reduction: "mean" over the embeddings that have a positive, "sum", or "none": shape (N,) or (N, V).
        chunk_size: rows of a block; None: chosen by itself.
        group: processes over which the batch is spread, see `contrastive_cross_entropy`.
        impl: as in `contrastive_cross_entropy`.
        options: further ones of it, such as `hardness` or, for embeddings (N, D), `groups`; those of each
            embedding not with `ignore_index`.

    Returns:
        The loss; an embedding alone with its label has loss 0 and does not count. At zero and with NaN as
        `contrastive_cross_entropy`.

    Raises:
        TypeError: no labels, but for two views or more on one process and without `extra_labels`.
        ValueError: labels of another shape. Else as `contrastive_cross_entropy`.

    Source: Khosla et al., "Supervised Contrastive Learning", arXiv 2004.11362, eq. 2.

    Example:
        >>> import torch
        >>> sup_con_loss(torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 0, 1]), temperature=1.0)
        tensor(0.5514)
    """
    views = None
    if isinstance(embeddings, Tensor) and embeddings.ndim == 3:
        views = embeddings.shape[:2]
    if labels is None:
        if views is None or views[1] < 2 or group is not None or extra_labels is not None:
            raise TypeError(
                "sup_con_loss: labels must be given, but for embeddings (N, V, D) of two views or more, on "
                "one process and without extra_labels"
            )
        labels = torch.arange(views[0], device=embeddings.device)
    if views is not None:
        check_indices("sup_con_loss", "labels", labels, embeddings.device)
        if labels.shape != views[:1]:
            raise ValueError(
                f"sup_con_loss: labels must have shape ({views[0]},), one for each sample, got "
                f"{tuple(labels.shape)}"
            )
        embeddings, labels = embeddings.flatten(0, 1), labels.repeat_interleave(views[1])
    kept = exclude = None
    if ignore_index is not None:
        each = [name for name, one in options.items() if isinstance(one, Tensor)]
        if each:
            raise ValueError(
                f"sup_con_loss: ignore_index cannot be given with {', '.join(each)}; leave one out"
            )
        check_ignored("sup_con_loss", ignore_index)
        check_indices("sup_con_loss", "labels", labels, embeddings.device)
        kept = labels != ignore_index
        if is_accelerator(embeddings.device) and group is None:
            # How many are kept nobody waits for: the others keep out of all sums, and have no positives.
            embeddings, labels, extra_labels, exclude = _left_out(
                embeddings, labels, extra_labels, ignore_index
            )
            kept = None
        elif kept.shape == embeddings.shape[:1]:  # else the shapes are an error, as without
            embeddings, labels = embeddings[kept], labels[kept]
        if exclude is None and extra_keys is not None and extra_labels is not None:
            kept_keys = extra_labels != ignore_index
            extra_keys, extra_labels = extra_keys[kept_keys], extra_labels[kept_keys]
    loss = contrastive_cross_entropy(
        embeddings,
        labels=labels,
        temperature=temperature,
        decoupled=decoupled,
        exclude=exclude,
        extra_keys=extra_keys,
        extra_labels=extra_labels,
        reduction=reduction,
        chunk_size=chunk_size,
        group=group,
        impl=impl,
        **options,
    )
    if reduction != "none":
        return loss
    if kept is not None:
        loss = loss.new_zeros(kept.shape).masked_scatter(kept, loss)
    return loss if views is None else loss.unflatten(0, views)


def _left_out(
    embeddings: Tensor, labels: Tensor, extra_labels: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """What is ignored as zero rows with labels of their own, and where it is among the keys, (1, M)."""
    extra = labels[:0] if extra_labels is None else extra_labels
    together = torch.cat([labels, extra]).long()
    ignored = together == ignore_index
    if labels.shape != embeddings.shape[:1] or not len(together):
        return embeddings, labels, extra_labels, None
    own = together.amin() - 1 - torch.arange(len(together), device=together.device)
    labels, extra = torch.where(ignored, own, together).split([len(labels), len(extra)])
    embeddings = embeddings.masked_fill(ignored[: len(labels)].unsqueeze(1), 0)
    return embeddings, labels, None if extra_labels is None else extra, ignored.unsqueeze(0)


class SupConLoss(Grouped):
    """`sup_con_loss` with its options; called with embeddings and labels.

    Args:
        temperature: τ, the first one if it learns.
        learn_temperature: make log τ a parameter.
        decoupled: the positives leave the sum.
        ignore_index: a label whose embeddings are left out; None: there is none such.
        reduction: "mean", "sum" or "none".
        chunk_size: rows of a block; None: chosen by itself.
        group: processes over which the batch is spread.
        impl: "auto", "torch" or "triton".
        options: further ones of every call that are no tensors, such as `hardness`.

    Example:
        >>> import torch
        >>> SupConLoss(temperature=1.0)(torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 0, 1]))
        tensor(0.5514)
    """

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        learn_temperature: bool = False,
        decoupled: bool = False,
        ignore_index: int | None = None,
        reduction: Reduction = "mean",
        chunk_size: int | None = None,
        group: Group | None = None,
        impl: str = "auto",
        **options: Any,
    ) -> None:
        super().__init__()
        self.options = fixed_options(type(self).__name__, options)
        if ignore_index is not None:
            check_ignored(type(self).__name__, ignore_index)
        self.temperature = Temperature(temperature, learn=learn_temperature)
        self.decoupled, self.ignore_index, self.reduction = decoupled, ignore_index, reduction
        self.chunk_size, self.group, self.impl = chunk_size, group, impl

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        extra_keys: Tensor | None = None,
        extra_labels: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """The loss of embeddings (N, D), or (N, V, D) with labels (N,) or without; see `sup_con_loss`."""
        return sup_con_loss(
            embeddings,
            labels,
            temperature=self.temperature(),
            decoupled=self.decoupled,
            extra_keys=extra_keys,
            extra_labels=extra_labels,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            chunk_size=self.chunk_size,
            group=self.group_name,
            impl=self.impl,
            **self.options,
            **options,
        )

    def extra_repr(self) -> str:
        """The options, for `print`."""
        return f"decoupled={self.decoupled}, reduction={self.reduction!r}"
