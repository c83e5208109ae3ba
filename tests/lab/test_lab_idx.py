import struct

import numpy as np
import pytest
import torch
from lab_data import idx_bytes, made_arrays

from cosnorm_lab import data
from cosnorm_lab.data.catalog import MNIST
from cosnorm_lab.data.idx import parse
from cosnorm_lab.errors import LabError

TRAIN_IMAGES = MNIST.parts["train_images"].name
TRAIN_LABELS = MNIST.parts["train_labels"].name


@pytest.mark.parametrize("packed", [False, True])
def test_reads_what_was_written(write_idx, packed):
    dataset = data.load("mnist", write_idx(packed), allow_checksum_mismatch=True)
    arrays = made_arrays()
    for part in ("train_images", "test_images"):
        tensor = getattr(dataset, part)
        assert tensor.dtype == torch.float32
        np.testing.assert_array_equal(np.rint(tensor.numpy() * 255), arrays[part])
        assert 0 <= tensor.min() < tensor.max() <= 1
    for part in ("train_labels", "test_labels"):
        assert getattr(dataset, part).dtype == torch.int64
        np.testing.assert_array_equal(getattr(dataset, part).numpy(), arrays[part])
    assert dataset.num_classes == 10
    assert not dataset.exact


def test_checksums_are_of_the_unpacked_bytes(write_idx):
    plain = data.load("mnist", write_idx(False), allow_checksum_mismatch=True).checksums
    folder = write_idx(True)
    for file in MNIST.parts.values():
        (folder / file.name).unlink()
    assert data.load("mnist", folder, allow_checksum_mismatch=True).checksums == plain
    assert set(plain) == set(MNIST.parts)


def test_wrong_checksum_says_how_to_go_on(write_idx):
    with pytest.raises(LabError, match=f"{TRAIN_IMAGES} is not the official.*--allow-checksum-mismatch"):
        data.load("mnist", write_idx())


def test_missing_file(write_idx):
    folder = write_idx()
    (folder / TRAIN_LABELS).unlink()
    with pytest.raises(LabError, match=f"{TRAIN_LABELS} is missing.*cosnorm fetch.*--data-dir"):
        data.load("mnist", folder, allow_checksum_mismatch=True)


@pytest.mark.parametrize("kept", [0, 3, 10, 500])
def test_truncated_file(write_idx, kept):
    folder = write_idx()
    path = folder / TRAIN_IMAGES
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(LabError, match=f"{TRAIN_IMAGES} is truncated: .* got {kept}"):
        data.load("mnist", folder, allow_checksum_mismatch=True)


def test_too_long_file(write_idx):
    folder = write_idx()
    with (folder / TRAIN_LABELS).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(LabError, match=f"{TRAIN_LABELS} is too long"):
        data.load("mnist", folder, allow_checksum_mismatch=True)


@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b[:30] + b"\xff" * 40 + b[70:]])
def test_damaged_gzip(write_idx, damage):
    folder = write_idx(packed=True)
    path = folder / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(LabError, match=rf"{TRAIN_IMAGES}\.gz is truncated or damaged"):
        data.load("mnist", folder, allow_checksum_mismatch=True)


def test_wrong_magic(write_idx):
    folder = write_idx()
    (folder / TRAIN_IMAGES).write_bytes((folder / TRAIN_LABELS).read_bytes())
    with pytest.raises(LabError, match=f"{TRAIN_IMAGES}.*expected magic number 2051, got 2049"):
        data.load("mnist", folder, allow_checksum_mismatch=True)


def test_label_out_of_range(write_idx):
    labels = made_arrays()["train_labels"].copy()
    labels[5] = 10
    folder = write_idx(train_labels=labels)
    with pytest.raises(LabError, match=f"{TRAIN_LABELS} holds the label 10; expected labels from 0 to 9"):
        data.load("mnist", folder, allow_checksum_mismatch=True)


def test_count_mismatch(write_idx):
    folder = write_idx(train_labels=made_arrays()["train_labels"][:-1])
    with pytest.raises(LabError, match=f"{TRAIN_LABELS} holds 63 labels but {TRAIN_IMAGES} holds 64 images"):
        data.load("mnist", folder, allow_checksum_mismatch=True)


def test_sizes_of_the_two_parts_differ(write_idx):
    folder = write_idx(test_images=np.zeros((32, 8, 9), np.uint8))
    with pytest.raises(LabError, match="8x8, test images 8x9"):
        data.load("mnist", folder, allow_checksum_mismatch=True)


def test_unreadable_file(tmp_path):
    for file in MNIST.parts.values():
        (tmp_path / file.name).mkdir()
    with pytest.raises(LabError, match=f"{TRAIN_IMAGES} is missing"):
        data.load("mnist", tmp_path)


def test_unknown_data_set(tmp_path):
    with pytest.raises(
        LabError, match="unknown data set 'mnits'; known are mnist, cifar10, cifar100, svhn, 20news"
    ):
        data.load("mnits", tmp_path)


def test_parse_agrees_with_a_hand_written_file(tmp_path):
    raw = b"\x00\x00\x08\x03" + struct.pack(">III", 2, 1, 3) + bytes([1, 2, 3, 4, 5, 255])
    assert parse(raw, 3, tmp_path).tolist() == [[[1, 2, 3]], [[4, 5, 255]]]
    assert idx_bytes(np.array([[[1, 2, 3]], [[4, 5, 255]]], np.uint8)) == raw


def test_the_real_files_if_they_are_here(request):
    folder = request.config.rootpath.parent / "shared" / "data" / "mnist"
    if not folder.is_dir():
        pytest.skip(f"the real MNIST is not at {folder}")
    dataset = data.load("mnist", folder)
    assert dataset.exact
    assert dataset.train_images.shape == (60000, 28, 28)
    assert dataset.test_labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
