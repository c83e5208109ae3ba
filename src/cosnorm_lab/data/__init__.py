"""Data sets as tensors: what is known (`catalog`), how files are read (`idx`) and fetched (`download`)."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True)
class Dataset:
    """A data set, whole, as tensors.

    Attributes:
        name: name of the data set.
        train_images: float32 in [0, 1], (N, ...); the networks flatten all but the first axis.
        train_labels: int64, (N,), from 0 to num_classes - 1.
        test_images: like train_images.
        test_labels: like train_labels.
        num_classes: number of classes.
        checksums: hash of each part; they go into the record.
        exact: whether the checksums are the official ones.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    num_classes: int
    checksums: dict[str, str]
    exact: bool


def default_folder(dataset: str) -> Path:
    """Where `cosnorm fetch` puts a data set: the user's cache folder of this platform."""
    import pooch

    return Path(pooch.os_cache("cosnorm")) / dataset


def load(
    dataset: str, data_dir: str | Path | None = None, *, allow_checksum_mismatch: bool = False
) -> Dataset:
    """Reads a data set.

    Args:
        dataset: name of the data set: "mnist" or "digits".
        data_dir: folder with its files, gzipped or not; by default where `cosnorm fetch` puts them.
        allow_checksum_mismatch: accept files other than the official ones; `Dataset.exact` tells.

    Raises:
        LabError: unknown name; a file is missing, damaged, or not the official one.
    """
    if dataset == "digits":
        from cosnorm_lab.data.digits import load_digits

        return load_digits()
    from cosnorm_lab.data.catalog import find
    from cosnorm_lab.data.idx import load_idx

    files = find(dataset)
    folder = Path(data_dir) if data_dir is not None else default_folder(dataset)
    return load_idx(files, folder, allow_checksum_mismatch=allow_checksum_mismatch)
