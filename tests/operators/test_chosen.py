"""Cosines of each query with keys of its own choice, against the gathered form."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from cosnorm.losses import info_nce_loss, sample_negatives
from cosnorm.operators import chosen as module
from cosnorm.operators.chosen import chosen_products
from cosnorm.operators.unit_vectors import unit_vectors


def chosen_cosines(queries, keys, chosen):
    return chosen_products(unit_vectors(queries), unit_vectors(keys), chosen, "chosen keys", False)


def inputs(queries: int = 13, keys: int = 11, size: int = 7, picks: int = 4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    rows = [
        torch.randn(count, size, generator=generator, dtype=dtype).requires_grad_()
        for count in (queries, keys)
    ]
    return *rows, torch.randint(keys, (queries, picks), generator=generator)


@pytest.mark.parametrize("gathered", [1, 60, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equals_the_gathered_form(gathered, dtype, monkeypatch):
    monkeypatch.setattr(module, "GATHERED", gathered)
    queries, keys, chosen = inputs(dtype=dtype)
    cosines = chosen_cosines(queries, keys, chosen)
    expected = cosine_similarity(queries[:, None].double(), keys[chosen].double(), dim=-1)
    cotangent = torch.randn(cosines.shape, generator=torch.Generator().manual_seed(1)).double()
    bound = 1e-6 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(cosines.double(), expected, atol=bound, rtol=0)
    found = torch.autograd.grad(cosines, (queries, keys), cotangent.to(dtype))
    wanted = torch.autograd.grad(expected, (queries, keys), cotangent)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=20 * bound, rtol=20 * bound)


@pytest.mark.parametrize(("queries", "picks"), [(0, 3), (5, 0), (1, 1)])
def test_empty_and_single(queries, picks):
    rows, keys, chosen = inputs(queries, picks=picks)
    cosines = chosen_cosines(rows, keys, chosen)
    assert cosines.shape == (queries, picks)
    for gradient in torch.autograd.grad(cosines.sum(), (rows, keys)):
        assert gradient.isfinite().all()


def test_saved_and_gathered_bytes_do_not_grow_with_the_picks():
    """All gathered keys would be 64 · 400 · 32 · 4 bytes."""
    queries, keys, chosen = inputs(64, 64, 32, 400, torch.float32)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        loss = chosen_cosines(queries, keys, chosen).sum()
    floats = {t.data_ptr(): t.numel() for t in saved if t.is_floating_point()}
    assert sum(floats.values()) <= 5 * (64 + 64) * 32
    loss.backward()


def test_a_second_derivative_raises():
    queries, keys, chosen = inputs()
    (gradient,) = torch.autograd.grad(chosen_cosines(queries, keys, chosen).sum(), queries, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_info_nce_by_rows_is_that_by_embeddings(dtype, reduction):
    queries, keys, _ = inputs(13, 13, dtype=dtype)
    negatives = sample_negatives(13, 5, generator=torch.Generator().manual_seed(2))
    values = []
    for given in (negatives, keys[negatives]):
        loss = info_nce_loss(queries, keys, given, temperature=0.1, reduction=reduction)
        values.append((loss, *torch.autograd.grad(loss.sum(), (queries, keys), retain_graph=True)))
    bound = 1e-5 if dtype == torch.float32 else 1e-12
    for one, other in zip(*values, strict=True):
        torch.testing.assert_close(one, other, atol=bound, rtol=bound)


def test_autocast_changes_nothing():
    queries, keys, chosen = inputs(dtype=torch.float32)
    expected = chosen_cosines(queries, keys, chosen)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(chosen_cosines(queries, keys, chosen), expected)


def test_compiles_without_graph_breaks():
    queries, keys, chosen = inputs(13, 13, dtype=torch.float32)
    compiled = torch.compile(lambda a, b: info_nce_loss(a, b, chosen), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(queries, keys), info_nce_loss(queries, keys, chosen))
