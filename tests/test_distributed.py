"""The law of cosnorm.distributed: one process with the whole batch, or one to four with a share each."""

import subprocess
import sys
from pathlib import Path

import distributed_cases as cases
import pytest
import torch

from cosnorm import losses
from cosnorm.functional import margin_cross_entropy

pytestmark = pytest.mark.xdist_group("distributed")  # one worker has the fixture

SCRIPT = Path(cases.__file__)
BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.fixture(
    scope="module",
    params=[1, 2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)],
)
def ranks(request, tmp_path_factory) -> list[dict]:
    """What each of the processes found."""
    folder = tmp_path_factory.mktemp("processes")
    number = request.param
    running = [
        subprocess.Popen([sys.executable, str(SCRIPT), str(rank), str(number), str(folder)])
        for rank in range(number)
    ]
    assert [one.wait(300) for one in running] == [0] * number
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(number)]


def close(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool:
    return bool((found - expected).abs().max() <= BOUNDS[dtype] * expected.abs().max())


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("name", cases.LOSSES)
def test_loss_and_gradients_are_those_of_one_process(ranks: list[dict], name: str, dtype: torch.dtype):
    batch = cases.whole_batch(len(ranks), dtype)
    expected = cases.result(cases.LOSSES[name], cases.model(dtype), batch, None)
    for found in ranks:
        for one, other in zip(found[f"{name}, {dtype}"], expected, strict=True):
            assert close(one, other, dtype)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_a_sharded_head(ranks: list[dict], dtype: torch.dtype):
    whole = cases.head(dtype, None)
    batch = cases.whole_batch(len(ranks), dtype)
    expected = cases.result(lambda a, b, y, g: whole(a, y), cases.model(dtype), batch, None)
    for found in ranks:
        *values, gradient = found[f"head, {dtype}"]
        for one, other in zip(values, expected, strict=True):
            assert close(one, other, dtype)
        share = found[f"share, {dtype}"]
        own = slice(2 * share.start, 2 * share.stop)
        assert close(gradient, whole.weight.grad[own], dtype)
        assert torch.equal(
            found[f"weight, {dtype}"], whole.weight.detach()
        )  # loads on any number of processes


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_a_sharded_head_that_weighs_classes(ranks: list[dict], dtype: torch.dtype):
    whole = cases.weighed(dtype, None)
    batch = cases.whole_batch(len(ranks), dtype)
    expected = cases.result(lambda a, b, y, g: whole(a, y), cases.model(dtype), batch, None)
    for found in ranks:
        *values, gradient = found[f"weighed, {dtype}"]
        for one, other in zip(values, expected, strict=True):
            assert close(one, other, dtype)
        assert close(gradient, whole.weight.grad[found[f"share, {dtype}"]], dtype)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("name", cases.HEADS)
def test_sharded_heads_that_look_at_norms_and_batches(ranks: list[dict], name: str, dtype: torch.dtype):
    batch = cases.whole_batch(len(ranks), dtype)
    *expected, gradient = cases.steps(name, dtype, cases.model(dtype), batch, None)
    for found in ranks:
        *values, own = found[f"{name}, {dtype}"]
        for one, other in zip(values, expected, strict=True):
            if one.shape == (1,):  # a bias, where own and other classes cancel
                assert (one - other).abs() <= BOUNDS[dtype]
            else:
                assert close(one, other, torch.float32 if one.ndim == 0 else dtype)  # statistics are float32
        assert close(own, gradient[found[f"share, {dtype}"]], dtype)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_a_sharded_head_predicts_for_the_embeddings_of_each(ranks: list[dict], dtype: torch.dtype):
    whole = cases.head(dtype, None)
    embeddings, _, _ = cases.whole_batch(len(ranks), dtype)
    start = 0
    for rank, found in enumerate(ranks):
        own = embeddings[start : start + cases.SHARES[rank]]
        start += len(own)
        torch.testing.assert_close(found[f"logits, {dtype}"], whole.logits(own).detach())
        for topk in (None, 1, cases.CLASSES):
            assert torch.equal(found[f"predicted {topk}, {dtype}"], whole.predict(own, topk=topk))
        assert torch.equal(found[f"one class, {dtype}"], torch.zeros(len(own), dtype=torch.int64))


def test_linear_layers_column_by_column(ranks: list[dict]):
    for found in ranks:
        parallel = found["tensor parallel"]
        for name in ("plain", "sharded"):
            assert all(one.isfinite().all() and one.any() for one in parallel[name])
        for one, other in zip(parallel["sharded"], parallel["plain"], strict=True):
            torch.testing.assert_close(one, other)
        torch.testing.assert_close(*parallel["spread"])
        torch.testing.assert_close(*parallel["spread gradient"])
        assert "cannot be sharded row-wise" in parallel["row-wise"]
        assert "use ColwiseParallel()" in parallel["row-wise"]
        assert "a layer with a learned scale cannot be sharded" in parallel["learned"]
        assert "cosines want whole rows; got an input of placements (Shard(dim=1),)" in parallel["columns"]


@pytest.mark.parametrize("name", ["loss", "queries", "head"])
def test_modules_with_a_group_are_copied_pickled_averaged_and_compiled(ranks: list[dict], name: str):
    for found in ranks:
        original, *twins = found[f"copies, {name}"]
        assert original.isfinite()
        for twin in twins:
            torch.testing.assert_close(twin, original)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_each_process_has_the_losses_of_its_own(ranks: list[dict], dtype: torch.dtype):
    one, two, _ = cases.whole_batch(len(ranks), dtype)
    whole = losses.nt_xent_loss(one, two, temperature=0.3, reduction="none")
    first, second = whole.chunk(2)
    start = 0
    for rank, found in enumerate(ranks):
        own = slice(start, start + cases.SHARES[rank])
        torch.testing.assert_close(found[f"each, {dtype}"], torch.cat([first[own], second[own]]))
        start = own.stop


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("name", [*cases.SEARCHES, "itself"])
def test_nearest_among_the_keys_of_all_processes(ranks: list[dict], name: str, dtype: torch.dtype):
    one, two, labels = cases.whole_batch(len(ranks), dtype)
    whole = (
        cases.search_itself(one, None)
        if name == "itself"
        else cases.search(one, two, labels, cases.SEARCHES[name], None)
    )
    start = 0
    for rank, found in enumerate(ranks):
        own = slice(start, start + cases.SHARES[rank])
        start = own.stop
        values, indices, *gradients = found[f"search {name}, {dtype}"]
        assert torch.equal(indices, whole[1][own])
        for mine, other in zip((values, *gradients), (whole[0], *whole[2:]), strict=True):
            torch.testing.assert_close(mine, other[own], rtol=BOUNDS[dtype], atol=BOUNDS[dtype])


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_metrics_are_those_of_all_and_negatives_those_of_the_own(ranks: list[dict], dtype: torch.dtype):
    whole = cases.judged(*cases.whole_batch(len(ranks), dtype), None)
    mined = whole.pop("mined")
    start = 0
    for rank, found in enumerate(ranks):
        values = found[f"judged, {dtype}"]
        assert torch.equal(values.pop("mined"), mined[start : start + cases.SHARES[rank]])
        start += cases.SHARES[rank]
        for name, value in values.items():
            torch.testing.assert_close(value, whole[name], rtol=1e-12, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", [*cases.COMPILED, "head"])
def test_compiled_with_a_group_in_one_graph(ranks: list[dict], name: str):
    for found in ranks:
        for one, other in zip(found[f"compiled {name}"], found[f"eager {name}"], strict=True):
            assert close(one, other, torch.float32)


def test_rows_are_gathered_in_the_order_of_ranks(ranks: list[dict]):
    expected = torch.cat([torch.full((cases.SHARES[rank], 2), float(rank)) for rank in range(len(ranks))])
    for rank, found in enumerate(ranks):
        rows, offset, gradient = found["gathered"]
        assert torch.equal(rows, expected)
        assert offset == sum(cases.SHARES[:rank])
        assert (gradient == sum(range(1, len(ranks) + 1))).all()  # each process multiplied by its rank + 1


def test_a_group_without_processes_says_what_to_do():
    rows, labels = torch.randn(4, 3), torch.arange(4)
    for call in (
        lambda: losses.nt_xent_loss(rows, rows, group=object()),
        lambda: losses.SigLIPLoss(group=object())(rows, rows),
        lambda: margin_cross_entropy(rows, rows, labels, group=object()),
        lambda: losses.ArcFaceLoss(4, 3, group=object()),
    ):
        with pytest.raises(RuntimeError, match="init_process_group first, or leave group out"):
            call()


@pytest.mark.slow
def test_peak_memory_of_a_process_falls_as_processes_are_added(tmp_path):
    peaks = {number: _peak(tmp_path / str(number), number, "16384") for number in (1, 2, 4)}
    # 49.5, 44.4 and 38.2 MiB: the tiles and the unit keys of all are everywhere.
    assert peaks[2] < 0.9 * peaks[1]
    assert peaks[4] < 0.9 * peaks[2]
    # 18.2 MiB; the own rows of a process, 2 MiB, are there nine times.
    assert _peak(tmp_path / "ring", 4, "16384", "ring") < 0.55 * peaks[4]


def _peak(folder: Path, number: int, *arguments: str) -> int:
    """The largest of the peaks of so many processes."""
    folder.mkdir()
    script = Path(__file__).with_name("distributed_memory.py")
    running = [
        subprocess.Popen([sys.executable, str(script), str(rank), str(number), str(folder), *arguments])
        for rank in range(number)
    ]
    assert [one.wait(300) for one in running] == [0] * number
    return max(torch.load(folder / f"{rank}.pt") for rank in range(number))
