"""What a step costs on an accelerator, counted without one; and nothing in it waits for the device."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.launches import PAGE, ROOT, STEPS, Cost, WaitError, cost, counting, filled
from operations import OPERATIONS, Operation
from torch import Tensor, nn

from cosnorm import functional, losses
from cosnorm.functional.named_margins import MARGINS
from cosnorm.nn import CosineConv2d, CosineLinear, MaxNorm, MeanOnlyBatchNorm1d
from cosnorm.operators.pair_options import DIRECTIONS

FLOAT32, HALF = torch.float32, (torch.bfloat16, torch.float16)
# Launches and MB forward, and backward. What is missed, and by how much, is in the log: here is what it has.
BUDGETS = {
    "linear": (9, 40, 22, 110),
    "centered linear": (14, 60, 30, 140),
    "conv2d": (18, 60, 36, 140),
    "centered conv2d": (51, 115, 46, 210),  # 26 forward are missed
}
# Losses: launches, as multiples of those of the formula by hand.
LOSSES = [name for name in STEPS if name not in BUDGETS]


def of(name: str, dtype: torch.dtype = FLOAT32) -> Cost:
    return cost(STEPS[name].ours, STEPS[name].shapes, dtype)


@pytest.mark.parametrize("name", BUDGETS)
def test_layers_keep_to_their_budgets(name: str):
    found = of(name)
    for side, launches, megabytes in zip(found, BUDGETS[name][::2], BUDGETS[name][1::2], strict=True):
        assert len(side.names) <= launches, side.names
        assert side.bytes <= 1e6 * megabytes


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", BUDGETS)
def test_half_types_take_no_more_launches_and_move_less(name: str, dtype: torch.dtype):
    # float16 has not the range: its images, and what is left of centered rows, are float32 in between.
    wide = dtype == torch.float16 and name != "linear"
    for half, whole in zip(of(name, dtype), of(name), strict=True):
        assert len(half.names) <= len(whole.names)
        assert half.bytes <= (0.85 if wide else 0.62 if name == "centered conv2d" else 0.6) * whole.bytes


@pytest.mark.parametrize("name", LOSSES)
def test_losses_take_at_most_three_times_the_launches_of_the_formula(name: str):
    step = STEPS[name]
    ours, plain = (cost(call, step.shapes, FLOAT32) for call in (step.ours, step.plain))
    launches = [sum(len(side.names) for side in one) for one in (ours, plain)]
    assert launches[0] <= 3 * launches[1], launches


def test_the_table_is_what_is_counted_now():
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    assert "<!-- counted:launches -->" in text
    assert filled(text) == text, "run python -m benchmarks.launches --readme docs/speed.md"


# ---- nothing waits

N, D, C = 6, 5, 4
LABELS, SOME = torch.arange(N) % C, torch.tensor([0, 1, -100, 1, 0, 2])


def of_rows(number: int = N) -> Tensor:
    return torch.randn(number, D, requires_grad=True)


def learned(value: float) -> Tensor:
    return torch.full((1,), value, requires_grad=True)


def contrastive(*args: object, **options: object) -> Tensor:
    return functional.contrastive_cross_entropy(*args, **options)


def head(**options: object) -> Tensor:
    return functional.margin_cross_entropy(of_rows(), of_rows(C), options.pop("labels", LABELS), **options)


def projected() -> None:
    layer = nn.Linear(D, C)
    MaxNorm(layer, 0.1).project()


def sparse(**options: object) -> Tensor:
    return functional.cosine_linear(CSR, of_rows(C), **options)


CSR = torch.eye(N, D).to_sparse_csr()
PAIRS, INDEX = torch.tensor([[0, 1], [0, 2], [3, 1]]), torch.tensor([0, -1, 2, 3, 1, 0])
SIGNS, NORM = torch.tensor([1, -1] * 3), MeanOnlyBatchNorm1d(D)
CSR6 = torch.eye(N).to_sparse_csr()
SOME_WEIGHTS = torch.tensor([0.5, 1.0, 0.0])


def queued() -> Tensor:
    queue = losses.Queue(8, D, groups=True)
    queue.enqueue(of_rows().detach(), groups=LABELS)
    queue.enqueue(of_rows().detach(), groups=LABELS)
    return losses.info_nce_loss(of_rows(), of_rows(), groups=(LABELS, LABELS), **queue())


SCALE = torch.tensor(8.0)
SCHEDULED = functional.ScheduledMargin(functional.AdditiveAngle, lambda step: step / 1000)
CALLS: dict[str, Callable[[], object]] = {
    "nt-xent": lambda: losses.nt_xent_loss(of_rows(), of_rows()),
    "nt-xent decoupled, a queue": lambda: losses.nt_xent_loss(
        of_rows(), of_rows(), decoupled=True, extra_keys=of_rows(3)
    ),
    "nt-xent, sharp": lambda: losses.nt_xent_loss(of_rows(), of_rows(), temperature=0.01),
    "nt-xent, in tiles": lambda: losses.nt_xent_loss(of_rows(), of_rows(), chunk_size=2, decoupled=True),
    "nt-xent, learned": lambda: losses.NTXentLoss(learn_temperature=True)(of_rows(), of_rows()),
    "info-nce": lambda: losses.info_nce_loss(of_rows(), of_rows()),
    "info-nce, drawn": lambda: losses.InfoNCELoss(num_negatives=3)(of_rows(), of_rows()),
    "info-nce, given": lambda: losses.info_nce_loss(of_rows(), of_rows(), torch.randn(N, 2, D)),
    "sup-con": lambda: losses.sup_con_loss(of_rows(), LABELS),
    "sup-con decoupled": lambda: losses.sup_con_loss(of_rows(), LABELS, decoupled=True),
    "sup-con ignoring": lambda: losses.sup_con_loss(of_rows(), SOME, ignore_index=-100),
    "clip": lambda: losses.clip_loss(of_rows(), of_rows()),
    "clip, learned": lambda: losses.CLIPLoss()(of_rows(), of_rows()),
    "siglip": lambda: losses.SigLIPLoss()(of_rows(), of_rows()),
    "sigmoid": lambda: functional.pairwise_sigmoid_loss(of_rows(), of_rows(), reduction="none"),
    "contrastive, none": lambda: contrastive(
        of_rows(), of_rows(), reduction="none", temperature=learned(0.1)
    ),
    "contrastive, an index": lambda: contrastive(of_rows(), of_rows(), INDEX),
    "contrastive, pairs": lambda: contrastive(of_rows(), of_rows(), PAIRS, decoupled=True),
    "contrastive, pairs in tiles": lambda: contrastive(
        of_rows(), of_rows(), PAIRS, decoupled=True, chunk_size=2
    ),
    "contrastive, a mask": lambda: contrastive(of_rows(), of_rows(), exclude=torch.eye(N).bool().roll(1, 0)),
    "contrastive, other labels": lambda: contrastive(
        of_rows(),
        of_rows(),
        labels=(LABELS, LABELS),
        exclude_same_label=True,
        directions=("query_to_key", "key_to_query"),
    ),
    "law, bounds and groups": lambda: contrastive(
        of_rows(),
        of_rows(),
        PAIRS,
        positive_weights=SOME_WEIGHTS,
        directions=DIRECTIONS,
        groups=(LABELS, LABELS),
        false_negative_margin=0.1,
        hard_negatives=torch.randn(N, 2, D),
    ),
    "law, a guide": lambda: contrastive(
        of_rows(), labels=LABELS, guide=torch.randn(N, 3), false_negative_threshold=0.5, hardness=2.0
    ),
    "law, joint": lambda: contrastive(
        of_rows(), of_rows(), INDEX, directions=DIRECTIONS, joint=True, false_negative_margin=0.1
    ),
    "law, views": lambda: losses.nt_xent_loss(
        of_rows(), of_rows(), guide=torch.randn(2, N, 3).unbind(), chunk_size=2
    ),
    "law, a matrix": lambda: losses.clip_loss(of_rows(), of_rows(), CSR6),
    "law, sigmoid": lambda: functional.pairwise_sigmoid_loss(
        of_rows(), of_rows(), PAIRS, positive_weights=SOME_WEIGHTS, groups=(LABELS, LABELS)
    ),
    "law, sigmoid of labels": lambda: functional.pairwise_sigmoid_loss(
        of_rows(),
        of_rows(),
        labels=(LABELS, LABELS),
        false_negative_margin=0.1,
        extra_keys=of_rows(2),
        extra_labels=LABELS[:2],
    ),
    "queue": lambda: queued(),
    "embedding": lambda: losses.cosine_embedding_loss(of_rows(), of_rows(), SIGNS),
    "center": lambda: losses.center_loss(of_rows(), SOME, of_rows(C)),
    "island": lambda: losses.island_loss(of_rows(), LABELS, of_rows(C)),
    "cosine distance": lambda: losses.CosineDistanceLoss(C, D)(of_rows(), LABELS),
    "head in blocks": lambda: head(chunk_size=2),
    "head, none": lambda: head(chunk_size=2, reduction="none"),
    "head, sharp": lambda: head(scale=100.0),
    "head, sub-centers": lambda: functional.margin_cross_entropy(
        of_rows(), of_rows(2 * C), LABELS, sub_centers=2
    ),
    "head, sampled": lambda: head(classes=torch.arange(C), chunk_size=2),
    "head, counted": lambda: head(labels=SOME, label_smoothing=0.1, class_weights=torch.rand(C)),
    "class sigmoid": lambda: functional.class_sigmoid_loss(of_rows(), of_rows(C), SOME, chunk_size=2),
    "class sigmoid, none": lambda: losses.SphereFace2Loss(C, D, sub_centers=2, reduction="none")(
        of_rows(), LABELS
    ),
    "anchors": lambda: functional.proxy_anchor_loss(of_rows(), of_rows(C), SOME, chunk_size=2),
    "head, filtered": lambda: head(exclude_above=0.2, chunk_size=2),
    "head, a tensor for the scale": lambda: head(scale=SCALE, margin=SCHEDULED),
    "head, half": lambda: losses.AdaFaceLoss(C, D)(
        torch.randn(N, D, dtype=torch.bfloat16, requires_grad=True), SOME
    ),
    "head that samples": lambda: losses.CosFaceLoss(20, D, num_sampled=8)(of_rows(), SOME),
    "head's logits": lambda: losses.ArcFaceLoss(C, D).logits(
        of_rows(),
    ),
    "head's classes": lambda: losses.ArcFaceLoss(C, D).predict(of_rows(), topk=2),
    "sample_classes": lambda: functional.sample_classes(LABELS, 20, 8),
    "sample_negatives": lambda: losses.sample_negatives(N, 2, LABELS),
    "topk": lambda: functional.cosine_topk(of_rows(), of_rows(9), 3).values,
    "topk of itself": lambda: functional.cosine_topk(of_rows(), k=3, labels=LABELS, chunk_size=2).values,
    "topk, an index out": lambda: functional.cosine_topk(of_rows(), of_rows(), 3, exclude=INDEX).values,
    "topk, pairs out": lambda: functional.cosine_topk(of_rows(), of_rows(), 3, exclude=PAIRS).values,
    "topk, a mask, a bound": lambda: (
        functional.cosine_topk(of_rows(), of_rows(), 3, exclude=torch.eye(N).bool(), below=0.7).values
    ),
    "fp8": lambda: functional.cosine_linear(of_rows(), of_rows(C), precision="fp8"),
    "folded": lambda: CosineLinear(D, C, centered=True).fold()(of_rows()),
    "folded conv": lambda: CosineConv2d(2, 3, 3, centered=True).fold()(
        torch.randn(2, 2, 5, 5, requires_grad=True)
    ),
    "conv, appended": lambda: CosineConv2d(2, 3, 3, centered=True, augment=0.1)(torch.randn(2, 2, 5, 5)),
    "batch norm": lambda: NORM(of_rows()),
    "max norm": projected,
    "sparse": sparse,
    "sparse, centered": lambda: sparse(centered=True, augment=0.1),
}
for law, each in MARGINS.items():
    CALLS[f"head {law}"] = lambda make=each: head(margin=make())
    CALLS[f"head {law} none"] = lambda make=each: head(margin=make(), labels=SOME, reduction="none")
for one in OPERATIONS:
    for kind in (torch.float32, torch.float64, torch.bfloat16):
        CALLS[f"{one.name} {kind}"] = lambda one=one, kind=kind: one.call(*learning(one, kind))


def learning(operation: Operation, dtype: torch.dtype) -> list[Tensor]:
    return [tensor.requires_grad_() for tensor in operation.inputs(dtype=dtype)]


@pytest.mark.usefixtures("accelerated")
@pytest.mark.parametrize("name", CALLS)
def test_nothing_waits_for_the_device(name: str):
    with counting() as counted:
        output = CALLS[name]()
        if isinstance(output, Tensor) and output.requires_grad:
            output.backward(torch.ones_like(output))
    assert counted.names


def test_every_loss_is_among_them():
    """By the names that are called, in what this file says."""
    text = Path(__file__).read_text(encoding="utf-8")
    # Of other options than those here.
    heads = {"AMSoftmaxLoss", "NormFaceLoss", "CombinedMarginLoss", "CurricularFaceLoss", "ElasticFaceLoss"}
    heads |= {"MagFaceLoss", "SphereFaceLoss", "ProxyAnchorLoss", "ProxyNCALoss"}
    modules = {"CenterLoss", "CosineEmbeddingLoss", "IslandLoss", "SupConLoss"}  # of functions that are here
    margins = {make.__name__ for make in MARGINS.values()}
    for module in (functional, losses):
        assert {name for name in module.__all__ if f"{name}(" not in text} - heads - modules - margins <= {
            "BatchMargin",
            "Changed",
            "Schedule",
            "Targets",
            "TopK",
            "mine_hard_negatives",  # a search, and no step
            "cosine_conv1d",
            "cosine_conv2d",
            "cosine_conv3d",
            "cosine_similarity",
            "pairwise_cosine",
        }


WAITING: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "truth": lambda x: bool(x.any()),
    "list": lambda x: x.tolist(),
    "array": np.asarray,
    "mask": lambda x: x[x > 0],
    "put": lambda x: x.clone().index_put_((x > 0,), torch.zeros(())),
    "nonzero": lambda x: x.nonzero(),
    "unique": lambda x: x.unique(),
    "bincount": lambda x: x.long().abs().bincount(minlength=9),
    "repeat": lambda x: x.repeat_interleave(torch.ones(3, dtype=torch.int64)),
    "copy": lambda x: x + torch.tensor([1.0]),
}


@pytest.mark.parametrize("name", WAITING)
def test_what_waits_is_seen(name: str):
    with pytest.raises(WaitError), counting():
        WAITING[name](torch.ones(3))


# ---- what nobody looks at is asserted, or shows itself


WRONG: dict[str, Callable[[], object]] = {
    "labels": lambda: head(labels=torch.full((N,), C)),
    "classes": lambda: head(classes=torch.arange(C - 1)),
    "classes twice": lambda: head(classes=torch.zeros(C, dtype=torch.int64)),
    "an index": lambda: contrastive(of_rows(), of_rows(), torch.full((N,), N)),
    "pairs": lambda: contrastive(of_rows(), of_rows(), PAIRS + 5),
    "weights": lambda: contrastive(of_rows(), of_rows(), PAIRS, positive_weights=-torch.ones(3)),
    "keys that stay out": lambda: functional.cosine_topk(of_rows(), of_rows(), exclude=torch.full((N,), N)),
    "negatives": lambda: losses.info_nce_loss(of_rows(), of_rows(), torch.full((N, 1), N)),
    "centers": lambda: losses.center_loss(of_rows(), torch.full((N,), -1), of_rows(C)),
    "signs": lambda: losses.cosine_embedding_loss(of_rows(), of_rows(), torch.zeros(N)),
}


@pytest.mark.usefixtures("accelerated")
@pytest.mark.parametrize("name", WRONG)
def test_wrong_indices_are_asserted(name: str):
    with pytest.raises(RuntimeError):
        WRONG[name]()


@pytest.mark.usefixtures("accelerated")
@pytest.mark.parametrize("value", [0.0, -0.1, torch.nan])
def test_a_temperature_that_is_none_gives_nan(value: float):
    assert losses.clip_loss(of_rows(), of_rows(), temperature=learned(value)).isnan()


@pytest.mark.usefixtures("accelerated")
def test_drawn_classes_hold_those_of_the_batch():
    for _ in range(5):
        drawn = functional.sample_classes(torch.tensor([7, 3, 7]), 20, 6)
        assert {3, 7} <= set(drawn.tolist())
        assert len(drawn.unique()) == len(drawn) == 6
