"""Contract clause 10: what learns has its gradient; NumPy in one argument decides nothing for the others."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from cosnorm import losses
from cosnorm.functional import (
    class_sigmoid_loss,
    contrastive_cross_entropy,
    margin_cross_entropy,
    pairwise_sigmoid_loss,
    proxy_anchor_loss,
)

N, D, C = 6, 4, 3
LABELS = np.arange(N) % C
SIGNS = np.arange(N) % 2 * 2 - 1


def rows(number: int = N) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(number, D)).astype(np.float32)


# Each with all its arguments as arrays; those of floating point may learn.
CALLS: dict[str, tuple[Callable[..., Tensor], list[np.ndarray]]] = {
    "nt_xent": (losses.nt_xent_loss, [rows(), rows()]),
    "nt_xent queue": (lambda a, b, q: losses.nt_xent_loss(a, b, extra_keys=q), [rows(), rows(), rows(5)]),
    "info_nce": (losses.info_nce_loss, [rows(), rows()]),
    "info_nce negatives": (losses.info_nce_loss, [rows(), rows(), (np.arange(N)[:, None] + 1) % N]),
    "sup_con": (losses.sup_con_loss, [rows(), LABELS]),
    "clip": (losses.clip_loss, [rows(), rows()]),
    "contrastive": (lambda a, b, y: contrastive_cross_entropy(a, b, labels=(y, y)), [rows(), rows(), LABELS]),
    "contrastive mask": (
        lambda a, b, m: contrastive_cross_entropy(a, b, exclude=m),
        [rows(), rows(), np.eye(N, dtype=bool)[::-1].copy()],
    ),
    "sigmoid": (pairwise_sigmoid_loss, [rows(), rows()]),
    "margin": (margin_cross_entropy, [rows(), rows(C), LABELS]),
    "margin classes": (
        lambda x, w, y, c: margin_cross_entropy(x, w, y, classes=c),
        [rows(), rows(C + 2), LABELS, np.array([2, 0, 1])],
    ),
    "class sigmoid": (class_sigmoid_loss, [rows(), rows(C), LABELS]),
    "proxy anchor": (proxy_anchor_loss, [rows(), rows(C), LABELS]),
    "AdaFaceLoss": (losses.AdaFaceLoss(C, D).eval(), [rows(), LABELS]),
    "center": (losses.center_loss, [rows(), LABELS, rows(C)]),
    "island": (losses.island_loss, [rows(), LABELS, rows(C)]),
    "cosine_embedding": (losses.cosine_embedding_loss, [rows(), rows(), SIGNS]),
    "SupConLoss": (losses.SupConLoss(), [rows(), LABELS]),
    "SigLIPLoss": (losses.SigLIPLoss(), [rows(), rows()]),
    "ArcFaceLoss": (losses.ArcFaceLoss(C, D), [rows(), LABELS]),
}


@pytest.mark.parametrize("name", CALLS)
def test_each_argument_that_learns_beside_arrays(name: str):
    call, arguments = CALLS[name]
    expected = float(call(*map(torch.from_numpy, arguments)))
    for place, one in enumerate(arguments):
        if one.dtype != np.float32:
            continue
        leaf = torch.from_numpy(one).requires_grad_()
        loss = call(*(leaf if place == at else other for at, other in enumerate(arguments)))
        assert isinstance(loss, Tensor)
        assert float(loss) == pytest.approx(expected, rel=1e-6)
        (3 * loss + 1).backward()
        assert leaf.grad.any()


@pytest.mark.parametrize("name", CALLS)
def test_arrays_alone_give_numpy(name: str):
    call, arguments = CALLS[name]
    found = call(*arguments)
    learns = isinstance(call, torch.nn.Module) and any(True for _ in call.parameters())
    assert isinstance(found, Tensor if learns else np.float32)


def test_a_learned_temperature_beside_arrays():
    temperature = torch.tensor(0.5, requires_grad=True)
    losses.nt_xent_loss(rows(), rows(), temperature=temperature).backward()
    assert temperature.grad != 0


def test_a_learned_margin_gets_its_gradient():
    class Learned(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.margin = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

        def forward(self, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
            return cosine - self.margin, sine

    margin, x, weight = Learned(), torch.from_numpy(rows()), torch.from_numpy(rows(C))
    for reduction in ("mean", "none"):
        margin.zero_grad()
        loss = margin_cross_entropy(
            x, weight, torch.from_numpy(LABELS), margin=margin, scale=4.0, reduction=reduction
        )
        loss.sum().backward()
        steps = []
        for step in (-1e-3, 1e-3):
            moved = losses.CosFaceLoss(C, D, margin=0.3 + step, scale=4.0, reduction=reduction)
            moved.weight.data = weight
            steps.append(float(moved(x, torch.from_numpy(LABELS)).sum()))
        assert float(margin.margin.grad) == pytest.approx((steps[1] - steps[0]) / 2e-3, rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_sum_in_float32(dtype: torch.dtype):
    pair = torch.ones(150_000, 2, dtype=dtype)
    loss = losses.cosine_embedding_loss(pair, -pair, target=0.0)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(1.0, abs=1e-5)
    close = torch.tensor([[1.0, 0.0]], dtype=dtype), torch.tensor([[1.0, 0.03125]], dtype=dtype)
    exact = 1 - 1 / (1 + 0.03125**2) ** 0.5
    assert float(losses.cosine_embedding_loss(*close, torch.tensor([1]))) == pytest.approx(exact, rel=1e-3)
    centers, labels = torch.zeros(1, 2, dtype=dtype), torch.zeros(150_000, dtype=torch.long)
    assert float(losses.center_loss(pair, labels, centers)) == pytest.approx(1.0, abs=1e-5)
    assert losses.island_loss(pair, labels, centers).dtype == torch.float32


@pytest.mark.parametrize("dynamic", [False, True])
def test_drawn_negatives_compile_to_one_graph(dynamic: bool):
    torch._dynamo.reset()
    criterion = losses.InfoNCELoss(num_negatives=3)
    compiled = torch.compile(criterion, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    queries, keys = torch.eye(N, requires_grad=True), torch.eye(N)
    loss = compiled(queries, keys)
    loss.backward()
    assert float(loss) == pytest.approx(float(criterion(queries, keys)), abs=1e-6)
    assert queries.grad.isfinite().all()
