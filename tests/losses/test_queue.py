"""A queue of past embeddings: the newest are kept, the state travels, older copies are no negatives."""

import copy

import pytest
import torch
from torch.nn import functional as F

from cosnorm import losses

SIZE, D = 7, 4


@pytest.mark.parametrize("batches", [(3,), (3, 3, 3), (7, 2), (20, 1), (0, 5)])
def test_the_newest_are_kept(batches: tuple[int, ...]):
    queue, past = losses.Queue(SIZE, D, labels=True), torch.empty(0, D)
    for number in batches:
        rows = torch.randn(number, D)
        past = torch.cat([past, rows])
        queue.enqueue(rows, torch.arange(len(past) - number, len(past)))
    found = queue()
    assert len(queue) == min(SIZE, len(past))
    assert int(queue.count) == len(past)
    order = found["extra_labels"].argsort()
    assert torch.equal(found["extra_keys"][order], past[-SIZE:])
    assert found["extra_labels"].sort().values.tolist() == list(range(max(0, len(past) - SIZE), len(past)))


def test_an_empty_queue_says_nothing():
    assert losses.Queue(SIZE, D, groups=True)() == {}


def test_the_state_travels():
    queue = losses.Queue(SIZE, D, groups=True, guide_dim=2)
    for _ in range(3):
        queue.enqueue(torch.randn(3, D), groups=torch.arange(3), guide=torch.randn(3, 2))
    other = losses.Queue(SIZE, D, groups=True, guide_dim=2)
    other.load_state_dict(queue.state_dict())
    for twin in (other, copy.deepcopy(queue)):
        rows, groups, guide = torch.randn(2, D), torch.arange(2), torch.randn(2, 2)
        before = copy.deepcopy(queue)
        before.enqueue(rows, groups=groups, guide=guide)
        twin.enqueue(rows, groups=groups, guide=guide)
        for name, one in before().items():
            assert torch.equal(one, twin()[name])
    assert repr(queue) == f"Queue(7 of 7, dim={D})"


@pytest.mark.parametrize("stale", [False, True])
def test_older_copies_of_a_sample_are_no_negatives(stale: bool):
    queue = losses.Queue(SIZE, D, groups=True)
    samples = torch.arange(4)
    queue.enqueue(torch.randn(4, D), groups=samples if stale else samples + 10)
    rows = [torch.randn(4, D, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    queue = queue.double()
    found = losses.info_nce_loss(*rows, groups=(samples, samples), **queue())
    x, y, past = (F.normalize(one, dim=1) for one in (*rows, queue.embeddings[:4]))
    logits = torch.cat([x @ y.T, x @ past.T], 1) / 0.1
    if stale:
        logits[samples, samples + 4] = -torch.inf
    expected = (logits.logsumexp(1) - logits.diagonal()).mean()
    assert abs(found - expected) < 1e-12
    for one, other in zip(*(torch.autograd.grad(loss, rows) for loss in (found, expected)), strict=True):
        assert (one - other).abs().max() < 1e-12


def test_every_loss_over_pairs_takes_it():
    queue, labelled = losses.Queue(SIZE, D, groups=True), losses.Queue(SIZE, D, labels=True)
    queue.enqueue(torch.randn(5, D), groups=torch.arange(5))
    labelled.enqueue(torch.randn(5, D), torch.arange(5) % 2)
    a, b, samples = torch.randn(4, D), torch.randn(4, D), torch.arange(4)
    both = {"groups": (samples, samples), **queue()}
    without = {
        "nt-xent": losses.NTXentLoss(),
        "info-nce": losses.InfoNCELoss(),
        "clip": losses.CLIPLoss(),
        "siglip": losses.SigLIPLoss(),
    }
    for name, loss in without.items():
        options = both if name != "nt-xent" else {"groups": samples, **queue()}
        assert loss(a, b, **options) > loss(a, b)
    assert losses.SupConLoss()(a, samples % 2, **labelled()) > losses.SupConLoss()(a, samples % 2)


def test_the_loss_does_not_see_the_next_batch():
    queue = losses.Queue(SIZE, D)
    queue.enqueue(torch.randn(5, D))
    rows = torch.randn(4, D, requires_grad=True)
    loss = losses.info_nce_loss(rows, torch.randn(4, D), reduction="none", **queue()).sum()
    expected = torch.autograd.grad(loss, rows, retain_graph=True)[0]
    queue.enqueue(torch.randn(7, D))
    assert torch.equal(torch.autograd.grad(loss, rows)[0], expected)


def test_what_is_wrong_is_said():
    queue, labelled = losses.Queue(SIZE, D), losses.Queue(SIZE, D, labels=True)
    for call, message in (
        (lambda: queue.enqueue(torch.randn(3, 5)), r"shape \(N, 4\), got \(3, 5\)"),
        (
            lambda: queue.enqueue(torch.randn(3, D), torch.arange(3)),
            "labels were given, but the queue has none",
        ),
        (lambda: labelled.enqueue(torch.randn(3, D)), "labels were not given, but the queue has them"),
        (lambda: labelled.enqueue(torch.randn(3, D), torch.arange(2)), r"labels must have shape \(3,\)"),
        (lambda: losses.Queue(0, D), "size must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert len(queue) == len(labelled) == 0
