"""Sparse rows in the place of images: scipy's CSR matrix behind what the tasks ask of a tensor."""

import warnings

import numpy as np
import scipy.sparse  # type: ignore[import-untyped, unused-ignore]
import torch
from torch import Tensor


class SparseRows:
    """Rows of a CSR matrix; indexing gives a batch as a `torch.sparse_csr` tensor.

    Args:
        matrix: (N, D), float32.
        device: where batches go.
    """

    def __init__(self, matrix: scipy.sparse.csr_matrix, device: torch.device | str = "cpu") -> None:
        self.matrix, self.device = matrix, torch.device(device)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        count, size = self.matrix.shape
        return int(count), int(size)

    def __len__(self) -> int:
        return self.shape[0]

    def flatten(self, start_dim: int = 0) -> "SparseRows":
        """Rows are flat already."""
        return self

    def to(self, device: torch.device | str) -> "SparseRows":
        """The same rows, batches of which go to another device."""
        return SparseRows(self.matrix, device)

    def __getitem__(self, rows: slice | Tensor) -> "SparseRows | Tensor":
        """A slice is rows again; indices are a batch."""
        if isinstance(rows, slice):
            return SparseRows(self.matrix[rows], self.device)
        part = self.matrix[rows.cpu().numpy()]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            batch = torch.sparse_csr_tensor(
                torch.from_numpy(part.indptr.astype(np.int64)),
                torch.from_numpy(part.indices.astype(np.int64)),
                torch.from_numpy(part.data),
                part.shape,
                check_invariants=False,
            )
        return batch.to(self.device)
