"""Cosine normalization of convolutions: cos(x, w) for every receptive field and every filter."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from cosnorm.functional.checks import check_numbers, check_options, check_tensors, is_whole
from cosnorm.functional.overrides import overridable
from cosnorm.operators.fields import cosine_fields

Size = int | Sequence[int]


@overridable
def cosine_conv1d(
    x: Tensor,
    weight: Tensor,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    centered: bool = False,
    augment: float = 0.0,
    impl: str = "auto",
) -> Tensor:
    """`cosine_conv2d` in one dimension: (N, C, L), (O, C/groups, K) → (N, O, L').

    Formula, options, behaviour at zero, errors and source are those of `cosine_conv2d`.

    Example:
        >>> import torch
        >>> cosine_conv1d(torch.tensor([[[3.0, 4.0, 0.0]]]), torch.tensor([[[1e20, 0.0]]]))
        tensor([[[0.6000, 1.0000]]])
    """
    options = stride, padding, dilation, groups, centered, augment, impl
    return _cosine_conv("cosine_conv1d", 1, x, weight, *options)


@overridable
def cosine_conv2d(
    x: Tensor,
    weight: Tensor,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    centered: bool = False,
    augment: float = 0.0,
    impl: str = "auto",
) -> Tensor:
    r"""Cosine similarity of each receptive field with each filter.

    .. math:: y_{o,p} = \frac{w_o \cdot x_p + a^2}{\sqrt{|w_o|^2 + a^2}\,\sqrt{|x_p|^2 + a^2}}

    where x_p is the receptive field at position p, all channels of its group, and a = `augment`. The norms of
    the fields are a box filter of one map, Σ_c x²: nothing is unfolded.

    With `centered` each filter loses its mean and each receptive field its own (Pearson correlation). Zero
    padding counts as zeros: at the border the mean is that of the values and the padded zeros together, over
    the whole field, for each group apart.

    Args:
        x: input, (N, C, H, W) or (C, H, W); float16, bfloat16, float32 or float64.
        weight: filters, (O, C/groups, K_H, K_W), of the dtype and on the device of x.
        stride: as in `torch.nn.functional.conv2d`.
        padding: a number, one for each dimension, "same" or "valid".
        dilation: as in `torch.nn.functional.conv2d`.
        groups: as in `torch.nn.functional.conv2d`.
        centered: subtract the means first.
        augment: the constant component that the paper appends to each field and each filter, after
            centering (the paper uses 1e-4). At 0 the result is exact at every scale.
        impl: "c" (compiled passes, for float32 of one or two dimensions on a CPU), "triton" (kernels, for
            float32 and half types on a GPU), "torch" (its operators alone), or "auto", which takes the first
            of these that there is for the tensors, as `cosine_linear` does. A named one computes or raises.

    Returns:
        (N, O, H', W'), the shape of torch's convolution. Under autocast its dtype is that of torch's, too.

    A zero field or filter (centered: one with max|x − μ| ≤ 4·eps·|μ|) has similarity 0 with everything and
    receives gradient 0 through it. NaN or inf makes the outputs of the fields that hold it NaN, and no other.
    On a CPU, and by the kernels, float32 and half fields are exact each for itself; float64 fields, and those
    of torch's operators on an accelerator, are exact beside the largest value of their sample. The gradient
    is the closed form of eqs. 9-12; second and forward derivatives are right, too.

    Raises:
        TypeError: not tensors, not floating point, or of two dtypes; options of a wrong type.
        ValueError: shapes or options that do not fit, two devices, a negative `augment`.
        RuntimeError: an `impl` that cannot run here; the message says why.

    Source: Luo et al., "Cosine Normalization", arXiv 1702.05870, eqs. 4, 8-12 and 17.

    Example:
        >>> import torch
        >>> image = torch.eye(3).reshape(1, 1, 3, 3)
        >>> cosine_conv2d(image, torch.ones(1, 1, 2, 2))
        tensor([[[[0.7071, 0.5000],
                  [0.5000, 0.7071]]]])
    """
    options = stride, padding, dilation, groups, centered, augment, impl
    return _cosine_conv("cosine_conv2d", 2, x, weight, *options)


@overridable
def cosine_conv3d(
    x: Tensor,
    weight: Tensor,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    *,
    centered: bool = False,
    augment: float = 0.0,
    impl: str = "auto",
) -> Tensor:
    """`cosine_conv2d` in three dimensions: (N, C, D, H, W), (O, C/groups, *K) → (N, O, D', H', W').

    Formula, options, behaviour at zero, errors and source are those of `cosine_conv2d`.

    Example:
        >>> import torch
        >>> cosine_conv3d(torch.ones(1, 1, 2, 2, 2), torch.ones(1, 1, 2, 2, 2)).squeeze()
        tensor(1.0000)
    """
    options = stride, padding, dilation, groups, centered, augment, impl
    return _cosine_conv("cosine_conv3d", 3, x, weight, *options)


def _same_padding(
    x: Tensor, kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[Tensor, tuple[int, ...]]:
    """The padding that keeps the size; where it is odd, the extra zeros go to the end, as torch puts them."""
    total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if any(amount % 2 for amount in total):
        x = F.pad(x, [side for amount in reversed(total) for side in (0, amount % 2)])
    return x, tuple(amount // 2 for amount in total)


def _cosine_conv(
    where: str,
    rank: int,
    x: Tensor,
    weight: Tensor,
    stride: Size,
    padding: Size | str,
    dilation: Size,
    groups: int,
    centered: bool,
    augment: float,
    impl: str,
) -> Tensor:
    augment = check_options(where, centered, augment, impl)
    check_tensors(where, x=x, weight=weight)
    if x.ndim not in (rank + 1, rank + 2):
        raise ValueError(
            f"{where}: x must have shape (N, C, …) or (C, …) with {rank} spatial dimensions, "
            f"got {tuple(x.shape)}"
        )
    if weight.ndim != rank + 2 or min(weight.shape) < 1:
        raise ValueError(
            f"{where}: weight must have shape (out_channels, in_channels/groups, …) with {rank} spatial "
            f"dimensions, none of them 0, got {tuple(weight.shape)}"
        )
    if min(x.shape[-rank:]) < 1:
        raise ValueError(
            f"{where}: x must have at least one position in each spatial dimension, got {tuple(x.shape)}; "
            "only the batch may be empty"
        )
    if not is_whole(groups) or groups < 1 or weight.shape[0] % groups:
        raise ValueError(
            f"{where}: groups must be a positive int that divides out_channels = {weight.shape[0]}, "
            f"got {groups!r}"
        )
    channels = weight.shape[1] * groups
    if x.shape[-rank - 1] != channels:
        raise ValueError(
            f"{where}: a weight of shape {tuple(weight.shape)} with groups={groups} needs {channels} input "
            f"channels, got {x.shape[-rank - 1]} in x of shape {tuple(x.shape)}"
        )
    kernel = tuple(weight.shape[2:])
    strides = check_numbers(where, "stride", stride, rank, 1)
    dilations = check_numbers(where, "dilation", dilation, rank, 1)
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f'{where}: padding must be numbers, "same" or "valid", got {padding!r}')
        if padding == "same" and max(strides) > 1:
            raise ValueError(
                f'{where}: padding="same" needs stride 1, got stride={stride!r}; give numbers instead'
            )
        x, paddings = _same_padding(x, kernel, dilations) if padding == "same" else (x, (0,) * rank)
    else:
        paddings = check_numbers(where, "padding", padding, rank, 0)
    for size, k, p, d in zip(x.shape[-rank:], kernel, paddings, dilations, strict=True):
        if size + 2 * p < d * (k - 1) + 1:
            raise ValueError(
                f"{where}: a kernel of {kernel} with dilation {dilations} does not fit into x of shape "
                f"{tuple(x.shape)} with padding {paddings}; pad more or take a smaller kernel"
            )
    batched = x if x.ndim == rank + 2 else x.unsqueeze(0)
    places = strides, paddings, dilations, int(groups)
    output: Tensor = cosine_fields(batched, weight, *places, centered, augment, impl, False)[0]
    return output if x.ndim == rank + 2 else output.squeeze(0)
