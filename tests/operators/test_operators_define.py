"""What an operator without a derivative says: its name, and what to do; never a silent zero."""

import pytest
import torch

from cosnorm.functional import contrastive_cross_entropy
from cosnorm.operators.indices import signs_of
from cosnorm.operators.sparse import sparse_product


def test_an_operator_without_a_gradient():
    labels = torch.tensor([1.0, -1.0])
    with pytest.raises(RuntimeError, match=r"signs_of has no gradient.*detach"):
        torch.func.jvp(lambda labels: signs_of(labels, "labels").float(), (labels,), (labels,))


@pytest.mark.parametrize("name", ["sparse_product", "pair_softmax"])
def test_a_gradient_that_is_not_differentiated_again(name: str):
    weight = torch.randn(4, 5, requires_grad=True)
    if name == "sparse_product":
        starts, columns = torch.tensor([0, 1, 2]), torch.tensor([0, 3])
        value = sparse_product(weight, starts, columns, torch.ones(2), "auto", False)
    else:
        value = contrastive_cross_entropy(weight, positives=torch.tensor([1, 0, 3, 2]))
    (gradient,) = torch.autograd.grad(value.square().sum(), weight, create_graph=True)
    with pytest.raises(
        RuntimeError, match=rf"{name}_backward.*cannot be differentiated again.*pairwise_cosine"
    ):
        torch.autograd.grad(gradient.sum(), weight)
