"""A plain linear layer that takes sparse rows too, so that all methods have the same benefit of them."""

from typing import Any

import torch
from torch import Tensor, nn

from cosnorm.functional.sparse_rows import SparseUnits, add_adjoint_, sparse_product


class SparseLinear(nn.Linear):
    """`torch.nn.Linear` for dense input and for a CSR matrix (N, in_features), which receives no gradient."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """(N, in_features) → (N, out_features)."""
        if input.layout != torch.sparse_csr:
            return super().forward(input)
        output: Tensor = _Product.apply(
            input.crow_indices(), input.col_indices(), input.values(), self.weight
        )
        return output if self.bias is None else output + self.bias


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(starts: Tensor, columns: Tensor, values: Tensor, weight: Tensor) -> Tensor:
        return sparse_product(_rows(starts, columns, values), weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        starts, columns, values, weight = ctx.saved_tensors
        gradient = torch.zeros_like(weight)  # keeps the order in memory
        return None, None, None, add_adjoint_(gradient, cotangent, _rows(starts, columns, values))


def _rows(starts: Tensor, columns: Tensor, values: Tensor) -> SparseUnits:
    return SparseUnits(starts, columns, values, values.new_zeros(len(starts) - 1, 1))
