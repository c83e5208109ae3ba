"""Cosine normalization of a linear map: cos(x, w) for every row of the weight."""

import torch
from torch import Tensor

from cosnorm.functional.autocast import autocast_tensors, without_autocast
from cosnorm.functional.checks import check_augment, check_flag, check_tensors
from cosnorm.functional.cosine_kernels import kernel_cosine
from cosnorm.functional.cosine_matrix import matrix_cosine
from cosnorm.functional.cosine_rows import cosine_rows
from cosnorm.functional.fp8 import fp8_cosine
from cosnorm.functional.implementation import check_impl, check_precision, choose
from cosnorm.functional.sparse_rows import sparse_cosine


def cosine_linear(
    x: Tensor,
    weight: Tensor,
    *,
    centered: bool = False,
    augment: float = 0.0,
    impl: str = "auto",
    precision: str | None = None,
) -> Tensor:
    r"""Cosine similarity of each input vector with each row of the weight.

    .. math:: y_j = \frac{w_j \cdot x + a^2}{\sqrt{|w_j|^2 + a^2}\,\sqrt{|x|^2 + a^2}}

    with a = `augment`. With `centered`, x and each row of the weight first lose their own means (Pearson
    correlation). The results lie in [-1, 1] and do not depend on the magnitude of x or of the weight.

    Args:
        x: input, shape (*, in_features); float16, bfloat16, float32 or float64. Or a sparse matrix
            (N, in_features) of layout torch.sparse_csr, which is never made dense and receives no gradient.
        weight: shape (out_features, in_features), of the dtype and on the device of x.
        centered: subtract the means first.
        augment: the constant component that the paper appends to x and to each row of the weight, after
            centering, so that no vector is zero (the paper uses 1e-4). At 0 the result is exact at every
            scale: no eps is added anywhere.
        impl: "torch" (its operators), "triton" (kernels, for float32 and the half types on a GPU), or "auto",
            which takes torch's. A named one computes or raises.
        precision: "fp8" rounds each row, divided by its largest element, to 8 bits (e4m3) before the product:
            for N(0, 1) rows of size D the error has a standard deviation of about 0.037/√D. GPUs from compute
            capability 8.9 on have units for it; elsewhere the same numbers are computed in float32. The
            gradient is that of the rows as they are. None: the dtype of x.

    Returns:
        Shape (*, out_features). Under autocast its dtype is that of `torch.nn.functional.linear`.

    A zero vector (centered: one with max|x − μ| ≤ 4·eps·|μ|) has similarity 0 with everything and receives
    gradient 0. NaN or inf in a row makes the outputs of that row NaN and touches no other row. The gradient
    is the closed form of eqs. 9-12; second derivatives are right, too; a gradient beyond the range of the
    dtype becomes its largest number (float16: inf).

    Raises:
        TypeError: not tensors, not floating point, or of two dtypes.
        ValueError: shapes that do not fit, two devices, a negative `augment`, or an unknown `impl`.
        RuntimeError: `impl="triton"` where the kernels cannot run; the message says why.

    Source: Luo et al., "Cosine Normalization", arXiv 1702.05870, eqs. 4, 8-12 and 17.

    Example:
        >>> import torch
        >>> x = torch.tensor([[3.0, 4.0], [3e-30, 4e-30], [0.0, 0.0]])
        >>> cosine_linear(x, torch.tensor([[1.0, 0.0], [0.0, 7e30]]))
        tensor([[0.6000, 0.8000],
                [0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    if precision is None and impl in ("auto", "torch"):
        found = matrix_cosine(x, weight, centered, augment)
        if found is not None:
            return found
    where = "cosine_linear"
    if isinstance(x, Tensor) and x.layout == torch.sparse_csr:
        if precision is not None:
            raise ValueError(f"{where}: a sparse x has no precision but its own, got precision={precision!r}")
        if impl == "triton":
            raise RuntimeError(f'{where}: impl="triton" has no kernel for a sparse x; use impl="torch"')
        check_impl(where, impl)
        return _sparse(where, x, weight, centered, augment)
    check_tensors(where, x=x)
    check_tensors(where, weight=weight)
    x, weight = autocast_tensors(x, weight)
    check_tensors(where, x=x, weight=weight)
    check_flag(where, "centered", centered)
    augment = check_augment(where, augment)
    if weight.ndim != 2:
        raise ValueError(
            f"{where}: weight must have shape (out_features, in_features), got {tuple(weight.shape)}"
        )
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"{where}: the last dimension of x must be in_features = {weight.shape[1]}, got x of shape "
            f"{tuple(x.shape)}; transpose x, or give a weight of shape (out_features, in_features)"
        )
    check_precision(where, precision)
    rows = x.flatten(0, -2) if x.ndim > 1 else x.unsqueeze(0)
    kernels = choose(where, impl, x)
    found = None
    if x.is_cpu and torch.is_autocast_enabled("cpu") and precision is None and not kernels:
        with without_autocast(x.device):  # it cast the rows already
            found = matrix_cosine(rows, weight, centered, augment)
    if found is not None:
        output = found
    elif precision == "fp8":
        output = fp8_cosine(rows, weight, centered=centered, augment=augment, kernels=kernels)
    elif kernels:
        output = kernel_cosine(rows, weight, centered=centered, augment=augment)
    else:
        output = cosine_rows(rows.unsqueeze(1), weight, centered=centered, augment=augment)
    return output.reshape(*x.shape[:-1], weight.shape[0])


def _sparse(where: str, x: Tensor, weight: Tensor, centered: bool, augment: float) -> Tensor:
    """`cosine_linear` of a CSR matrix."""
    check_tensors(where, weight=weight)
    check_tensors(where, x=x.values(), weight=weight)
    check_flag(where, "centered", centered)
    augment = check_augment(where, augment)
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"{where}: a sparse x must have shape (N, in_features) and weight (out_features, in_features), "
            f"got {tuple(x.shape)} and {tuple(weight.shape)}"
        )
    if x.requires_grad:
        raise ValueError(
            f"{where}: a sparse x receives no gradient, because the gradient would be dense; use x.detach(), "
            "or x.to_dense() where it must learn"
        )
    (like,) = autocast_tensors(weight)
    with without_autocast(x.device):
        return sparse_cosine(x, weight, centered=centered, augment=augment).to(like.dtype)
