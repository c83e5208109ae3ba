"""NT-Xent: two views of the same things."""

from typing import Any

import torch
from torch import Tensor

from cosnorm.distributed import Group
from cosnorm.functional.arrays import takes_arrays
from cosnorm.functional.checks import Reduction, check_pair
from cosnorm.functional.contrastive import contrastive_cross_entropy
from cosnorm.functional.overrides import overridable
from cosnorm.losses.grouped import Grouped, fixed_options
from cosnorm.losses.temperature import Temperature


@overridable
@takes_arrays
def nt_xent_loss(
    view1: Tensor,
    view2: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    decoupled: bool = False,
    extra_keys: Tensor | None = None,
    groups: Tensor | None = None,
    guide: tuple[Tensor, Tensor] | None = None,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    group: Group | None = None,
    impl: str = "auto",
    **options: Any,
) -> Tensor:
    r"""Normalized temperature-scaled cross-entropy of two views of the same things (SimCLR).

    .. math:: \ell_i = -\log \frac{e^{c_{i p(i)}/\tau}}{\sum_{j \ne i} e^{c_{ij}/\tau}}

    over all 2N embeddings i, with p(i) the other view of the same thing.

    Args:
        view1: shape (N, D).
        view2: shape (N, D); row i is the other view of row i.
        temperature: τ > 0, a number or a tensor that learns.
        decoupled: the positive leaves the sum.
        extra_keys: past embeddings (E, D), further negatives of all.
        groups: whole numbers (N,): others of the same group are no negatives.
        guide: other embeddings of both views, whose cosines say what is no negative.
        reduction: "mean" or "sum" over the 2N, or "none": shape (2N,), view1's first.
        chunk_size: rows of a block; None: chosen by itself.
        group: processes over which the batch is spread, see `contrastive_cross_entropy`.
        impl: as in `contrastive_cross_entropy`.
        options: further ones of it, such as `false_negative_margin`, `hardness` or `extra_groups`.

    Returns:
        The loss; at zero, with NaN, and for errors as `contrastive_cross_entropy`.

    Source: Chen et al., "A Simple Framework for Contrastive Learning", arXiv 2002.05709, eq. 1; decoupled:
        Yeh et al., arXiv 2110.06848.

    Example:
        >>> import torch
        >>> nt_xent_loss(torch.eye(2), torch.eye(2), temperature=1.0)
        tensor(0.5514)
    """
    check_pair("nt_xent_loss", view1=view1, view2=view2)
    number = view1.shape[0]
    both = torch.cat([view1, view2])
    positives = torch.arange(-number, number, dtype=torch.int64, device=both.device) % (2 * number)
    if isinstance(groups, Tensor):
        options["groups"] = torch.cat([groups, groups])
    if guide is not None:
        options["guide"] = torch.cat([*guide])
    return contrastive_cross_entropy(
        both,
        positives=positives,
        temperature=temperature,
        decoupled=decoupled,
        extra_keys=extra_keys,
        reduction=reduction,
        chunk_size=chunk_size,
        group=group,
        impl=impl,
        **options,
    )


class NTXentLoss(Grouped):
    """`nt_xent_loss` with its options; called with two views.

    Args:
        temperature: τ, the first one if it learns.
        learn_temperature: make log τ a parameter, `temperature.log_temperature`: no step makes τ negative.
        decoupled: the positive leaves the sum.
        reduction: "mean", "sum" or "none".
        chunk_size: rows of a block; None: chosen by itself.
        group: processes over which the batch is spread.
        impl: "auto", "torch" or "triton".
        options: further ones of every call that are no tensors, such as `false_negative_margin`.

    Example:
        >>> import torch
        >>> NTXentLoss(temperature=1.0)(torch.eye(2), torch.eye(2))
        tensor(0.5514)
    """

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        learn_temperature: bool = False,
        decoupled: bool = False,
        reduction: Reduction = "mean",
        chunk_size: int | None = None,
        group: Group | None = None,
        impl: str = "auto",
        **options: Any,
    ) -> None:
        super().__init__()
        self.options = fixed_options(type(self).__name__, options, ("directions", "joint"))
        self.temperature = Temperature(temperature, learn=learn_temperature)
        self.decoupled, self.reduction = decoupled, reduction
        self.chunk_size, self.group, self.impl = chunk_size, group, impl

    def forward(
        self, view1: Tensor, view2: Tensor, extra_keys: Tensor | None = None, **options: Any
    ) -> Tensor:
        """The loss of two views (N, D); see `nt_xent_loss`, also for further options."""
        return nt_xent_loss(
            view1,
            view2,
            temperature=self.temperature(),
            decoupled=self.decoupled,
            extra_keys=extra_keys,
            reduction=self.reduction,
            chunk_size=self.chunk_size,
            group=self.group_name,
            impl=self.impl,
            **{**self.options, **options},
        )

    def extra_repr(self) -> str:
        """The options, for `print`."""
        return f"decoupled={self.decoupled}, reduction={self.reduction!r}"
