"""`contrastive_cross_entropy` against the dense float64 formula: every form and reduction, all gradients."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cosnorm.backends.pairs import Exclusion
from cosnorm.backends.torch.softmax import log_sums
from cosnorm.functional import contrastive_cross_entropy

NUMBER, SIZE = 36, 11


def dense(queries: Tensor, keys: Tensor, average: Tensor, excluded: Tensor, temperature: Tensor) -> Tensor:
    """Losses (N,) in float64; `average` (N, M) holds 1/|P(i)| at the positives."""
    rows, columns = (F.normalize(one.double(), dim=1, eps=0) for one in (queries, keys))
    logits = rows @ columns.T / temperature.double()
    part = (average.sum(1) > 0) & ~excluded.all(1)
    sums = logits.masked_fill(excluded, -torch.inf).logsumexp(1)
    return torch.where(part, sums - (logits * average).sum(1), 0.0)


def reduced(losses: Tensor, average: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    return losses.sum() / (average.sum(1) > 0).sum() if reduction == "mean" else losses.sum()


@dataclass
class Form:
    """Arguments of ours, and what the dense formula needs."""

    average: Tensor
    excluded: Tensor
    keys: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


def _average(mask: Tensor) -> Tensor:
    mask = mask.double()
    return mask / mask.sum(1, keepdim=True).clamp(min=1)


def form(name: str) -> Form:
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, 9, (NUMBER,), generator=generator)
    labels[0] = 99  # nobody else has it
    other = torch.randint(0, 9, (NUMBER + 6,), generator=generator)
    eye = torch.eye(NUMBER, dtype=torch.bool)
    wide = torch.eye(NUMBER, NUMBER + 6, dtype=torch.bool)
    pair = torch.arange(NUMBER).roll(NUMBER // 2)
    paired = torch.zeros(NUMBER, NUMBER, dtype=torch.bool)
    paired[torch.arange(NUMBER), pair] = True
    same = labels.unsqueeze(1) == labels
    random = torch.rand(NUMBER, NUMBER + 6, generator=generator) < 0.1
    key_pair = torch.arange(NUMBER).roll(7)
    key_pair[3] = -1
    shifted = torch.zeros_like(wide)
    kept = torch.arange(NUMBER) != 3
    shifted[torch.arange(NUMBER)[kept], key_pair[kept]] = True
    match name:
        case "two views":
            return Form(_average(paired), eye, options={"positives": pair})
        case "two views, decoupled":
            return Form(_average(paired), eye | paired, options={"positives": pair, "decoupled": True})
        case "two views, not an involution, decoupled":
            turned = torch.arange(NUMBER).roll(1)
            mask = torch.zeros_like(eye)
            mask[torch.arange(NUMBER), turned] = True
            return Form(_average(mask), eye | mask, options={"positives": turned, "decoupled": True})
        case "labels":
            return Form(_average(same & ~eye), eye, options={"labels": labels})
        case "labels, decoupled":
            return Form(_average(same & ~eye), eye | same, options={"labels": labels, "decoupled": True})
        case "labels of keys":
            mask = labels.unsqueeze(1) == other
            return Form(_average(mask), ~wide & wide, NUMBER + 6, {"labels": (labels, other)})
        case "keys":
            return Form(_average(wide), ~wide & wide, NUMBER + 6)
        case "index of keys":
            return Form(_average(shifted), ~wide & wide, NUMBER + 6, {"positives": key_pair})
        case "pairs":
            return Form(_average(random), ~wide & wide, NUMBER + 6, {"positives": random.nonzero().flip(0)})
        case "pairs, decoupled":
            options = {"positives": random.nonzero(), "decoupled": True}
            return Form(_average(random), random, NUMBER + 6, options)
        case "same label":
            options = {"labels": (labels, labels), "exclude_same_label": True}
            return Form(_average(eye), same & ~eye, NUMBER, options)
        case "mask":
            masked = torch.rand(NUMBER, NUMBER, generator=generator) < 0.3
            return Form(_average(eye), masked, NUMBER, {"exclude": masked})
        case "mask of keys, without keys":
            masked = torch.rand(NUMBER, generator=generator) < 0.3
            options = {"positives": pair, "exclude": masked}
            return Form(_average(paired), eye | masked, options=options)
        case "self among the keys":
            mask = torch.zeros_like(wide)
            mask[:, :NUMBER] = paired
            return Form(_average(mask), wide, NUMBER + 6, {"positives": pair, "exclude_self": True})
    raise AssertionError(name)


FORMS = (
    "two views",
    "two views, decoupled",
    "two views, not an involution, decoupled",
    "labels",
    "labels, decoupled",
    "labels of keys",
    "keys",
    "index of keys",
    "pairs",
    "pairs, decoupled",
    "same label",
    "mask",
    "mask of keys, without keys",
    "self among the keys",
)


def leaves(count: int | None, dtype: torch.dtype, temperature: float) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [NUMBER] if count is None else [NUMBER, count]
    rows = [torch.randn(one, SIZE, generator=generator, dtype=torch.float64) for one in sizes]
    return [one.to(dtype).requires_grad_() for one in [*rows, torch.tensor(temperature)]]


def compare(found: Tensor, expected: Tensor, inputs: list[Tensor], bound: float, floor: float = 0.0) -> None:
    """Values and gradients, each within `bound` of its largest, which counts at least `floor`."""
    generator = torch.Generator().manual_seed(1)
    cotangent = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    ours = torch.autograd.grad(found, inputs, cotangent.to(found.dtype), retain_graph=True)
    theirs = torch.autograd.grad(expected, inputs, cotangent, retain_graph=True)
    assert (found - expected).abs().max() <= bound * (1 + expected.abs().max())
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).abs().max() <= bound * other.abs().max().clamp(min=floor)


BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-10}


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", FORMS)
def test_every_form(name: str, reduction: str, temperature: float, dtype: torch.dtype):
    made = form(name)
    inputs = leaves(made.keys, dtype, temperature)
    keys = None if made.keys is None else inputs[1]
    for chunk_size in (None, 5):
        found = contrastive_cross_entropy(
            inputs[0],
            keys,
            temperature=inputs[-1],
            reduction=reduction,
            chunk_size=chunk_size,
            **made.options,
        )
        losses = dense(
            inputs[0], inputs[0] if keys is None else keys, made.average, made.excluded, inputs[-1]
        )
        # A rounding of the cosines is divided by the temperature, in the plain formula too.
        slack = 4 if dtype == torch.float32 and temperature == 0.01 else 1
        compare(found, reduced(losses, made.average, reduction), inputs, slack * BOUNDS[dtype])


@pytest.mark.parametrize("temperature", [1.0, 0.01])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("masked", [False, True])
def test_both_directions(masked: bool, reduction: str, temperature: float):
    made = form("same label" if masked else "keys")
    excluded = made.excluded[:, :NUMBER] if masked else torch.zeros(NUMBER, NUMBER, dtype=torch.bool)
    inputs = leaves(NUMBER, torch.float64, temperature)
    average = torch.eye(NUMBER, dtype=torch.float64)
    there = dense(inputs[0], inputs[1], average, excluded, inputs[2])
    back = dense(inputs[1], inputs[0], average, excluded.T, inputs[2])
    for chunk_size in (None, 7):
        found = contrastive_cross_entropy(
            inputs[0],
            inputs[1],
            temperature=inputs[2],
            directions=("query_to_key", "key_to_query"),
            reduction=reduction,
            chunk_size=chunk_size,
            **made.options,
        )
        compare(found, reduced((there + back) / 2, average, reduction), inputs, 1e-10)


@pytest.mark.parametrize("labelled", [False, True])
def test_extra_keys_stand_behind_the_others(labelled: bool):
    generator = torch.Generator().manual_seed(2)
    queries, extra = (torch.randn(one, SIZE, generator=generator).double() for one in (NUMBER, 10))
    inputs = [queries.requires_grad_(), extra.requires_grad_()]
    labels, extra_labels = (torch.randint(0, 5, (one,), generator=generator) for one in (NUMBER, 10))
    excluded = torch.eye(NUMBER, NUMBER + 10, dtype=torch.bool)
    if labelled:
        options: dict[str, Any] = {"labels": labels, "extra_labels": extra_labels}
        average = _average((labels.unsqueeze(1) == torch.cat([labels, extra_labels])) & ~excluded)
    else:
        pair = torch.arange(NUMBER).roll(NUMBER // 2)
        options = {"positives": pair}
        average = F.one_hot(pair, NUMBER + 10).double()
    found = contrastive_cross_entropy(queries, extra_keys=extra, temperature=0.2, **options)
    losses = dense(
        queries, torch.cat([queries, extra]), average, excluded, torch.tensor(0.2, dtype=torch.float64)
    )
    compare(found, reduced(losses, average, "mean"), inputs, 1e-10)


@pytest.mark.parametrize("temperature", [0.1, 0.01])
def test_many_tiles_of_the_usual_size(temperature: float):
    """More than one tile, and the small ones along the diagonal."""
    number = 2 * 650
    queries = torch.randn(number, 8, dtype=torch.float64, requires_grad=True)
    pair = torch.arange(number).roll(number // 2)
    found = contrastive_cross_entropy(queries, positives=pair, temperature=temperature)
    excluded = torch.eye(number, dtype=torch.bool)
    average = F.one_hot(pair, number).double()
    losses = dense(queries, queries, average, excluded, torch.tensor(temperature, dtype=torch.float64))
    compare(found, losses.mean(), [queries], 1e-10)


def test_the_comparison_sees_a_wrong_answer():
    inputs = leaves(None, torch.float64, 0.1)
    losses = dense(
        inputs[0], inputs[0], *(getattr(form("labels"), one) for one in ("average", "excluded")), inputs[-1]
    )
    right = losses.sum()
    compare(right * 1, right, inputs[:1], 1e-10)
    for wrong in (right + 1e-6, right + (inputs[0] - inputs[0].detach()).sum() * 1e-6):
        with pytest.raises(AssertionError):
            compare(wrong, right, inputs[:1], 1e-10)


def test_the_sum_of_nothing_is_minus_infinity():
    rows = torch.eye(3)
    everything = Exclusion(mask=torch.ones(3, 3, dtype=torch.bool))
    for scale in (1.0, 100.0):
        sums, other = log_sums(rows, rows, scale, everything, columns=True)
        assert other is not None
        assert sums.tolist() == other.tolist() == [-torch.inf] * 3
