"""Plain and weight normalized linear layers that take sparse rows too: every method has the benefit."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosnorm.backends.torch.sparse import row_sums
from cosnorm.functional import cosine_linear
from cosnorm.operators.sparse import sparse_product


class SparseLinear(nn.Linear):
    """`torch.nn.Linear` for dense input and for a CSR matrix (N, in_features), which receives no gradient."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """(N, in_features) → (N, out_features)."""
        if input.layout != torch.sparse_csr:
            return super().forward(input)
        parts = input.crow_indices(), input.col_indices(), input.values()
        output: Tensor = sparse_product(self.weight, *parts, "auto", False)
        return output if self.bias is None else output + self.bias


class SparseWeightNorm(SparseLinear):
    """Weight normalization with g = 1, x·v/|v|, for the same inputs; v is the parameter `weight`.

    It is |x| times the cosine, whose gradient never makes v/|v|. It has no bias.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        if bias:
            raise ValueError("SparseWeightNorm has no bias; leave it out")
        super().__init__(in_features, out_features, bias=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """(N, in_features) → (N, out_features)."""
        if input.layout != torch.sparse_csr:
            return F.linear(input, F.normalize(self.weight, dim=1))
        norm = row_sums(input.crow_indices(), input.values().square()).sqrt()
        return cosine_linear(input, self.weight) * norm.unsqueeze(1)
