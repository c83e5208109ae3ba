"""Cosine normalization of a linear map: cos(x, w) for every row of the weight."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cosnorm.functional.checks import check_options, check_precision, check_tensors
from cosnorm.functional.overrides import overridable
from cosnorm.operators.fp8 import cosine_fp8
from cosnorm.operators.rows import cosine_matrix
from cosnorm.operators.sparse import cosine_sparse


@overridable
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
        impl: "c" (compiled passes, on a CPU), "triton" (kernels, for float32 and the half types on a GPU),
            "torch" (its operators, anywhere), or "auto", which takes the first of these that there is for the
            tensors: kernels on NVIDIA's GPUs from compute capability 8.0 on, where triton is installed, else
            torch's operators. A named one computes or raises.
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
        RuntimeError: a named `impl` that cannot run here; the message says why.

    Source: Luo et al., "Cosine Normalization", arXiv 1702.05870, eqs. 4, 8-12 and 17.

    Example:
        >>> import torch
        >>> x = torch.tensor([[3.0, 4.0], [3e-30, 4e-30], [0.0, 0.0]])
        >>> cosine_linear(x, torch.tensor([[1.0, 0.0], [0.0, 7e30]]))
        tensor([[0.6000, 0.8000],
                [0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    where = "cosine_linear"
    augment = check_options(where, centered, augment, impl)
    if precision is not None:
        check_precision(where, precision)
    if isinstance(x, Tensor) and x.layout == torch.sparse_csr:
        if precision is not None:
            raise ValueError(f"{where}: a sparse x has no precision but its own, got precision={precision!r}")
        return _sparse(where, x, weight, centered, augment, impl)
    check_tensors(where, x=x, weight=weight)
    if weight.ndim != 2:
        raise ValueError(
            f"{where}: weight must have shape (out_features, in_features), got {tuple(weight.shape)}"
        )
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"{where}: the last dimension of x must be in_features = {weight.shape[1]}, got x of shape "
            f"{tuple(x.shape)}; transpose x, or take in_features = {x.shape[-1] if x.ndim else 1}"
        )
    rows = x if x.ndim == 2 else x.flatten(0, -2) if x.ndim > 2 else x.unsqueeze(0)
    if x.shape[-1] == 0:
        # Empty vectors are zero vectors; one zero component makes them ordinary ones.
        rows, weight = F.pad(rows, (0, 1)), F.pad(weight, (0, 1))
    output: Tensor
    if precision is None:
        output = cosine_matrix(rows, weight, centered, augment, impl, False)[0]
    else:
        output = cosine_fp8(rows, weight, centered, augment, impl, False)
    return output if x.ndim == 2 else output.reshape(*x.shape[:-1], weight.shape[0])


def _sparse(where: str, x: Tensor, weight: Tensor, centered: bool, augment: float, impl: str) -> Tensor:
    """`cosine_linear` of a CSR matrix."""
    check_tensors(where, x=x.values(), weight=weight)
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
    if weight.shape[1] == 0:  # empty vectors are zero vectors
        weight = F.pad(weight, (0, 1))
    parts = x.crow_indices(), x.col_indices(), x.values()
    output: Tensor = cosine_sparse(weight, *parts, centered, augment, impl, False)[0]
    return output
