"""CIFAR's binary layouts, and what the images go through, on files that the test writes."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from cosnorm_lab.augmentation import augmented, middle, whitened
from cosnorm_lab.data import load
from cosnorm_lab.data.catalog import CIFAR10, CIFAR100
from cosnorm_lab.errors import LabError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def content(count: int, label_bytes: int, seed: int) -> bytes:
    generator = np.random.default_rng(seed)
    records = generator.integers(0, 256, (count, label_bytes + 3072), dtype=np.uint8)
    records[:, :label_bytes] = np.arange(count)[:, None] % 10
    if label_bytes == 2:
        records[:, 1] = np.arange(count) % 100
    return records.tobytes()


@pytest.fixture
def cifar10(tmp_path) -> Path:
    for number, name in enumerate(CIFAR10.members):
        (tmp_path / name).write_bytes(content(20, 1, number))
    return tmp_path


@pytest.fixture
def cifar100(tmp_path) -> Path:
    for number, name in enumerate(CIFAR100.members):
        (tmp_path / name).write_bytes(content(120, 2, number))
    return tmp_path


def test_cifar10(cifar10):
    data = load("cifar10", cifar10, allow_checksum_mismatch=True)
    assert data.train_images.shape == (100, 3, 32, 32)
    assert data.test_images.shape == (20, 3, 32, 32)
    assert data.train_images.dtype == torch.uint8
    assert data.train_labels.tolist() == [number % 10 for _ in range(5) for number in range(20)]
    third = np.frombuffer((cifar10 / "data_batch_2.bin").read_bytes(), np.uint8).reshape(20, 3073)[3]
    assert data.train_images[23, 1, 2, 5] == third[1 + 1024 + 2 * 32 + 5]  # planes, row by row
    assert (data.num_classes, data.exact) == (10, False)


def test_cifar100_has_fine_and_coarse_labels(cifar100):
    from cosnorm_lab.data.cifar import load_cifar100

    fine = load("cifar100", cifar100, allow_checksum_mismatch=True)
    assert fine.train_labels.tolist() == [number % 100 for number in range(120)]
    assert (fine.num_classes, fine.exact) == (100, False)
    coarse = load_cifar100(cifar100, coarse=True, allow_checksum_mismatch=True)
    assert coarse.name == "cifar100-coarse"
    assert torch.equal(
        coarse.test_labels, load("cifar100-coarse", cifar100, allow_checksum_mismatch=True).test_labels
    )
    assert coarse.train_labels.tolist() == [number % 10 for number in range(120)]
    assert coarse.num_classes == 20
    assert torch.equal(coarse.train_images, fine.train_images)


def pack(folder: Path, archive, truncate: bool = False) -> Path:
    """The files as the packed archive, in a folder of its own."""
    out = folder / "packed"
    out.mkdir()
    with tarfile.open(out / archive.file, "w:gz") as tar:
        for name in archive.members:
            data = (folder / name).read_bytes()
            member = tarfile.TarInfo(f"{archive.inside}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    if truncate:
        whole = (out / archive.file).read_bytes()
        (out / archive.file).write_bytes(whole[: len(whole) // 2])
    return out


def test_the_packed_archive_and_the_unpacked_folder_are_the_same(cifar10, tmp_path):
    plain = load("cifar10", cifar10, allow_checksum_mismatch=True)
    packed = load("cifar10", pack(cifar10, CIFAR10), allow_checksum_mismatch=True)
    inner = tmp_path / "outer" / CIFAR10.inside
    inner.mkdir(parents=True)
    for name in CIFAR10.members:
        (cifar10 / name).rename(inner / name)
    unpacked = load("cifar10", inner.parent, allow_checksum_mismatch=True)
    assert plain.checksums == packed.checksums == unpacked.checksums
    assert torch.equal(plain.test_images, packed.test_images)


def test_a_truncated_archive(cifar10):
    with pytest.raises(LabError, match=r"cifar-10-binary.tar.gz is truncated or damaged"):
        load("cifar10", pack(cifar10, CIFAR10, truncate=True), allow_checksum_mismatch=True)


def test_other_files_than_the_official_ones_are_refused(cifar10):
    with pytest.raises(LabError, match=r"data_batch_1.bin is not the official file: expected md5 5dd7e06a"):
        load("cifar10", cifar10)


def test_missing_files(cifar10, tmp_path):
    (cifar10 / "data_batch_4.bin").unlink()
    with pytest.raises(LabError, match=r"holds data_batch_1.bin but not data_batch_4.bin"):
        load("cifar10", cifar10, allow_checksum_mismatch=True)
    with pytest.raises(LabError, match=r"holds neither cifar-100-binary.tar.gz nor its files"):
        load("cifar100", tmp_path)


@pytest.mark.parametrize("data", [b"", b"1" * 3072, content(2, 1, 0)[:-1]])
def test_wrong_sizes(cifar10, data):
    (cifar10 / "test_batch.bin").write_bytes(data)
    with pytest.raises(LabError, match=r"test_batch.bin has \d+ bytes; expected a multiple of 3073"):
        load("cifar10", cifar10, allow_checksum_mismatch=True)


def test_wrong_labels(cifar10):
    broken = bytearray((cifar10 / "data_batch_3.bin").read_bytes())
    broken[3073 * 7] = 10
    (cifar10 / "data_batch_3.bin").write_bytes(broken)
    with pytest.raises(LabError, match=r"data_batch_3.bin, image 8: expected a label from 0 to 9, got 10"):
        load("cifar10", cifar10, allow_checksum_mismatch=True)


def images(count: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)


def test_the_middle_is_whitened():
    found = middle(images())
    crops = images()[:, :, 4:28, 4:28].double()
    for number, crop in enumerate(crops):
        torch.testing.assert_close(
            found[number].double(), (crop - crop.mean()) / crop.std(correction=0), atol=1e-5, rtol=0
        )
    flat = torch.full((1, 3, 32, 32), 7, dtype=torch.uint8)
    assert middle(flat).eq(0).all()  # no division by the deviation 0


@pytest.mark.parametrize(("crop", "side"), [(24, 24), (10, 10), (31, 31), (0, 32)])
def test_crops_of_other_sizes(crop, side):
    whole = images()
    expected = middle(whole, crop)
    top = (32 - side) // 2
    assert torch.equal(expected, whitened(whole[:, :, top : top + side, top : top + side].float()))
    assert augmented(whole, torch.Generator().manual_seed(0), crop).shape == (6, 3, side, side)


def test_augmented_images_are_crops_mirrored_shifted_and_stretched():
    batch = images(40)
    found = augmented(batch, torch.Generator().manual_seed(1)).double()
    # Brightness adds to all channels, contrast acts on each: correlation 1 with the crop, in each channel.
    crops = batch.double()[:, 0].unfold(1, 24, 1).unfold(2, 24, 1)  # image, top, left, 24, 24
    crops = torch.stack([crops, crops.flip(4)], dim=1).flatten(4)
    views = found[:, 0].flatten(1)
    crops, views = (rows - rows.mean(-1, keepdim=True) for rows in (crops, views))
    products = torch.einsum("nftlp,np->nftl", crops, views)
    correlation = products / crops.norm(dim=-1) / views.norm(dim=-1)[:, None, None, None]
    image, mirrored, top, left = (correlation > 0.999).nonzero().T
    assert image.tolist() == list(range(40))
    assert len(set(zip(top.tolist(), left.tolist(), strict=True))) > 20
    assert 8 < mirrored.sum() < 32
    torch.testing.assert_close(found.mean(dim=(1, 2, 3)), torch.zeros(40).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        found.std(dim=(1, 2, 3), correction=0), torch.ones(40).double(), atol=1e-4, rtol=0
    )


def test_augmentation_follows_from_its_generator():
    one, two, other = (augmented(images(), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_whitened_tiny_deviations_are_bounded():
    image = torch.full((1, 3, 24, 24), 5.0)
    image[0, 0, 0, 0] += 1e-6
    assert whitened(image).abs().max() < 1


@pytest.mark.skipif(not (SHARED / "unpack_cifar.py").exists(), reason="the shared data are not here")
def test_the_real_files(tmp_path):
    import subprocess
    import sys

    subprocess.run([sys.executable, str(SHARED / "unpack_cifar.py"), str(tmp_path)], check=True)
    data = load("cifar10", tmp_path)
    assert data.exact
    assert data.train_labels.bincount().tolist() == [5000] * 10
    assert data.train_labels[:5].tolist() == [6, 9, 9, 4, 1]
    data = load("cifar100", tmp_path)
    assert not data.exact  # the order is not the official one
    assert data.train_labels.bincount().tolist() == [500] * 100
