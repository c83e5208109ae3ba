"""Wrong arguments of the blocked losses: what was expected, what came, and how to mend it."""

import pytest
import torch

from cosnorm.functional import (
    contrastive_cross_entropy,
    margin_cross_entropy,
    pairwise_sigmoid_loss,
    sample_classes,
)

ROWS, FEW, LABELS = torch.randn(4, 3), torch.randn(3, 3), torch.arange(4)
BOTH = ("query_to_key", "key_to_query")
LEARNS = torch.ones(1, requires_grad=True)
ONE, PAIRS = torch.tensor([0, 1, 2, 0]), torch.tensor([[0, 1], [0, 2]])


def contrast(*arguments, **options):
    return lambda: contrastive_cross_entropy(*arguments, **options)


def heads(*arguments, **options):
    return lambda: margin_cross_entropy(*arguments, **options)


CASES = [
    (contrast([1.0]), TypeError, "queries must be a torch.Tensor, got list"),
    (contrast(ROWS.long()), TypeError, r"queries must be float16.*got torch.int64"),
    (contrast(ROWS), ValueError, "pass positives=, or labels=, or keys="),
    (contrast(ROWS, ROWS.double()), TypeError, r"one dtype.*keys\.to\(queries.dtype\)"),
    (contrast(ROWS, ROWS[:, :2]), ValueError, r"shapes \(N, D\) and \(M, D\).*flatten\(1\)"),
    (contrast(ROWS[0], positives=LABELS), ValueError, r"shapes \(N, D\)"),
    (contrast(ROWS, FEW), ValueError, "there are 4 queries and 3 keys"),
    (contrast(FEW, ROWS, directions=BOTH), ValueError, "there are 3 queries and 4 keys"),
    (contrast(ROWS, ROWS, exchange="rings"), ValueError, "exchange must be .auto., .gather. or .ring., got"),
    (contrast(ROWS, ROWS, directions="forth"), ValueError, "directions must be one or more of"),
    (contrast(ROWS, positives=LABELS, directions=BOTH), ValueError, "take keys"),
    (contrast(ROWS, FEW, ONE, directions=BOTH, reduction="none"), ValueError, "as many keys as queries"),
    (contrast(ROWS, ROWS, directions=BOTH[1], reduction="none"), ValueError, "exchange queries and keys"),
    (contrast(ROWS, ROWS, labels=(LABELS,) * 2, directions=BOTH, joint=True), ValueError, "not by labels"),
    (contrast(ROWS, ROWS, directions=BOTH[1], extra_keys=FEW), ValueError, "belong to .query_to_key"),
    (contrast(ROWS, positives=LABELS, positive_weights=ROWS[:, 0]), ValueError, r"shape \(P, 2\), pairs"),
    (
        contrast(ROWS, positives=PAIRS, positive_weights=ROWS[:1, 0]),
        ValueError,
        r"shape \(2,\), one for each",
    ),
    (contrast(ROWS, positives=PAIRS, positive_weights=-torch.ones(2)), ValueError, "not negative, got -1.0"),
    (
        contrast(ROWS, positives=PAIRS, positive_weights=torch.ones(2, requires_grad=True)),
        ValueError,
        "cannot learn; pass positive_weights.detach",
    ),
    (contrast(ROWS, positives=FEW.to_sparse_csr()), ValueError, r"must have shape \(4, 4\)"),
    (contrast(ROWS, ROWS, exclude_self=True), ValueError, "key i is query i, not its positive"),
    (contrast(ROWS, FEW, ONE, exclude_self=True), ValueError, "as many keys as queries, got 4 queries and 3"),
    (
        contrast(ROWS, labels=LABELS, groups=LABELS[:2]),
        ValueError,
        r"groups must have shape \(4,\), got \(2,",
    ),
    (contrast(ROWS, ROWS, groups=LABELS), ValueError, r"with keys a pair, groups="),
    (
        contrast(ROWS, ROWS, labels=(LABELS, LABELS), groups=(LABELS, LABELS), exclude_same_label=True),
        ValueError,
        "and no groups",
    ),
    (contrast(ROWS, labels=LABELS, guide=FEW), ValueError, r"guide must have shape \(4, G\)"),
    (contrast(ROWS, labels=LABELS, guide=ROWS * LEARNS), ValueError, r"cannot learn; pass guide.detach\(\)"),
    (contrast(ROWS, ROWS, guide=ROWS), ValueError, "with keys a pair, guide="),
    (contrast(ROWS, ROWS, guide=(ROWS, ROWS[:, :1])), ValueError, "key_guide must have shape"),
    (contrast(ROWS, labels=LABELS, extra_guide=ROWS), ValueError, "extra_guide belongs to extra_keys"),
    (contrast(ROWS, ROWS, false_negative_threshold=3), ValueError, "None or a number between −2 and 2"),
    (contrast(ROWS, ROWS, false_negative_margin="0"), ValueError, "false_negative_margin must be None"),
    (contrast(ROWS, ROWS, hardness=-1.0), ValueError, "hardness must be a number that is not negative"),
    (contrast(ROWS, ROWS, hard_negatives=ROWS), ValueError, r"hard_negatives must have shape \(4, K, 3\)"),
    (contrast(ROWS, positives=LABELS.float()), TypeError, r"whole numbers.*\.long\(\)"),
    (contrast(ROWS, positives=LABELS + 1), ValueError, "name a key between 0 and 3, got 1 to 4"),
    (contrast(ROWS, positives=LABELS - 2), ValueError, "got -2 to 1"),
    (contrast(ROWS, positives=torch.tensor([[4, 0]])), ValueError, "name a query between 0 and 3"),
    (contrast(ROWS, positives=LABELS[:3]), ValueError, r"shape \(4,\).*or \(P, 2\)"),
    (contrast(ROWS, labels=LABELS[:3]), ValueError, r"labels must have shape \(4,\), got \(3,\)"),
    (
        contrast(ROWS, ROWS, labels=LABELS),
        ValueError,
        r"with keys a pair, labels=\(query_labels, key_labels\)",
    ),
    (contrast(ROWS, labels=(LABELS, LABELS)), ValueError, "one tensor without keys"),
    (contrast(ROWS, ROWS, labels=(LABELS, LABELS[:2])), ValueError, "labels of the keys must have shape"),
    (contrast(ROWS, ROWS, exclude_same_label=True), ValueError, "takes labels="),
    (contrast(ROWS, labels=LABELS, temperature=0.0), ValueError, "temperature must be positive.*logarithm"),
    (contrast(ROWS, labels=LABELS, temperature=torch.tensor(-1.0)), ValueError, "got -1.0; learn its"),
    (contrast(ROWS, labels=LABELS, temperature=torch.ones(2)), ValueError, "one element"),
    (contrast(ROWS, labels=LABELS, temperature="1"), TypeError, "number or a tensor, got str"),
    (contrast(ROWS, labels=LABELS, reduction="avg"), ValueError, "'none', 'mean' or 'sum', got 'avg'"),
    (contrast(ROWS, labels=LABELS, chunk_size=0), ValueError, "chunk_size must be at least 1, got 0"),
    (contrast(ROWS, labels=LABELS, decoupled=1), TypeError, "decoupled must be True or False, got 1"),
    (contrast(ROWS, labels=LABELS, exclude=ROWS), TypeError, "bool tensor on cpu, got torch.float32"),
    (contrast(ROWS, labels=LABELS, exclude=torch.ones(3, 4).bool()), ValueError, r"broadcast to \(4, 4\)"),
    (
        contrast(ROWS, labels=LABELS, extra_keys=FEW),
        ValueError,
        "extra_labels belong to extra_keys and labels",
    ),
    (heads(ROWS, FEW, LABELS), ValueError, r"labels must be in \[0, 3\), got 0 to 3"),
    (heads(ROWS, FEW[:, :2], LABELS), ValueError, r"shapes \(N, D\) and \(C, D\)"),
    (heads(ROWS, FEW.double(), LABELS), TypeError, "both be float64, or neither"),
    (heads(ROWS, FEW, LABELS[:2]), ValueError, "one class for each embedding"),
    (heads(ROWS, FEW, LABELS.float()), TypeError, r"whole numbers.*labels\.long\(\)"),
    (heads(ROWS, FEW, torch.eye(4)), TypeError, r"whole numbers.*labels\.argmax\(1\)"),
    (heads(ROWS, FEW, LABELS % 3, sub_centers=2), ValueError, "multiple of as many, got 3"),
    (heads(ROWS, FEW, LABELS % 3, scale=0.0), ValueError, "scale must be positive"),
    (
        heads(ROWS, FEW, LABELS % 3, scale="1"),
        TypeError,
        "scale must be a number, or a tensor of one, got str",
    ),
    (heads(ROWS, FEW, LABELS % 3, margin=0.5), TypeError, r"such as AdditiveCosine\(0.5\), got float"),
    (
        heads(ROWS, FEW, LABELS % 3, classes=torch.tensor([0, 1])),
        ValueError,
        r"hold the labels.*sample_classes",
    ),
    (heads(ROWS, FEW, LABELS % 3, classes=torch.tensor([0, 1, 1])), ValueError, r"each class once.*unique"),
    (heads(ROWS, FEW, LABELS % 3, reduction="avg"), ValueError, "got 'avg'"),
    (lambda: pairwise_sigmoid_loss(ROWS, FEW), ValueError, "there are 4 queries and 3 keys"),
    (lambda: pairwise_sigmoid_loss(ROWS), ValueError, "pass positives= or labels="),
    (lambda: pairwise_sigmoid_loss(ROWS, ROWS, directions=BOTH), ValueError, "are those of .key_to_query"),
    (
        lambda: pairwise_sigmoid_loss(
            ROWS, ROWS, directions=("query_to_key", "key_to_key"), reduction="none"
        ),
        ValueError,
        "belong to no query",
    ),
    (
        lambda: pairwise_sigmoid_loss(ROWS, positives=PAIRS, positive_weights=torch.full((2,), 2.0)),
        ValueError,
        "between 0 and 1, got 2.0",
    ),
    (
        lambda: pairwise_sigmoid_loss(ROWS, ROWS, scale=torch.nan),
        ValueError,
        "scale must be one finite number",
    ),
    (lambda: pairwise_sigmoid_loss(ROWS, ROWS, bias="0"), TypeError, "bias must be a number or a tensor"),
    (lambda: sample_classes(LABELS, 3, 2), ValueError, r"labels must be in \[0, 3\)"),
    (lambda: sample_classes(LABELS, 4, 5), ValueError, "at most num_classes = 4, got 5"),
    (lambda: sample_classes(LABELS.float(), 4, 2), TypeError, "whole numbers"),
]


@pytest.mark.parametrize(("call", "error", "message"), CASES)
def test_error(call, error, message: str):
    with pytest.raises(error, match=message):
        call()


def test_every_function_has_a_case():
    found = set()
    for call, error, _ in CASES:
        with pytest.raises(error) as caught:
            call()
        found.add(str(caught.value).partition(":")[0])
    assert found == {
        "contrastive_cross_entropy",
        "margin_cross_entropy",
        "pairwise_sigmoid_loss",
        "sample_classes",
    }
