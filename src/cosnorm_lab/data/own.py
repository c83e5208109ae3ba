"""A user's own data: an .npz file, a folder of idx files, or an svmlight file."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cosnorm_lab.data.catalog import MNIST
from cosnorm_lab.data.dataset import Dataset
from cosnorm_lab.data.idx import load_idx
from cosnorm_lab.data.sparse import SparseRows
from cosnorm_lab.errors import LabError

NAME = "own"
TEST_SHARE = 0.2


def load_own(path: Path) -> Dataset:
    """Reads labelled samples.

    * `data.npz` with x (N, …) and y (N,), and perhaps x_test and y_test; bytes (uint8) are pixels, which an
      MLP sees in [0, 1];
    * a folder with the four idx files of MNIST's names, gzipped or not;
    * any other file: svmlight lines `label index:value …`; a file of the same name with ".t" behind it is
      the test.

    Without a test part, a fifth of the samples, drawn once and for all and evenly over the classes, is the
    test. Labels may be any values; they are numbered in their order.

    Raises:
        LabError: the file is missing or damaged, arrays or lines are not what they should be.
    """
    if path.is_dir():
        return replace(load_idx(MNIST, path, allow_checksum_mismatch=True), name=NAME, exact=False)
    if not path.is_file():
        raise LabError(
            f"{path} is not there; name an .npz file, a folder of idx files or an svmlight file "
            "with --data-dir"
        )
    x, y, x_test, y_test = _npz(path) if path.suffix == ".npz" else _svmlight(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if x_test is None:
        from sklearn.model_selection import train_test_split

        try:
            train, test = train_test_split(
                np.arange(len(y)), test_size=TEST_SHARE, random_state=0, stratify=y
            )
        except ValueError as error:
            raise LabError(f"{path} cannot be split into training and test samples: {error}") from error
        train, test = np.sort(train), np.sort(test)
        x, x_test, y, y_test = x[train], x[test], y[train], y[test]
    classes, numbered = np.unique(np.concatenate([y, y_test]), return_inverse=True)
    if len(classes) < 2:
        raise LabError(f"{path} holds one class only; expected at least two")
    return Dataset(
        name=NAME,
        train_images=_samples(x),
        train_labels=torch.from_numpy(numbered[: len(y)].astype(np.int64)),
        test_images=_samples(x_test),
        test_labels=torch.from_numpy(numbered[len(y) :].astype(np.int64)),
        num_classes=len(classes),
        checksums={"file": digest},
        exact=False,
        classes=tuple(str(name) for name in classes),
    )


def _samples(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        if x.dtype == np.uint8:
            return torch.from_numpy(np.ascontiguousarray(x))  # pixels, as those of CIFAR
        return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    return SparseRows(x)


def _npz(path: Path) -> tuple[Any, Any, Any, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("x", "y", "x_test", "y_test") if name in file}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise LabError(f"{path} cannot be read as .npz ({error}); write it with numpy.savez") from error
    if "x" not in arrays or "y" not in arrays or ("x_test" in arrays) != ("y_test" in arrays):
        raise LabError(
            f"{path} holds {', '.join(arrays) or 'none of the arrays'}; expected x and y, and perhaps x_test "
            "and y_test"
        )
    for x, y in (("x", "y"), ("x_test", "y_test")):
        if x not in arrays:
            continue
        if arrays[x].ndim < 2 or arrays[y].shape != arrays[x].shape[:1] or not len(arrays[y]):
            raise LabError(
                f"{path}: expected {x} of shape (N, …) and {y} of shape (N,), "
                f"got {arrays[x].shape} and {arrays[y].shape}"
            )
        if arrays[x].dtype.kind not in "fiub" or not np.isfinite(arrays[x]).all():
            raise LabError(f"{path}: {x} must hold finite numbers, got {arrays[x].dtype}")
    if "x_test" in arrays and arrays["x_test"].shape[1:] != arrays["x"].shape[1:]:
        raise LabError(f"{path}: x and x_test must agree but for their number of samples")
    return arrays["x"], arrays["y"], arrays.get("x_test"), arrays.get("y_test")


def _svmlight(path: Path) -> tuple[Any, Any, Any, Any]:
    from sklearn.datasets import load_svmlight_files

    test = path.with_name(f"{path.name}.t")
    paths = [path, test] if test.is_file() else [path]
    try:
        found = load_svmlight_files([str(one) for one in paths], dtype=np.float32)
    except (ValueError, OSError, UnicodeDecodeError) as error:
        place = _first_wrong_line(paths) or path
        raise LabError(f"{place}: expected `label index:value …` ({error})") from error
    if not len(found[1]):
        raise LabError(f"{path} holds no sample")
    return (*found, None, None) if len(paths) == 1 else tuple(found)


def _first_wrong_line(paths: list[Path]) -> str | None:
    """Where a file stops to be svmlight, as "name, line n"."""
    for path in paths:
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            fields = line.split(b"#")[0].split()
            try:
                for place, text in enumerate(fields):
                    index, colon, value = text.partition(b":")
                    if (place > 0) != bool(colon):
                        raise ValueError
                    float(value if colon else index)
                    if colon and int(index) < 0:
                        raise ValueError
            except ValueError:
                return f"{path}, line {number}"
    return None
