"""The idx format of MNIST: a magic number, the sizes of the axes, then bytes."""

import gzip
import hashlib
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cosnorm_lab.data.catalog import DataFiles
from cosnorm_lab.data.dataset import Dataset
from cosnorm_lab.data.samples import Samples
from cosnorm_lab.errors import LabError


def load_idx(files: DataFiles, folder: Path, *, allow_checksum_mismatch: bool = False) -> Dataset:
    """Reads the four files of a data set from a folder, gzipped or not.

    Raises:
        LabError: a file is missing, damaged, does not fit the others, or is not the official one.
    """
    arrays: dict[str, Tensor] = {}
    checksums: dict[str, str] = {}
    exact = True
    for part, file in files.parts.items():
        path = locate(folder, file.name)
        data = read_bytes(path)
        axes = 3 if part.endswith("images") else 1
        arrays[part] = parse(data, axes, path)
        checksums[part] = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if checksums[part] != file.md5:
            exact = False
            if not allow_checksum_mismatch:
                raise LabError(
                    f"{path} is not the official file: expected md5 {file.md5} of the unpacked bytes, "
                    f"got {checksums[part]}. Fetch the official one (`cosnorm fetch {files.name}`), "
                    "or go on with --allow-checksum-mismatch; the record will say so"
                )
    for split in ("train", "test"):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        path = locate(folder, files.parts[f"{split}_labels"].name)
        if len(images) != len(labels):
            raise LabError(
                f"{path} holds {len(labels)} labels but {files.parts[f'{split}_images'].name} holds "
                f"{len(images)} images; expected as many labels as images"
            )
        if len(labels) and int(labels.max()) >= files.num_classes:
            raise LabError(
                f"{path} holds the label {int(labels.max())}; "
                f"expected labels from 0 to {files.num_classes - 1}"
            )
    if arrays["train_images"].shape[1:] != arrays["test_images"].shape[1:]:
        raise LabError(
            f"{folder}: training images are {_size(arrays['train_images'])}, test images "
            f"{_size(arrays['test_images'])}; expected the same size"
        )
    return Dataset(
        name=files.name,
        train_images=arrays["train_images"].float() / 255,
        train_labels=arrays["train_labels"].long(),
        test_images=arrays["test_images"].float() / 255,
        test_labels=arrays["test_labels"].long(),
        num_classes=files.num_classes,
        checksums=checksums,
        exact=exact,
    )


PARTS = {
    "train_images": re.compile(r"train.*(images|idx3)", re.IGNORECASE),
    "train_labels": re.compile(r"train.*(labels|idx1)", re.IGNORECASE),
    "test_images": re.compile(r"(test|t10k).*(images|idx3)", re.IGNORECASE),
    "test_labels": re.compile(r"(test|t10k).*(labels|idx1)", re.IGNORECASE),
}


def are_in(folder: Path) -> bool:
    """Whether a folder holds idx files by their names."""
    return any(re.search(r"idx\d|-ubyte", path.name) for path in folder.iterdir() if path.is_file())


def read_own(folder: Path) -> Samples:
    """The four idx files of a folder, of any classes, whatever stands around "train" in their names.

    Raises:
        LabError: a file is missing, stands there twice, is damaged or does not fit the others.
    """
    arrays, checksums = {}, {}
    for part, pattern in PARTS.items():
        found = [path for path in sorted(folder.iterdir()) if path.is_file() and pattern.search(path.name)]
        plain = {
            path.name.removesuffix(".gz"): path for path in reversed(found)
        }  # the unpacked one comes first
        if len(plain) != 1:
            names = f"holds {', '.join(sorted(plain))}" if plain else "holds none"
            raise LabError(
                f"{folder}: expected one idx file of {part.replace('_', ' ')}, but it {names}; give the four "
                "files of one set, such as emnist-letters-train-images-idx3-ubyte, a folder of their own"
            )
        path = next(iter(plain.values()))
        data = read_bytes(path)
        arrays[part] = parse(data, 3 if part.endswith("images") else 1, path).numpy()
        checksums[part] = hashlib.sha256(data).hexdigest()
    return Samples(
        arrays["train_images"],
        arrays["train_labels"],
        arrays["test_images"],
        arrays["test_labels"],
        checksums=checksums,
    )


def locate(folder: Path, name: str) -> Path:
    """The file itself, or the file with ".gz" behind its name.

    Raises:
        LabError: neither is there.
    """
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise LabError(
        f"{folder / name} is missing, and so is {name}.gz; fetch the data (`cosnorm fetch`), "
        "or name the folder that holds them with --data-dir"
    )


def read_bytes(path: Path) -> bytes:
    """The unpacked bytes of a file; whether it is packed is seen from its first two bytes.

    Raises:
        LabError: the file cannot be read, or its packing is damaged.
    """
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise LabError(f"{path} is truncated or damaged ({error}); fetch it again") from error
    except OSError as error:
        raise LabError(f"cannot read {path}: {error.strerror}") from error


def parse(data: bytes, axes: int, path: Path) -> Tensor:
    """Bytes of an idx file → uint8 tensor of that many axes.

    Args:
        data: the unpacked bytes.
        axes: 3 for images, 1 for labels.
        path: the file's name, for messages.

    Raises:
        LabError: wrong magic number, or fewer or more bytes than the header promises.
    """
    header = 4 + 4 * axes
    magic = 0x0800 + axes  # 08: unsigned bytes
    if len(data) < 4:
        raise LabError(f"{path} is truncated: expected a header of {header} bytes, got {len(data)} bytes")
    (found,) = struct.unpack(">I", data[:4])
    if found != magic:
        raise LabError(
            f"{path} is no idx file of bytes with {axes} axes: expected magic number {magic}, got {found}"
        )
    if len(data) < header:
        raise LabError(f"{path} is truncated: expected a header of {header} bytes, got {len(data)} bytes")
    shape = struct.unpack(f">{axes}I", data[4:header])
    expected = header + math.prod(shape)
    if len(data) != expected:
        fault = "truncated" if len(data) < expected else "too long"
        raise LabError(
            f"{path} is {fault}: its header promises {_size(shape)} and so {expected} bytes, got {len(data)}"
        )
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape).copy())


def _size(shape: "Tensor | tuple[int, ...]") -> str:
    sizes = shape.shape[1:] if isinstance(shape, Tensor) else shape
    return "x".join(map(str, sizes))
