"""20 Newsgroups in the official layout, from files that the test writes; its features by hand."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch

from cosnorm_lab.data import load
from cosnorm_lab.data.catalog import NEWSGROUPS
from cosnorm_lab.data.newsgroups import features
from cosnorm_lab.data.sparse import SparseRows
from cosnorm_lab.errors import LabError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "20news"


def counts(documents: int, words: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    table = generator.poisson(0.4, (documents, words))
    table[3] = 0  # an empty document
    return table


def write_news(folder: Path, train: int = 230, test: int = 104, words: int = 30) -> dict[str, np.ndarray]:
    """A small set in the official layout; the last three words occur in the test documents only."""
    tables = {"train": counts(train, words, 0), "test": counts(test, words, 1)}
    tables["train"][:, -3:] = 0
    tables["train"][:, 0] = 0
    tables["train"][:4, 0] = 1  # four documents are one too few
    tables["train"][:, 1] = 0
    tables["train"][5:10, 1] = 1  # five are enough
    folder.mkdir(parents=True, exist_ok=True)
    for part, table in tables.items():
        lines = [f"{row + 1} {column + 1} {table[row, column]}\n" for row, column in np.argwhere(table)]
        (folder / f"{part}.data").write_text("".join(lines))
        (folder / f"{part}.label").write_text("".join(f"{row % 20 + 1}\n" for row in range(len(table))))
        (folder / f"{part}.map").write_text("".join(f"group{number} {number}\n" for number in range(1, 21)))
    return tables


def test_features_by_hand(tmp_path):
    tables = write_news(tmp_path)
    train, test = (scipy.sparse.csr_matrix(tables[part], dtype=np.float64) for part in ("train", "test"))
    found_train, found_test = features(train, test)
    kept = (tables["train"] > 0).sum(0) >= 5
    assert kept.sum() == 26
    frequency = (tables["train"][:, kept] > 0).sum(0)
    weight = np.log((1 + len(tables["train"])) / (1 + frequency)) + 1
    rows = {part: tables[part][:, kept] * weight for part in tables}
    rows = {
        part: table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-300)
        for part, table in rows.items()
    }
    largest = rows["train"].max(0)
    np.testing.assert_allclose(found_train.toarray(), rows["train"] / largest, rtol=1e-6)
    np.testing.assert_allclose(found_test.toarray(), np.minimum(rows["test"] / largest, 1), rtol=1e-6)


def test_the_set_is_made_of_even_batches_and_keeps_empty_documents(tmp_path):
    write_news(tmp_path)
    data = load("20news", tmp_path)
    assert (data.train_images.shape, data.test_images.shape) == ((200, 26), (100, 26))
    assert (data.num_classes, data.exact) == (20, False)
    assert data.train_labels.min() == 0
    assert data.train_labels.max() == 19
    again = load("20news", tmp_path)
    assert torch.equal(data.train_labels, again.train_labels)
    everything = data.train_images[torch.arange(200)].to_dense()
    assert everything.max() == 1
    assert (everything.sum(1) == 0).sum() <= 1


def test_the_packed_archive(tmp_path):
    write_news(tmp_path / "plain")
    plain = load("20news", tmp_path / "plain")
    with tarfile.open(tmp_path / NEWSGROUPS.file, "w:gz") as tar:
        for path in sorted((tmp_path / "plain").iterdir()):
            member = tarfile.TarInfo(f"{NEWSGROUPS.inside}/{path.name}")
            member.size = path.stat().st_size
            tar.addfile(member, io.BytesIO(path.read_bytes()))
    packed = load("20news", tmp_path)
    assert packed.checksums == plain.checksums
    part = torch.tensor([5, 0, 199])
    assert torch.equal(packed.train_images[part].to_dense(), plain.train_images[part].to_dense())


@pytest.mark.parametrize(
    ("file", "line", "text", "message"),
    [
        ("train.data", 4, "1 two 3", r"train.data, line 4: expected document, word and count, got '1 two 3'"),
        ("train.data", 2, "1 2", r"train.data, line 2: expected document, word and count, got '1 2'"),
        ("train.data", 2, "1 2 3 4", r"train.data, line 2: expected document, word and count"),
        ("test.data", 3, "105 1 1", r"test.data, line 3: expected a document from 1 to 104.*got '105 1 1'"),
        ("test.data", 3, "1 0 1", r"test.data, line 3: .*got '1 0 1'"),
        ("test.data", 3, "1 1 0", r"test.data, line 3: .*got '1 1 0'"),
        ("train.label", 7, "21", r"train.label, line 7: expected a label from 1 to 20, got 21"),
        ("train.label", 7, "", r"train.label, line 7: expected a label from 1 to 20, got ''"),
        ("train.label", 7, "x" * 100, r"train.label, line 7: .*got 'x{60}'"),
    ],
)
def test_broken_lines_are_named(tmp_path, file, line, text, message):
    write_news(tmp_path)
    lines = (tmp_path / file).read_text().splitlines()
    lines[line - 1] = text
    (tmp_path / file).write_text("\n".join(lines) + "\n")
    with pytest.raises(LabError, match=message):
        load("20news", tmp_path)


def test_rows_are_batches_of_csr():
    dense = torch.tensor([[0.0, 1, 0], [0, 0, 0], [2, 0, 3], [0, 4, 0]])
    rows = SparseRows(scipy.sparse.csr_matrix(dense.numpy()))
    assert (len(rows), rows.shape) == (4, (4, 3))
    batch = rows[torch.tensor([2, 1, 2])]
    assert batch.layout == torch.sparse_csr
    assert torch.equal(batch.to_dense(), dense[[2, 1, 2]])
    assert torch.equal(rows[1:][torch.tensor([0, 2])].to_dense(), dense[[1, 3]])
    assert rows.flatten(1) is rows
    assert len(rows.to("cpu")) == 4


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data are not here")
def test_the_real_set_has_the_papers_numbers():
    data = load("20news", SHARED)
    assert (data.train_images.shape, data.test_images.shape) == ((11_200, 21_566), (7_500, 21_566))
    assert 124 < data.train_images.matrix.nnz / 11_200 < 125
