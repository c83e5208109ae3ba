"""20 Newsgroups as word counts (the "bydate" matlab version), made into TF-IDF features from 0 to 1."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.sparse  # type: ignore[import-untyped, unused-ignore]
import torch

from cosnorm_lab.data.archive import checksums, read_members
from cosnorm_lab.data.catalog import NEWSGROUPS
from cosnorm_lab.data.dataset import Dataset
from cosnorm_lab.data.sparse import SparseRows
from cosnorm_lab.errors import LabError

Numbers = npt.NDArray[np.int64]
CLASSES = 20
LEAST_DOCUMENTS = 5  # a word must occur in so many training documents
BATCH = 100  # documents that leave an uneven batch are dropped, as in the paper: 69 and 5


def load_newsgroups(folder: Path, *, allow_checksum_mismatch: bool = False) -> Dataset:
    """Reads 20 Newsgroups: TF-IDF of the words that at least 5 training documents hold, as sparse rows.

    The weights of words (`sklearn.feature_extraction.text.TfidfTransformer`: each document has length 1)
    and the largest value of each feature, which becomes 1, are those of the training documents; test values
    are cut off at 1. Words that only test documents hold are dropped, documents without a word stay as zero
    rows. 69 training and 5 test documents, drawn once and for all, are left out so that batches of 100 are
    even.

    Raises:
        LabError: a file is missing or damaged, or a line is not what it should be (the message names it).
    """
    contents = read_members(NEWSGROUPS, folder)
    md5, exact = checksums(NEWSGROUPS, contents, folder, allow_checksum_mismatch)
    labels = {
        part: parse_labels(contents[f"{part}.label"], folder / f"{part}.label") for part in ("train", "test")
    }
    triples = {
        part: parse_counts(contents[f"{part}.data"], len(labels[part]), folder / f"{part}.data")
        for part in ("train", "test")
    }
    words = max(int(triple[:, 1].max(initial=0)) for triple in triples.values())
    counts = {part: _matrix(triple, len(labels[part]), words) for part, triple in triples.items()}
    train, test = features(counts["train"], counts["test"])
    kept = {part: _even(len(labels[part])) for part in ("train", "test")}
    return Dataset(
        name=NEWSGROUPS.name,
        train_images=SparseRows(train[kept["train"]]),
        train_labels=torch.from_numpy(labels["train"][kept["train"]]),
        test_images=SparseRows(test[kept["test"]]),
        test_labels=torch.from_numpy(labels["test"][kept["test"]]),
        num_classes=CLASSES,
        checksums=md5,
        exact=exact,
    )


def features(
    train: scipy.sparse.csr_matrix, test: scipy.sparse.csr_matrix
) -> tuple[scipy.sparse.csr_matrix, scipy.sparse.csr_matrix]:
    """Word counts (documents, words) → TF-IDF of the frequent words, each feature from 0 to 1, float32."""
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.preprocessing import MaxAbsScaler

    frequent = np.flatnonzero(train.getnnz(axis=0) >= LEAST_DOCUMENTS)
    weighting = TfidfTransformer().fit(train[:, frequent])
    scaler = MaxAbsScaler()
    scaled_train = scaler.fit_transform(weighting.transform(train[:, frequent]))
    scaled_test = scaler.transform(weighting.transform(test[:, frequent]))
    scaled_test.data = scaled_test.data.clip(max=1.0)
    return tuple(scipy.sparse.csr_matrix(part, dtype=np.float32) for part in (scaled_train, scaled_test))


def parse_labels(data: bytes, path: Path) -> Numbers:
    """One label a line, 1 to 20 → int64 from 0.

    Raises:
        LabError: a line is no such number; the message names it.
    """
    numbers = _numbers(data, 1, path, "a label from 1 to 20")[:, 0]
    wrong = np.flatnonzero((numbers < 1) | (numbers > CLASSES))
    if len(wrong):
        raise LabError(
            f"{path}, line {wrong[0] + 1}: expected a label from 1 to {CLASSES}, got {numbers[wrong[0]]}"
        )
    return numbers - 1


def parse_counts(data: bytes, documents: int, path: Path) -> Numbers:
    """Lines "document word count", all from 1 on → int64 (lines, 3).

    Raises:
        LabError: a line is not of this kind, or names a document without a label; the message names it.
    """
    numbers = _numbers(data, 3, path, "document, word and count")
    wrong = np.flatnonzero((numbers < 1).any(axis=1) | (numbers[:, 0] > documents))
    if len(wrong):
        line = " ".join(map(str, numbers[wrong[0]]))
        raise LabError(
            f"{path}, line {wrong[0] + 1}: expected a document from 1 to {documents}, a word and a count of "
            f"at least 1, got {line!r}"
        )
    return numbers


def _numbers(data: bytes, columns: int, path: Path, what: str) -> Numbers:
    """Whole numbers in lines of so many, or an error that names the line."""
    try:
        flat = np.array(data.split(), dtype=np.int64)
        lines = data.count(b"\n") + (not data.endswith(b"\n") and bool(data))
        if len(flat) == lines * columns:
            return flat.reshape(-1, columns)
    except ValueError:
        pass
    for number, line in enumerate(data.splitlines(), start=1):
        parts = line.split()
        if len(parts) != columns or not all(part.isdigit() for part in parts):
            shown = line[:60].decode("ascii", "replace")
            raise LabError(f"{path}, line {number}: expected {what}, got {shown!r}; the file is damaged")
    raise LabError(f"{path} is damaged: expected lines of {what}")


def _matrix(triples: Numbers, documents: int, words: int) -> scipy.sparse.csr_matrix:
    rows, columns, counts = triples[:, 0] - 1, triples[:, 1] - 1, triples[:, 2].astype(np.float64)
    return scipy.sparse.csr_matrix((counts, (rows, columns)), shape=(documents, words))


def _even(documents: int) -> Numbers:
    """Which documents are kept, in their order: a multiple of BATCH, where there are as many."""
    number = documents // BATCH * BATCH or documents
    return np.sort(np.random.default_rng(0).permutation(documents)[:number])
