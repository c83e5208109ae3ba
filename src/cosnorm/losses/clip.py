"""CLIP's loss: two kinds of embeddings look for each other."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from cosnorm.distributed import Group
from cosnorm.functional.arrays import takes_arrays
from cosnorm.functional.checks import Reduction, check_pair
from cosnorm.functional.contrastive import contrastive_cross_entropy
from cosnorm.functional.overrides import overridable
from cosnorm.learned import number, reshape_loaded
from cosnorm.losses.grouped import Grouped, fixed_options
from cosnorm.losses.temperature import bounded


@overridable
@takes_arrays
def clip_loss(
    images: Tensor,
    texts: Tensor,
    positives: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.07,
    directions: str | Sequence[str] = ("query_to_key", "key_to_query"),
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    group: Group | None = None,
    impl: str = "auto",
    **options: Any,
) -> Tensor:
    """The mean of two cross-entropies: each image's text among all texts, each text's image among all images.

    Args:
        images: shape (N, D).
        texts: shape (M, D).
        positives: pairs (image, text), shape (P, 2), any number for an image and for a text: several captions
            of an image; or the text of each image, (N,); or a sparse CSR matrix (N, M) of weights. None: text
            i belongs to image i, or by `labels=` among the options.
        directions: of `contrastive_cross_entropy`, with images as queries and texts as keys; add
            "query_to_query" and "key_to_key" for negatives within each kind.
        temperature: τ > 0, a number or a tensor that learns.
        reduction: "mean", "sum", or "none": shape (N,).
        chunk_size: rows of a block; None: chosen by itself.
        group: processes over which the batch is spread, see `contrastive_cross_entropy`.
        impl: as in `contrastive_cross_entropy`.
        options: further ones of it, such as `positive_weights`, `labels`, `groups`, `guide` or `joint`.

    Returns:
        The loss; at zero, with NaN, and for errors as `contrastive_cross_entropy`.

    Source: Radford et al., "Learning Transferable Visual Models", arXiv 2103.00020, figure 3.

    Example:
        >>> import torch
        >>> clip_loss(torch.eye(3), torch.eye(3), temperature=1.0)
        tensor(0.5514)
        >>> captions = torch.eye(3).repeat_interleave(2, 0)  # two of each image
        >>> pairs = torch.tensor([[0, 0], [0, 1], [1, 2], [1, 3], [2, 4], [2, 5]])
        >>> clip_loss(torch.eye(3), captions, pairs, temperature=1.0)
        tensor(0.8980)
    """
    if positives is None and options.get("labels") is None:
        check_pair("clip_loss", images=images, texts=texts)
    return contrastive_cross_entropy(
        images,
        texts,
        positives,
        directions=directions,
        temperature=temperature,
        reduction=reduction,
        chunk_size=chunk_size,
        group=group,
        impl=impl,
        **options,
    )


class CLIPLoss(Grouped):
    """`clip_loss` with a learned scale 1/τ = exp(logit_scale), never above `max_scale`.

    Args:
        temperature: τ at the start.
        max_scale: the largest 1/τ; beyond it the scale is cut, but its gradient still flows, so that it can
            fall.
        learn_temperature: whether `logit_scale` is a parameter; else it is a buffer.
        reduction: "mean", "sum" or "none".
        chunk_size: rows of a block; None: chosen by itself.
        group: processes over which the batch is spread.
        impl: "auto", "torch" or "triton".
        options: further ones of every call that are no tensors, such as `directions` or `joint`.

    Attributes:
        logit_scale: log 1/τ, of shape (1,); those of OpenAI's and OpenCLIP's checkpoints, of shape (), load.

    Example:
        >>> import torch
        >>> CLIPLoss(temperature=1.0)(torch.eye(3), torch.eye(3)).item()
        0.551444...
    """

    logit_scale: Tensor

    def __init__(
        self,
        temperature: float = 0.07,
        *,
        max_scale: float = 100.0,
        learn_temperature: bool = True,
        reduction: Reduction = "mean",
        chunk_size: int | None = None,
        group: Group | None = None,
        impl: str = "auto",
        **options: Any,
    ) -> None:
        super().__init__()
        self.options = fixed_options(type(self).__name__, options)
        if not 0 < 1 / max_scale <= temperature:
            raise ValueError(
                f"CLIPLoss: temperature must be at least 1/max_scale = {1 / max_scale:g}, got {temperature}"
            )
        scale = number(-math.log(temperature))
        if learn_temperature:
            self.logit_scale = nn.Parameter(scale)
        else:
            self.register_buffer("logit_scale", scale)
        self.max_scale, self.reduction = max_scale, reduction
        self.chunk_size, self.group, self.impl = chunk_size, group, impl

    def forward(
        self, images: Tensor, texts: Tensor, positives: Tensor | None = None, **options: Any
    ) -> Tensor:
        """The loss of images and their texts; see `clip_loss`, also for further options."""
        return clip_loss(
            images,
            texts,
            positives,
            temperature=bounded(-self.logit_scale, -math.log(self.max_scale), math.inf).exp(),
            reduction=self.reduction,
            chunk_size=self.chunk_size,
            group=self.group_name,
            impl=self.impl,
            **self.options,
            **options,
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        reshape_loaded(state_dict, prefix + "logit_scale")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """The options, for `print`."""
        return f"max_scale={self.max_scale:g}, reduction={self.reduction!r}"
