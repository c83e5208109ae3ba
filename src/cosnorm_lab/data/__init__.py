"""Data sets as tensors: what is known (`catalog`), how files are read (`idx`) and fetched (`download`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cosnorm_lab.errors import LabError

COARSE = "cifar100-coarse"


@dataclass(frozen=True)
class Dataset:
    """A data set, whole, as tensors.

    Attributes:
        name: name of the data set.
        train_images: what is classified, (N, ...): float32 in [0, 1], or uint8 pixels for the convolutional
            networks of colour images, or sparse rows.
        train_labels: int64, (N,), from 0 to num_classes - 1.
        test_images: like train_images.
        test_labels: like train_labels.
        num_classes: number of classes.
        checksums: hash of each part; they go into the record.
        exact: whether the checksums are the official ones.
        classes: names of the classes, where they have any.
        drawn: whether the pictures were drawn by the laboratory, as a stand-in; the record says so.
    """

    name: str
    train_images: Any
    train_labels: Tensor
    test_images: Any
    test_labels: Tensor
    num_classes: int
    checksums: dict[str, str]
    exact: bool
    classes: tuple[str, ...] = ()
    drawn: bool = False


def default_folder(dataset: str) -> Path:
    """Where `cosnorm fetch` puts a data set: the user's cache folder of this platform."""
    import pooch

    return Path(pooch.os_cache("cosnorm")) / dataset


def load(
    dataset: str, data_dir: str | Path | None = None, *, allow_checksum_mismatch: bool = False
) -> Dataset:
    """Reads a data set.

    Args:
        dataset: name of the data set: of `cosnorm_lab.data.catalog`; "cifar100-coarse" is CIFAR-100 with its
            20 coarse classes.
        data_dir: folder with its files, gzipped or not; by default where `cosnorm fetch` puts them. For
            "faces" a folder of images for each class; by default pictures that the laboratory draws.
        allow_checksum_mismatch: accept files other than the official ones; `Dataset.exact` tells.

    Raises:
        LabError: unknown name; a file is missing, damaged, or not the official one.
    """
    if dataset == "digits":
        from cosnorm_lab.data.digits import load_digits

        return load_digits()
    if dataset == "faces":
        if data_dir is None:
            from cosnorm_lab.data.drawn_faces import load_drawn_faces

            return load_drawn_faces()
        from cosnorm_lab.data.folders import load_folders

        return load_folders(dataset, Path(data_dir))
    if dataset == "own":
        from cosnorm_lab.data.own import load_own

        if data_dir is None:
            raise LabError(
                "own data need --data-dir: an .npz file with x and y, a folder of idx files, or an svmlight "
                "file"
            )
        return load_own(Path(data_dir))
    folder = (
        Path(data_dir)
        if data_dir is not None
        else default_folder("cifar100" if dataset == COARSE else dataset)
    )
    if dataset in ("cifar10", "cifar100", COARSE):
        from cosnorm_lab.data.cifar import load_cifar10, load_cifar100

        if dataset == "cifar10":
            return load_cifar10(folder, allow_checksum_mismatch=allow_checksum_mismatch)
        coarse = dataset == COARSE
        return load_cifar100(folder, coarse=coarse, allow_checksum_mismatch=allow_checksum_mismatch)
    if dataset == "svhn":
        from cosnorm_lab.data.svhn import load_svhn

        return load_svhn(folder, allow_checksum_mismatch=allow_checksum_mismatch)
    if dataset == "20news":
        from cosnorm_lab.data.newsgroups import load_newsgroups

        return load_newsgroups(folder, allow_checksum_mismatch=allow_checksum_mismatch)
    from cosnorm_lab.data.catalog import find
    from cosnorm_lab.data.idx import load_idx

    files = find(dataset)
    return load_idx(files, folder, allow_checksum_mismatch=allow_checksum_mismatch)
