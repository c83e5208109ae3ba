"""Heads: a weight for each class, and a cosine softmax over them with a margin."""

from typing import Any

import torch
from torch import Tensor, nn

from cosnorm.devices import is_accelerator
from cosnorm.distributed import Group, gather_rows, share_of
from cosnorm.functional.batch_margins import BatchMargin
from cosnorm.functional.checks import Reduction, check_count, check_dtype, is_number
from cosnorm.functional.counting import check_counting
from cosnorm.functional.margin import margin_cross_entropy
from cosnorm.functional.margins import AdditiveAngle, AdditiveCosine, Margin, NoMargin, margin_of_numbers
from cosnorm.functional.named_margins import margin_of
from cosnorm.functional.sampling import sample_classes
from cosnorm.functional.schedules import Number, Schedule, hold, now, shown
from cosnorm.losses.grouped import Grouped
from cosnorm.losses.prediction import best_classes, best_over, class_cosines, prefixes


class CosineSoftmaxLoss(Grouped):
    """What the heads have in common: `weight` of shape (num_classes · sub_centers, embedding_size).

    Args:
        num_classes: C.
        embedding_size: D.
        margin: ψ of an embedding and its own class: a function, a `BatchMargin`, or the name of one, as in
            `cosnorm.functional.named_margins`.
        scale: s, what cosines are multiplied by: a number, a tensor of one that may change (it does not
            learn; see the attribute), or a function of the step (`cosnorm.functional.Schedule`).
        sub_centers: rows of the weight for each class; the nearest one counts.
        num_sampled: classes that take part in a training step, drawn for each batch; None: all.
        exclude_above: other classes whose cosine is above this leave the sum; None: none do.
        class_weights: what each class counts, (C,), a buffer that does not learn; None: 1 each.
        label_smoothing: the share of the target that is spread evenly over all classes.
        ignore_index: a label that does not count.
        reduction: "mean", "sum" or "none".
        chunk_size: classes of a block; None: chosen by itself.
        group: processes over which batch and classes are spread (see `margin_cross_entropy`): `weight` holds
            this process's share of the classes. Keep such a head out of DistributedDataParallel, and let each
            process's optimizer have its share. `state_dict` gathers the whole weight, so call it on every
            process; it loads on any number of processes.
        impl: "auto", "torch" or "triton", see `margin_cross_entropy`.
        device: of the weight.
        dtype: of the weight.

    Attributes:
        scale: s. Of a tensor a buffer, that tensor itself until the head is copied or its dtype or device
            changes; change this one in place, `head.scale.fill_(32.0)`, and it is followed. Of a
            number a float, which may be assigned to.
        margin: ψ. A margin of tensors has them as buffers in the same way: `head.margin.number0.fill_(0.3)`
            of a `ScheduledMargin`, in the order of its numbers.

    Raises:
        TypeError: arguments of other types.
        ValueError: numbers out of range.
    """

    weight: nn.Parameter

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: Margin | BatchMargin | str,
        scale: Number,
        *,
        sub_centers: int = 1,
        num_sampled: int | None = None,
        exclude_above: float | None = None,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        chunk_size: int | None = None,
        group: Group | None = None,
        impl: str = "auto",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        check_count(where, "num_classes", num_classes)
        check_count(where, "embedding_size", embedding_size)
        check_count(where, "sub_centers", sub_centers)
        check_dtype(where, dtype)
        if num_sampled is not None:
            check_count(where, "num_sampled", num_sampled)
            if num_sampled > num_classes:
                raise ValueError(
                    f"{where}: num_sampled must be at most num_classes = {num_classes}, got {num_sampled}"
                )
        if is_number(scale) and not scale > 0:  # type: ignore[operator]
            raise ValueError(f"{where}: scale must be positive, got {scale}")
        self.num_classes, self.embedding_size, self.sub_centers = num_classes, embedding_size, sub_centers
        self.margin, self.num_sampled = margin_of(where, margin), num_sampled
        self.scale: Any
        hold(self, "scale", scale, 0, 1e6)
        self.exclude_above = exclude_above
        self.reduction, self.chunk_size, self.group, self.impl = reduction, chunk_size, group, impl
        self.own = slice(0, num_classes)  # this process's classes
        if group is not None:
            self.own = share_of(num_classes, group)
        rows = (self.own.stop - self.own.start) * sub_centers
        self.weight = nn.Parameter(torch.empty(rows, embedding_size, device=device, dtype=dtype))
        if isinstance(class_weights, Tensor):
            class_weights = class_weights.to(self.weight.device)
        check_counting(
            where, self.weight, num_classes, sub_centers, class_weights, label_smoothing, ignore_index
        )
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights)
        self.label_smoothing, self.ignore_index = float(label_smoothing), int(ignore_index)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight from a normal distribution: every direction is equally likely."""
        nn.init.normal_(self.weight)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of embeddings (N, D) of the classes `labels` (N,); see `margin_cross_entropy`."""
        return margin_cross_entropy(
            embeddings,
            self.weight,
            labels,
            margin=self.margin,
            scale=now(self.scale),
            sub_centers=self.sub_centers,
            classes=self._classes(labels),
            exclude_above=self.exclude_above,
            class_weights=self.class_weights,
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            chunk_size=self.chunk_size,
            group=self.group_name,
            impl=self.impl,
        )

    def logits(self, embeddings: Tensor, *, dim: int | None = None) -> Tensor:
        """Scaled cosines of embeddings (N, D) with all classes, without the margin: (N, num_classes).

        Of sub-centers the nearest counts. `dim`: of the first components alone, see `predict`. With `group`
        every process gives its own embeddings and holds the whole weight for the time of the call.
        """
        where = type(self).__name__
        embeddings, weight = prefixes(f"{where}.logits", dim, embeddings, self.weight)
        weight = weight if self.group is None else gather_rows(weight, self.group).rows
        scale = self.scale.at_step() if isinstance(self.scale, Schedule) else self.scale
        return scale * class_cosines(where, embeddings, weight, self.sub_centers)

    @torch.no_grad()
    def predict(
        self,
        embeddings: Tensor,
        *,
        topk: int | None = None,
        chunk_size: int | None = None,
        dim: int | None = None,
    ) -> Tensor:
        """The class of the largest logit for each of the embeddings (N, D), without their matrix.

        Args:
            embeddings: (N, D); with `group` every process gives its own.
            topk: how many classes to return, the likeliest first; None: one.
            chunk_size: classes of a block; None: chosen by itself, from N: give a number where N is symbolic
                (`torch.export` with a dynamic batch).
            dim: how many of the first components of embeddings and weight count, as `MatryoshkaLoss` trains
                them; the embeddings may be cut already, (N, dim). None: all.

        Returns:
            (N,), or (N, topk). Of equal logits any comes first; those of NaN mean nothing.

        Raises:
            ValueError: `topk` is more than there are classes, `dim` more than D.
        """
        where, number = f"{type(self).__name__}.predict", 1 if topk is None else topk
        check_count(where, "topk", number)
        if number > self.num_classes:
            raise ValueError(f"{where}: topk must be at most num_classes = {self.num_classes}, got {topk}")
        if chunk_size is not None:
            check_count(where, "chunk_size", chunk_size)
        embeddings, weight = prefixes(where, dim, embeddings, self.weight)
        rows, offset = embeddings, 0
        if self.group is not None:
            rows, offset = gather_rows(embeddings, self.group)
        cosines, classes = best_classes(where, rows, weight, self.sub_centers, number, chunk_size)
        if self.group is not None:
            classes = torch.where(classes < 0, classes, classes + self.own.start)
            classes = best_over(self.group, cosines, classes, slice(offset, offset + len(embeddings)))
        return classes.squeeze(1) if topk is None else classes

    def _classes(self, labels: Tensor) -> Tensor | None:
        """The classes that take part in a step; None: all."""
        return self._sample(labels) if self.num_sampled is not None and self.training else None

    def _sample(self, labels: Tensor) -> Tensor:
        """Classes of this process for one step, all those of the batch among them."""
        number = self.own.stop - self.own.start
        sampled, ignored = self.num_sampled or 0, labels == self.ignore_index
        if is_accelerator(labels.device) and self.group is None and labels.numel():
            # How many are ignored nobody waits for: each stands for another one of the batch.
            other = labels.masked_fill(ignored, -1).amax().clamp(min=0)
            return sample_classes(labels.where(~ignored, other), number, sampled)
        labels = labels[~ignored]
        if self.group is None:
            return sample_classes(labels, number, sampled)
        labels = gather_rows(labels, self.group).rows - self.own.start
        labels = labels[(labels >= 0) & (labels < number)]
        return sample_classes(labels, number, -(-sampled * number // self.num_classes)) if number else labels

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.group is not None:
            destination[prefix + "weight"] = gather_rows(self.weight.detach(), self.group).rows

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        name = prefix + "weight"
        if self.group is not None and len(state_dict.get(name, ())) == self.num_classes * self.sub_centers:
            own = slice(self.own.start * self.sub_centers, self.own.stop * self.sub_centers)
            state_dict = {**state_dict, name: state_dict[name][own]}
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """The options, for `print`."""
        margin = type(self.margin).__name__ if isinstance(self.margin, nn.Module) else self.margin
        return (
            f"num_classes={self.num_classes}, embedding_size={self.embedding_size}, margin={margin}, "
            f"scale={shown(self.scale)}, sub_centers={self.sub_centers}, num_sampled={self.num_sampled}"
        )


class NormFaceLoss(CosineSoftmaxLoss):
    """Cosine softmax without a margin: cross-entropy of s cos θ over all classes.

    Args:
        num_classes: C.
        embedding_size: D.
        scale: s.
        options: sub_centers, num_sampled, exclude_above, class_weights, label_smoothing, ignore_index,
            reduction, chunk_size, group, impl, device, dtype: see `CosineSoftmaxLoss`.

    Attributes:
        weight: (C, D).

    Source: Wang et al., "NormFace", arXiv 1704.06369.

    Example:
        >>> import torch
        >>> loss = NormFaceLoss(num_classes=10, embedding_size=4)
        >>> loss(torch.randn(3, 4), torch.tensor([1, 2, 9])).shape
        torch.Size([])
    """

    def __init__(
        self, num_classes: int, embedding_size: int, *, scale: Number = 30.0, **options: Any
    ) -> None:
        super().__init__(num_classes, embedding_size, NoMargin(), scale, **options)


class CosFaceLoss(CosineSoftmaxLoss):
    """Cosine softmax whose target is s (cos θ − m); also called `AMSoftmaxLoss`.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: m, a cosine: a number, a tensor of one (which may learn), or a function of the step.
        scale: s.
        options: sub_centers, num_sampled, exclude_above, class_weights, label_smoothing, ignore_index,
            reduction, chunk_size, group, impl, device, dtype: see `CosineSoftmaxLoss`.

    Attributes:
        weight: (C, D).

    Source: Wang et al., "CosFace", arXiv 1801.09414, eq. 4; Wang et al., "Additive Margin Softmax", arXiv
        1801.05599.

    Example:
        >>> import torch
        >>> loss = CosFaceLoss(num_classes=10, embedding_size=4, margin=0.35, scale=30.0)
        >>> loss(torch.randn(3, 4), torch.tensor([1, 2, 9])).shape
        torch.Size([])
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        margin: Number = 0.35,
        scale: Number = 30.0,
        **options: Any,
    ) -> None:
        super().__init__(
            num_classes, embedding_size, margin_of_numbers(AdditiveCosine, margin), scale, **options
        )


AMSoftmaxLoss = CosFaceLoss


class ArcFaceLoss(CosineSoftmaxLoss):
    """Cosine softmax whose target is s cos(θ + m); beyond θ = π − m see `cosnorm.functional.AdditiveAngle`.

    Args:
        num_classes: C.
        embedding_size: D.
        margin: m in radians: a number, a tensor of one (which may learn), or a function of the step.
        scale: s.
        options: sub_centers, num_sampled, exclude_above, class_weights, label_smoothing, ignore_index,
            reduction, chunk_size, group, impl, device, dtype: see `CosineSoftmaxLoss`.

    Attributes:
        weight: (C, D).

    Source: Deng et al., "ArcFace", arXiv 1801.07698, eq. 3.

    Example:
        >>> import torch
        >>> loss = ArcFaceLoss(num_classes=10, embedding_size=4, margin=0.5, scale=64.0)
        >>> loss(torch.randn(3, 4), torch.tensor([1, 2, 9])).shape
        torch.Size([])
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        margin: Number = 0.5,
        scale: Number = 64.0,
        **options: Any,
    ) -> None:
        super().__init__(
            num_classes, embedding_size, margin_of_numbers(AdditiveAngle, margin), scale, **options
        )
