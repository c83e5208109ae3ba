"""Losses by the Triton kernels, in their interpreter, against torch's operators."""

from functools import partial

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from margin_laws import LAWS

from cosnorm.backends.triton import sigmoid
from cosnorm.functional import (
    AdditiveAngle,
    AdditiveCosine,
    contrastive_cross_entropy,
    margin_cross_entropy,
    pairwise_sigmoid_loss,
)
from cosnorm.losses import ArcFaceLoss, CLIPLoss, InfoNCELoss, NTXentLoss, SupConLoss

N, D = 21, 19
LABELS = torch.arange(N) % 6
CASES = {
    "queries and keys": {},
    "bidirectional": {"directions": ("query_to_key", "key_to_query")},
    "extra keys": {"extra_keys": torch.randn(9, D)},
    "a mask": {"exclude": torch.rand(N, N).lt(0.2)},
    "same labels stay out": {"labels": (LABELS, LABELS), "exclude_same_label": True},
    "same labels and a mask": {
        "labels": (LABELS, LABELS),
        "exclude_same_label": True,
        "exclude": torch.rand(N, N).lt(0.2),
    },
    "decoupled groups": {"groups": (LABELS, LABELS), "decoupled": True},
    "keys look, with groups": {
        "groups": (LABELS, LABELS),
        "directions": ("query_to_key", "key_to_query"),
    },
    "keys look, and a mask": {
        "exclude": torch.eye(N, dtype=torch.bool) | (torch.arange(N) == 2),
        "directions": ("query_to_key", "key_to_query"),
    },
    "joint": {"directions": ("query_to_key", "key_to_query"), "joint": True},
    "given": {"positives": (torch.arange(N) * 5 % N).masked_fill(torch.arange(N) == 7, -1)},
    "given and decoupled": {"positives": torch.arange(N) // 2, "decoupled": True},
    "given among groups": {"positives": torch.arange(N) // 2, "groups": (LABELS, LABELS)},
    "pairs": {"positives": torch.tensor([[0, 1], [0, 2], [3, 1], [N - 1, 0]])},
    "queries among their kind": {"directions": ("query_to_key", "query_to_query")},
    "positives by label": {"labels": (LABELS, LABELS)},
    "decoupled": {"decoupled": True},
    "decoupled by label": {"labels": (LABELS, LABELS), "decoupled": True},
    "each loss": {"reduction": "none"},
    "a small chunk": {"chunk_size": 8},
    "a cold temperature": {"temperature": 0.005},
}


def _both(call, *tensors, tolerance=2e-6):
    """The loss and its gradients, by kernels and by torch."""
    found = []
    for impl in ("triton", "torch"):
        leaves = [t.detach().clone().requires_grad_() for t in tensors]
        loss = call(*leaves, impl)
        gradients = torch.autograd.grad(
            (loss * torch.arange(1.0, 1 + loss.numel()).view_as(loss)).sum(), leaves
        )
        found.append((loss, *gradients))
    for own, other in zip(*found, strict=True):
        assert own.dtype == other.dtype
        torch.testing.assert_close(own, other, rtol=tolerance, atol=tolerance * other.abs().max().item())


@pytest.mark.parametrize("case", CASES)
def test_contrastive_cross_entropy(case: str):
    options = CASES[case]
    x, y = torch.randn(N, D), torch.randn(N, D)
    if case != "a cold temperature":
        x[3] = 0
        x[4] *= 1e-30
    _both(lambda x, y, impl: contrastive_cross_entropy(x, y, impl=impl, **options), x, y, tolerance=2e-5)


@pytest.mark.parametrize("decoupled", [False, True])
def test_a_set_with_itself(decoupled: bool):
    views = torch.randn(N, D), torch.randn(N, D)
    losses = {impl: NTXentLoss(decoupled=decoupled, impl=impl) for impl in ("triton", "torch")}
    _both(lambda x, y, impl: losses[impl](x, y), *views, tolerance=1e-5)


@pytest.mark.parametrize("chunk_size", [None, 8])
@pytest.mark.parametrize(
    "options",
    [
        {"positives": torch.arange(N).roll(5)},
        {"positives": torch.arange(N).roll(3), "decoupled": True},
        {"positives": torch.arange(N).roll(3), "groups": LABELS},
        {"labels": LABELS},
        {"labels": LABELS, "decoupled": True},
        {"labels": LABELS, "exclude": torch.rand(N, N).lt(0.2)},
        {"labels": LABELS, "extra_keys": torch.randn(9, D), "extra_labels": torch.arange(9) % 7},
        {"positives": torch.arange(N).roll(3), "extra_keys": torch.randn(9, D), "reduction": "none"},
    ],
    ids=lambda options: ", ".join(options),
)
def test_queries_among_themselves(options, chunk_size: int | None):
    x, temperature = torch.randn(N, D), torch.tensor(0.3)
    options = {**options, "chunk_size": chunk_size}
    _both(
        lambda x, t, impl: contrastive_cross_entropy(x, temperature=t, impl=impl, **options),
        x,
        temperature,
        tolerance=2e-5,
    )


def test_the_other_losses_and_a_learned_temperature():
    x, y = torch.randn(N, D), torch.randn(N, D)
    for make, call in (
        (CLIPLoss, lambda loss, x, y: loss(x, y)),
        (InfoNCELoss, lambda loss, x, y: loss(x, y)),
        (SupConLoss, lambda loss, x, y: loss(x + y, LABELS)),
    ):
        losses = {impl: make(learn_temperature=True, impl=impl) for impl in ("triton", "torch")}
        _both(lambda x, y, impl, losses=losses, call=call: call(losses[impl], x, y), x, y, tolerance=1e-5)
        into = [
            next(iter(torch.autograd.grad(call(losses[i], x, y), losses[i].parameters()))) for i in losses
        ]
        torch.testing.assert_close(*into, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types(dtype: torch.dtype):
    x, y = torch.randn(N, D).to(dtype), torch.randn(N, D).to(dtype)
    _both(lambda x, y, impl: contrastive_cross_entropy(x, y, impl=impl), x, y, tolerance=2e-2)


@pytest.mark.parametrize("margin", [None, AdditiveCosine(0.35), AdditiveAngle(0.5)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunk_size": 10},
        {"reduction": "none"},
        {"classes": torch.arange(0, 40, 3)},
        {"ignore_index": 3, "label_smoothing": 0.1, "class_weights": torch.arange(43.0), "chunk_size": 10},
    ],
)
def test_heads(margin, options):
    x, weight = torch.randn(N, D), torch.randn(43, D)
    labels = torch.arange(N) % 13 * 3
    weight[5], x[2] = 0, 0
    _both(
        lambda x, w, impl: margin_cross_entropy(
            x, w, labels, margin=margin, scale=20.0, impl=impl, **options
        ),
        x,
        weight,
        tolerance=1e-5,
    )


@pytest.mark.parametrize("name", [name for name, law in LAWS.items() if law.negatives is None])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_margins(name: str, reduction: str):
    x, weight, labels = 4 * torch.randn(N, D), torch.randn(43, D), torch.arange(N)
    options = {"margin": LAWS[name].make(), "scale": 8.0, "reduction": reduction}
    _both(
        lambda x, w, impl: margin_cross_entropy(x, w, labels, impl=impl, **options), x, weight, tolerance=1e-5
    )


@pytest.mark.parametrize(
    "options", [{"margin": LAWS["curricularface"].make()}, {"exclude_above": 0.1}, {"sub_centers": 2}]
)
def test_a_whole_program_by_kernels_leaves_to_torch_what_has_none(options, force):
    x, weight, labels = torch.randn(N, D), torch.randn(42, D), torch.arange(N)
    expected = margin_cross_entropy(x, weight, labels, **options)
    force("triton")
    torch.testing.assert_close(margin_cross_entropy(x, weight, labels, **options), expected)


def test_a_query_is_not_its_own_positive():
    with pytest.raises(ValueError, match="cannot be its own positive"):
        contrastive_cross_entropy(torch.randn(N, D), positives=torch.arange(N), impl="triton")


def test_a_key_that_leaves_many_queries_out_is_left_to_torch(force):
    x, y, positives = torch.randn(N, D), torch.randn(N, D), torch.arange(N) // 2
    options = {"positives": positives, "decoupled": True, "directions": ("query_to_key", "key_to_query")}
    expected = contrastive_cross_entropy(x, y, **options)
    with pytest.raises(RuntimeError, match="no kernel"):
        contrastive_cross_entropy(x, y, impl="triton", **options)
    force("triton")
    torch.testing.assert_close(contrastive_cross_entropy(x, y, **options), expected)


def test_a_head_in_half_precision():
    x, weight, labels = torch.randn(N, D).bfloat16(), torch.randn(43, D), torch.arange(N)
    _both(lambda x, w, impl: margin_cross_entropy(x, w, labels, impl=impl), x, weight, tolerance=3e-2)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_sigmoid_of_all_pairs(force, dtype: torch.dtype, reduction: str):
    x, y = torch.randn(N, D).to(dtype), torch.randn(N, D).to(dtype)
    numbers = torch.tensor(9.0), torch.tensor(-4.0)
    if dtype == torch.float32:
        x[3], x[4] = 0, x[4] * 1e-30

    def call(x, y, scale, bias, impl, chunk=None):
        force(impl)
        return pairwise_sigmoid_loss(x, y, scale=scale, bias=bias, reduction=reduction, chunk_size=chunk)

    for chunk in (None, 8):
        inputs = [x, y, *(one.to(dtype) for one in numbers)]
        _both(partial(call, chunk=chunk), *inputs, tolerance=1e-5 if dtype == torch.float32 else 3e-2)


def test_scale_and_bias_are_read_where_they_stand():
    x, y = (torch.nn.functional.normalize(torch.randn(N, D), dim=1) for _ in range(2))
    found = []
    for kind in (float, torch.tensor):
        into = {"into_x": torch.empty(N, D), "into_y": torch.empty(N, D)}
        weights = torch.linspace(0, 1, N)
        made = sigmoid.whole_losses(x, y, kind(9.0), kind(-4.0), weights=weights, tile=None, **into)
        found.append((*made, *into.values()))
    assert all(map(torch.equal, *found))
    alone, _ = sigmoid.whole_losses(x, y, 9.0, -4.0, weights=None, tile=None, into_x=None, into_y=None)
    assert alone.equal(found[0][0])


def test_what_has_no_kernel():
    x = torch.randn(4, 3)
    pairs = torch.tensor([[0, 1], [0, 2], [1, 0]])
    with pytest.raises(RuntimeError, match="no kernel for many positives of a decoupled query"):
        contrastive_cross_entropy(x, positives=pairs, decoupled=True, impl="triton")
    with pytest.raises(RuntimeError, match="no kernel for negatives"):
        InfoNCELoss(impl="triton")(x, x, torch.tensor([[1], [2], [3], [0]]))
    with pytest.raises(RuntimeError, match="float64"):
        NTXentLoss(impl="triton")(x.double(), x.double())
    with pytest.raises(RuntimeError, match="no kernel for sub-centers"):
        ArcFaceLoss(2, 3, sub_centers=2, impl="triton")(x, torch.tensor([0, 1, 0, 1]))
