"""A user's samples, from whatever file: labels numbered, numbers checked, parts made, an order given."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from cosnorm_lab.data.dataset import Dataset
from cosnorm_lab.data.pixels import are_pixels, unit_range
from cosnorm_lab.data.sparse import SparseRows
from cosnorm_lab.errors import LabError

TEST_SHARE = 0.2
MOST_CLASSES = 0.5  # of the samples: more are no classes, but numbers
DENSE = 0.3  # of the numbers of sparse rows are not zero: such rows are dense ones
LONGEST_DENSE = 10_000


@dataclass
class Samples:
    """What a reader found.

    Attributes:
        x: (N, …), a NumPy array or a CSR matrix.
        y: labels of any kind, (N,), (N, 1) or one-hot (N, classes).
        x_test: the test part; None: a part of x becomes it.
        y_test: its labels.
        groups: (N,), what must not stand in training and test both; empty: every sample for itself.
        groups_test: the same of the test part.
        classes: names of the classes, if y numbers them already.
        checksums: of the bytes that were read.
        notes: what the user should know.
        place: names the place of a number, by whether it is of the test part, its row and its column.
    """

    x: Any
    y: Any
    x_test: Any = None
    y_test: Any = None
    groups: Any = ()
    groups_test: Any = ()
    classes: tuple[str, ...] = ()
    checksums: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    place: Callable[[bool, int, int], str] = lambda test, row, column: (
        f"{'x_test' if test else 'x'}[{row}, {column}]"
    )


def sha256(*contents: bytes) -> str:
    """Of these bytes, one behind the other."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def to_dataset(samples: Samples, file: str, name: str = "own") -> Dataset:
    """Samples as a data set.

    Without a test part a fifth becomes it: drawn once and for all, evenly over the classes, whole groups
    together. Training samples come in a random order, always the same; the last fifth, which a search holds
    back, is drawn in the same way.

    Args:
        samples: what was found; its notes grow.
        file: what messages and the record call it.
        name: of the data set.

    Raises:
        LabError: shapes that do not fit, numbers that are not finite, labels that are no classes.
    """
    parts = [(samples.x, samples.y, samples.groups)]
    if samples.x_test is not None:
        parts.append((samples.x_test, samples.y_test, samples.groups_test))
    checked = []
    for test, (x, y, groups) in enumerate(parts):
        labels = _labels(y, file, "y_test" if test else "y", samples.notes)
        if x.ndim < 2 or x.shape[0] != len(labels) or not len(labels) or 0 in x.shape[1:]:
            which = "x_test and y_test" if test else "x and y"
            raise LabError(
                f"{file}: expected {which} of shapes (N, …) and (N,), got {tuple(x.shape)} and "
                f"{np.shape(y)}; a row a sample, and a label for each"
            )
        _finite(x, file, bool(test), samples)
        checked.append((_dense(x), labels, np.asarray(groups)))
    if len({labels.dtype.kind in "iub" for _, labels, _ in checked}) > 1:  # 1 and "1" are one class
        checked = [(x, labels.astype(str), groups) for x, labels, groups in checked]
    everything = [labels for _, labels, _ in checked]
    classes = np.unique(np.concatenate(everything))
    _classes(classes, sum(map(len, everything)), file)
    if len(checked) == 2:
        train, test_part = _given(checked, file)
    else:
        train, test_part = _drawn(checked[0], file)
    train, held_back = _ordered(train)
    (x, labels, _), (x_test, labels_test, _) = train, test_part
    unseen = [str(one) for one in np.setdiff1d(labels_test, labels).tolist()]
    if unseen:
        samples.notes.append(f"the test has samples of {', '.join(unseen[:3])}, of which training has none")
    pixels = are_pixels(x)
    if pixels:
        x, x_test = unit_range(x, x_test, samples.notes, file)
    tensors = (_tensor(x), _tensor(x_test))
    checksum = sha256(*_bytes(x), *_bytes(x_test), repr((labels.tolist(), labels_test.tolist())).encode())
    return Dataset(
        name=name,
        train_images=tensors[0],
        train_labels=torch.from_numpy(np.searchsorted(classes, labels)),
        test_images=tensors[1],
        test_labels=torch.from_numpy(np.searchsorted(classes, labels_test)),
        num_classes=len(classes),
        checksums={**samples.checksums, "samples": checksum},
        exact=False,
        classes=samples.classes or tuple(str(one) for one in classes.tolist()),
        file=file,
        pixels=pixels,
        notes=tuple(samples.notes),
        held_back=held_back,
    )


Part = tuple[Any, Any, Any]  # samples, labels, groups


def _labels(y: Any, file: str, name: str, notes: list[str]) -> Any:
    """Labels as one dimension."""
    y = np.asarray(y)
    if y.dtype.kind not in "fiubUSOT" or y.dtype.names:
        raise LabError(f"{file}: {name} must hold numbers or words, got {y.dtype}")
    y = np.char.decode(y, "utf-8", "replace") if y.dtype.kind == "S" else y
    if y.ndim == 2 and y.shape[1] == 1:
        notes.append(f"{name} of shape {y.shape} was taken as ({len(y)},)")
        y = y[:, 0]
    elif y.ndim == 2 and y.dtype.kind in "fiub" and _one_hot(y):
        notes.append(f"{name} of shape {y.shape} is one-hot: the places of the ones are the classes")
        y = y.argmax(axis=1)
    if y.ndim != 1:
        raise LabError(
            f"{file}: expected {name} of shape (N,), (N, 1) or one-hot (N, classes), got {y.shape}; "
            "give one label for each sample"
        )
    if y.dtype.kind == "f":
        if wrong := np.flatnonzero(~np.isfinite(y)).tolist():
            raise LabError(f"{file}: {name}[{wrong[0]}] is {y[wrong[0]]}; give every sample a label")
        if (y == np.rint(y)).all() and (abs(y) < 2**53).all():
            y = y.astype(np.int64)
    if y.dtype.kind == "O":
        y = y.astype(str)
    return y


def _one_hot(y: Any) -> bool:
    return bool(((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all())


def _finite(x: Any, file: str, test: bool, samples: Samples) -> None:
    values = x.data if hasattr(x, "tocsr") else x
    if values.dtype.kind not in "fiub":
        raise LabError(
            f"{file}: {'x_test' if test else 'x'} must hold numbers, got {values.dtype}; "
            "encode words as numbers, or give a CSV"
        )
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return
    if values is not x:  # a sparse matrix
        wrong = np.flatnonzero(~np.isfinite(values))
        row = int(np.searchsorted(x.indptr, wrong[0], side="right")) - 1
        first = (row, int(x.indices[wrong[0]]))
    else:
        wrong = np.argwhere(~np.isfinite(x.reshape(len(x), -1)))
        first = (int(wrong[0][0]), int(wrong[0][1]))
    value = (x[first] if values is not x else x.reshape(len(x), -1)[first]).item()
    more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    raise LabError(
        f"{file}: {samples.place(test, *first)} is {value}{more}; "
        "fill such places in, or leave their rows out"
    )


def _dense(x: Any) -> Any:
    """Sparse rows as dense ones where they are nearly that."""
    if not hasattr(x, "tocsr"):
        return x
    wide = x.shape[1] > LONGEST_DENSE or x.nnz < DENSE * x.shape[0] * x.shape[1]
    return x if wide else np.asarray(x.toarray())


def _given(parts: list[Part], file: str) -> tuple[Part, Part]:
    """Training and test as they came."""
    (x, _, groups), (x_test, _, groups_test) = parts
    if x.shape[1:] != x_test.shape[1:]:
        raise LabError(
            f"{file}: x and x_test must agree but for their number of samples, got {tuple(x.shape)} and "
            f"{tuple(x_test.shape)}"
        )
    if bool(len(groups)) != bool(len(groups_test)):
        raise LabError(f"{file}: groups and groups_test belong together; give both, or none")
    both = sorted(set(map(str, groups.tolist())) & set(map(str, groups_test.tolist())))
    if both:
        raise LabError(
            f"{file}: {len(both)} groups stand in training and test both, such as {both[0]!r}; "
            "move each to one"
        )
    return parts[0], parts[1]


def _split(labels: Any, groups: Any) -> tuple[Any, Any]:
    """Rows to keep, and a fifth of them for another use, evenly over the classes and in whole groups.

    Raises:
        ValueError: there are too few samples of a class, or too few groups.
    """
    from sklearn.model_selection import StratifiedGroupKFold, train_test_split

    rows, parts = np.arange(len(labels)), round(1 / TEST_SHARE)
    if not len(groups):
        return tuple(train_test_split(rows, test_size=TEST_SHARE, random_state=0, stratify=labels))
    if (found := len(np.unique(groups))) < parts:
        raise ValueError(f"expected at least {parts} groups, got {found}")
    return next(StratifiedGroupKFold(parts, shuffle=True, random_state=0).split(rows, labels, groups))


def _of(part: Part, rows: Any) -> Part:
    x, labels, groups = part
    return x[rows], labels[rows], groups[rows] if len(groups) else groups


def _drawn(part: Part, file: str) -> tuple[Part, Part]:
    """Training and test of what came as one."""
    names, counts = np.unique(part[1], return_counts=True)
    if counts.min() < 2:
        raise LabError(
            f"{file} cannot be split into training and test samples: of {names[counts.argmin()]} there is "
            "one sample only; leave that class out, or give a test part of your own"
        )
    try:
        train, test = _split(*part[1:])
    except ValueError as error:
        raise LabError(
            f"{file} cannot be split into training and test samples: {error}; give a test part of your own"
        ) from error
    return _of(part, np.sort(train)), _of(part, np.sort(test))


def _ordered(part: Part) -> tuple[Part, int]:
    """Training samples in a random order, those that a search should hold back last, and their number."""
    random = np.random.default_rng(0)
    try:
        kept, held_back = _split(*part[1:])
    except ValueError:  # too few for an even choice
        rows = random.permutation(len(part[1]))
        kept, held_back = np.split(rows, [len(rows) - max(1, round(TEST_SHARE * len(rows)))])
    rows = np.concatenate([random.permutation(kept), random.permutation(held_back)])
    return _of(part, rows), len(held_back)


def _classes(classes: Any, count: int, file: str) -> None:
    if len(classes) < 2:
        raise LabError(f"{file} holds one class only, {classes[0]}; expected at least two")
    if len(classes) > max(2, MOST_CLASSES * count) or classes.dtype.kind == "f":
        raise LabError(
            f"{file}: the labels have {len(classes):,} different values among {count:,} samples, such as "
            f"{classes[0]} and {classes[-1]}; expected classes. Is that the right column or array?"
        )


def _tensor(x: Any) -> Any:
    if hasattr(x, "tocsr"):
        return SparseRows(x.astype(np.float32))
    # Features keep their digits until they are standardized: float32 cannot tell seconds of a year apart.
    kept = x.dtype if x.dtype in (np.uint8, np.float32) else np.float64
    return torch.from_numpy(np.ascontiguousarray(x, dtype=kept))


def _bytes(x: Any) -> list[bytes]:
    """Everything that an array or a sparse matrix is made of."""
    arrays = (x.data, x.indices, x.indptr) if hasattr(x, "tocsr") else (x,)
    return [
        f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes() for array in arrays
    ]
