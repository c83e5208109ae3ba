"""SVHN's MATLAB files, written by the test in the official form."""

import io
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

from cosnorm_lab.data import load
from cosnorm_lab.errors import LabError


def content(count: int, seed: int = 0, **changes) -> bytes:
    generator = np.random.default_rng(seed)
    arrays = {
        "X": generator.integers(0, 256, (32, 32, 3, count), dtype=np.uint8),
        "y": (np.arange(count, dtype=np.uint8) % 10 + 1)[:, None],
    }
    arrays |= changes
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {name: array for name, array in arrays.items() if array is not None})
    return buffer.getvalue()


@pytest.fixture
def svhn(tmp_path) -> Path:
    (tmp_path / "train_32x32.mat").write_bytes(content(25))
    (tmp_path / "test_32x32.mat").write_bytes(content(12, 1))
    return tmp_path


def test_images_and_labels(svhn):
    data = load("svhn", svhn, allow_checksum_mismatch=True)
    assert (data.train_images.shape, data.test_images.shape) == ((25, 3, 32, 32), (12, 3, 32, 32))
    assert data.train_labels[:11].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]  # label 10 is the digit 0
    arrays = scipy.io.loadmat(svhn / "train_32x32.mat")
    assert torch.equal(data.train_images[7, 2], torch.from_numpy(arrays["X"][:, :, 2, 7].copy()))
    assert (data.train_images.dtype, data.num_classes, data.exact) == (torch.uint8, 10, False)
    with pytest.raises(LabError, match=r"train_32x32.mat is not the official file: expected md5 e26dedcc"):
        load("svhn", svhn)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no MATLAB file, or damaged"),
        (b"no matlab" * 100, "is no MATLAB file, or damaged"),
        (content(40)[:-2000], "is no MATLAB file, or damaged"),
        (content(5, X=None), "must hold the arrays X and y"),
        (content(5, y=None), "must hold the arrays X and y"),
        (content(5, y=np.ones((4, 1))), r"expected X of bytes and shape \(32, 32, 3, 4\)"),
        (content(5, X=np.zeros((32, 32, 3, 5))), "expected X of bytes .*got float64"),
        (
            content(5, y=np.array([[1], [2], [11], [3], [4]])),
            "image 3: expected a label from 1 to 10, got 11",
        ),
        (content(5, y=np.array([[1], [0], [1], [3], [4]])), "image 2: expected a label from 1 to 10, got 0"),
    ],
    ids=range(9),
)
def test_broken_files_are_named(svhn, data, message):
    (svhn / "test_32x32.mat").write_bytes(data)
    with pytest.raises(LabError, match=f"test_32x32.mat.*{message}"):
        load("svhn", svhn, allow_checksum_mismatch=True)


def test_missing_files(svhn, tmp_path):
    (svhn / "test_32x32.mat").unlink()
    with pytest.raises(LabError, match=r"holds train_32x32.mat but not test_32x32.mat"):
        load("svhn", svhn)
    with pytest.raises(LabError, match=r"holds no train_32x32.mat, test_32x32.mat; fetch the data"):
        load("svhn", tmp_path / "elsewhere")
