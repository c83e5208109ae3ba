"""Mean-only batch normalization: subtract the mean of the mini-batch, divide by nothing."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cosnorm.functional.checks import check_dtype, check_flag, check_tensors, is_number, is_whole
from cosnorm.norms import accumulation_dtype


class _MeanOnlyBatchNorm(_BatchNorm):
    """What the three layers share. Torch's base class, so that `update_bn` and others know what it is.

    There is no `eps`: what makes other batch norms of batch norms (`SyncBatchNorm`) fails on that.
    """

    _ranks: tuple[int, ...]
    _shapes: str

    running_mean: Tensor | None
    num_batches_tracked: Tensor | None
    bias: nn.Parameter | None  # type: ignore[assignment]

    def __init__(
        self,
        num_features: int,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)
        name = type(self).__name__
        if not is_whole(num_features) or num_features < 1:
            raise ValueError(f"{name}: num_features must be a positive int, got {num_features!r}")
        if momentum is not None and not is_number(momentum):
            raise TypeError(f"{name}: momentum must be None or a number in [0, 1], got {momentum!r}")
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"{name}: momentum must be None or lie in [0, 1], got {momentum!r}")
        check_flag(name, "affine", affine)
        check_flag(name, "track_running_stats", track_running_stats)
        check_dtype(name, dtype)
        self.num_features = num_features
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.register_parameter(
            "bias", nn.Parameter(torch.zeros(num_features, **options)) if affine else None
        )
        mean = torch.zeros(num_features, **options) if track_running_stats else None
        self.register_buffer("running_mean", mean)
        self.register_buffer("running_var", None)
        self.register_parameter("weight", None)
        count = torch.tensor(0, dtype=torch.long, device=device) if track_running_stats else None
        self.register_buffer("num_batches_tracked", count)

    def reset_running_stats(self) -> None:
        """Forget the running mean."""
        for tensor in (self.running_mean, self.num_batches_tracked):
            if tensor is not None:
                tensor.zero_()

    def reset_parameters(self) -> None:
        """Set the bias and the running mean to 0."""
        self.reset_running_stats()
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """The input less its mean for each feature, plus the bias."""
        self._check(input)
        from_batch = self.training or self.running_mean is None
        mean = self._batch_mean(input) if from_batch else self.running_mean
        assert mean is not None
        shift = mean if self.bias is None else mean - self.bias
        shape = (1, self.num_features, *[1] * (input.ndim - 2))
        # A mean that is rounded to a half type would leave its error in every value.
        dtype = accumulation_dtype(input.dtype)
        return (input.to(dtype) - shift.to(dtype).view(shape)).to(input.dtype)

    def _check(self, input: Tensor) -> None:  # noqa: A002
        name = type(self).__name__
        check_tensors(name, input=input)
        if input.ndim not in self._ranks or input.shape[1] != self.num_features:
            raise ValueError(
                f"{name}: expected {self._shapes} with C = {self.num_features}, got {tuple(input.shape)}"
            )
        own = self.bias if self.bias is not None else self.running_mean
        if own is not None and own.device != input.device:
            raise ValueError(
                f"{name}: the input is on {input.device}, the layer on {own.device}; move one of them"
            )

    def _batch_mean(self, input: Tensor) -> Tensor:  # noqa: A002
        dimensions = (0, *range(2, input.ndim))
        count = input.numel() // self.num_features
        if count == 0:  # an empty batch says nothing of the mean
            return input.new_zeros(self.num_features)
        if count == 1 and self.training:
            raise ValueError(
                f"{type(self).__name__}: expected more than one value for each feature when training, got "
                f"{tuple(input.shape)}, which less its own mean is 0; use a larger batch or eval()"
            )
        # A sum in float64 neither overflows nor loses digits for the narrower types.
        mean = input.mean(dimensions, dtype=torch.float64)
        if self.training and self.running_mean is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked += 1
                tracked = self.num_batches_tracked.double()
                weight = 1 / tracked if self.momentum is None else self.momentum
                self.running_mean.copy_(self.running_mean.double().lerp(mean.detach(), weight))
        return mean

    def extra_repr(self) -> str:
        """The options."""
        return (
            f"{self.num_features}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class MeanOnlyBatchNorm1d(_MeanOnlyBatchNorm):
    """Subtracts the mean of the mini-batch for each feature, and adds a learned bias.

    y = x − mean(x) + b, the mean over all dimensions but the second. Nothing is divided. In evaluation the
    running mean takes the batch's place: ``running = (1 − momentum)·running + momentum·mean``.

    Args:
        num_features: C, the size of the second dimension.
        momentum: weight of a new mean in the running one; None: the plain average of all batches.
        affine: learn the bias b (begins at 0).
        track_running_stats: keep a running mean; without it evaluation, too, uses the batch's mean.
        device: of the bias and the running mean.
        dtype: of the bias and the running mean.

    Shape: (N, C) or (N, C, L), unchanged. An empty batch passes and leaves the running mean alone.

    Raises:
        TypeError: an input that is no floating-point tensor.
        ValueError: an input of another shape or device; a single value for each feature in training.

    Source: Salimans & Kingma, "Weight Normalization", NeurIPS 2016, section 3; Luo et al., arXiv 1702.05870.

    Example:
        >>> import torch
        >>> layer = MeanOnlyBatchNorm1d(3)
        >>> x = torch.randn(8, 3) + 5
        >>> bool(layer(x).mean().abs() < 1e-5)
        True
    """

    _ranks = (2, 3)
    _shapes = "(N, C) or (N, C, L)"


class MeanOnlyBatchNorm2d(_MeanOnlyBatchNorm):
    """`MeanOnlyBatchNorm1d` for inputs of shape (N, C, H, W); everything else is said there.

    Example:
        >>> import torch
        >>> x = torch.randn(8, 3, 5, 5) + 5
        >>> bool(MeanOnlyBatchNorm2d(3)(x).mean().abs() < 1e-5)
        True
    """

    _ranks = (4,)
    _shapes = "(N, C, H, W)"


class MeanOnlyBatchNorm3d(_MeanOnlyBatchNorm):
    """`MeanOnlyBatchNorm1d` for inputs of shape (N, C, D, H, W); everything else is said there.

    Example:
        >>> import torch
        >>> x = torch.randn(8, 3, 2, 5, 5) + 5
        >>> bool(MeanOnlyBatchNorm3d(3)(x).mean().abs() < 1e-5)
        True
    """

    _ranks = (5,)
    _shapes = "(N, C, D, H, W)"
