"""SigLIP's loss: every pair for itself, with a learned scale and bias."""

import math
from typing import Any

from torch import Tensor, nn

from cosnorm.distributed import Group
from cosnorm.functional.checks import Reduction
from cosnorm.functional.sigmoid import pairwise_sigmoid_loss
from cosnorm.learned import number, reshape_loaded
from cosnorm.losses.grouped import Grouped, fixed_options
from cosnorm.losses.temperature import bounded


class SigLIPLoss(Grouped):
    """`cosnorm.functional.pairwise_sigmoid_loss` with a learned scale exp(logit_scale) and a learned bias.

    Args:
        temperature: 1/scale at the start.
        bias: at the start; as most pairs do not belong together it begins well below 0.
        max_scale: the largest scale; beyond it the scale is cut, but its gradient still flows.
        reduction: "mean" over the queries, "sum" or "none".
        chunk_size: rows of a block; None: chosen by itself.
        group: processes over which the batch is spread.
        options: further ones of every call that are no tensors, such as `directions`.

    Attributes:
        logit_scale: log of the scale, of shape (1,); one of shape () loads.
        logit_bias: of shape (1,), likewise.

    Source: Zhai et al., "Sigmoid Loss for Language Image Pre-Training", arXiv 2303.15343, section 3.2.

    Example:
        >>> import torch
        >>> round(SigLIPLoss()(torch.eye(2), torch.eye(2)).item(), 4)
        0.6932
    """

    def __init__(
        self,
        temperature: float = 0.1,
        bias: float = -10.0,
        *,
        max_scale: float = 1000.0,
        reduction: Reduction = "mean",
        chunk_size: int | None = None,
        group: Group | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.options = fixed_options(type(self).__name__, options)
        if not 0 < 1 / max_scale <= temperature:
            raise ValueError(
                f"SigLIPLoss: temperature must be at least 1/max_scale = {1 / max_scale:g}, got {temperature}"
            )
        self.logit_scale = nn.Parameter(number(-math.log(temperature)))
        self.logit_bias = nn.Parameter(number(bias))
        self.max_scale, self.reduction = max_scale, reduction
        self.chunk_size, self.group = chunk_size, group

    def forward(
        self, images: Tensor, texts: Tensor, positives: Tensor | None = None, **options: Any
    ) -> Tensor:
        """The loss of images (N, D) and texts (M, D); see `pairwise_sigmoid_loss` for the options."""
        return pairwise_sigmoid_loss(
            images,
            texts,
            positives,
            scale=bounded(self.logit_scale, -math.inf, math.log(self.max_scale)).exp(),
            bias=self.logit_bias,
            reduction=self.reduction,
            chunk_size=self.chunk_size,
            group=self.group_name,
            **self.options,
            **options,
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        reshape_loaded(state_dict, prefix + "logit_scale")
        reshape_loaded(state_dict, prefix + "logit_bias")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """The options, for `print`."""
        return f"max_scale={self.max_scale:g}, reduction={self.reduction!r}"
