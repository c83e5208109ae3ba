"""CosineEmbeddingCriterion: a hinge on similarities."""

import torch
from torch import Tensor

from cosnorm.caffe2.arguments import Arguments
from cosnorm.caffe2.operators.common import shaped
from cosnorm.caffe2.registry import FLOAT, Kernel, gradient_of, operator

DTYPES = (FLOAT, (torch.int32,), FLOAT)


@operator(
    "CosineEmbeddingCriterion",
    inputs=2,
    dtypes=DTYPES,
    gradient=gradient_of("CosineEmbeddingCriterionGradient", "X0 X1 dY0", "dX0"),
    inferred=False,
)
def criterion(arguments: Arguments) -> Kernel:
    """1 − S where Y is 1, else max(0, S − margin); a NaN similarity of another pair gives 0."""
    margin = arguments.number("margin", 0.0)

    def kernel(similarity: Tensor, labels: Tensor) -> Tensor:
        same = _same(similarity, labels)
        beyond = similarity - margin
        # Ties count as beyond the margin, so that torch's gradient of this is the gradient operator's.
        hinge = torch.where(beyond >= 0, beyond, torch.zeros_like(beyond))
        return torch.where(same, 1 - similarity, hinge)

    return kernel


@operator("CosineEmbeddingCriterionGradient", inputs=3, dtypes=DTYPES, inferred=False)
def criterion_gradient(arguments: Arguments) -> Kernel:
    """The gradient times −1 where Y is 1, else times [S ≥ margin]; NaN times 0 is NaN."""
    margin = arguments.number("margin", 0.0)

    def kernel(similarity: Tensor, labels: Tensor, cotangent: Tensor) -> Tensor:
        same = _same(similarity, labels)
        cotangent = shaped(cotangent, similarity.shape, "CosineEmbeddingCriterionGradient")
        beyond = (similarity >= margin).to(cotangent.dtype)
        return cotangent * torch.where(same, -torch.ones_like(beyond), beyond)

    return kernel


def _same(similarity: Tensor, labels: Tensor) -> Tensor:
    if similarity.numel() != labels.numel():
        raise RuntimeError(
            "S.numel() == Y.numel(). The embedding and label should have the same size. Got "
            f"{tuple(similarity.shape)} and {tuple(labels.shape)}"
        )
    return (labels == 1).reshape(similarity.shape)
