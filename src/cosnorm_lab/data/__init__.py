"""Data sets as tensors: what is known (`catalog`), how files are read (`idx`) and fetched (`download`)."""

from pathlib import Path

from cosnorm_lab.data.dataset import COARSE, Dataset, default_folder
from cosnorm_lab.errors import LabError

__all__ = ["COARSE", "Dataset", "default_folder", "load"]


def load(
    dataset: str,
    data_dir: str | Path | None = None,
    *,
    allow_checksum_mismatch: bool = False,
    label: str = "",
    group_by: str = "",
    size: int = 0,
) -> Dataset:
    """Reads a data set.

    Args:
        dataset: name of the data set: of `cosnorm_lab.data.catalog`; "cifar100-coarse" is CIFAR-100 with its
            20 coarse classes.
        data_dir: folder with its files, gzipped or not; by default where `cosnorm fetch` puts them. For
            "faces" a folder of images for each class; by default pictures that the laboratory draws.
        allow_checksum_mismatch: accept files other than the official ones; `Dataset.exact` tells.
        label: of own data, see `cosnorm_lab.data.own.Reading`, as are the next two.
        group_by: of own data and of the pictures of "faces".
        size: the same.

    Raises:
        LabError: unknown name; an option that the data do not take; a file is missing, damaged, or not the
            official one.
    """
    if (label and dataset != "own") or (
        (group_by or size) and (dataset not in ("own", "faces") or not data_dir)
    ):
        raise LabError(
            f"--label is of own tables, --group-by and --image-size of own data and pictures (--data-dir); "
            f"{dataset} takes none of those given"
        )
    if dataset == "digits":
        from cosnorm_lab.data.digits import load_digits

        return load_digits()
    if dataset == "faces":
        if data_dir is None:
            from cosnorm_lab.data.drawn_faces import load_drawn_faces

            return load_drawn_faces()
        from cosnorm_lab.data.folders import SIZE, load_folders

        return load_folders(dataset, Path(data_dir), size=size or SIZE, group_by=group_by)
    if dataset == "own":
        from cosnorm_lab.data.own import FORMS, Reading, load_own

        if data_dir is None:
            raise LabError(f"own data need --data-dir: {FORMS}")
        return load_own(Path(data_dir), Reading(label, group_by, size))
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
    if dataset == "tinyshakespeare":
        from cosnorm_lab.data.text import load_shakespeare

        return load_shakespeare(folder, allow_checksum_mismatch=allow_checksum_mismatch)
    if dataset == "20news":
        from cosnorm_lab.data.newsgroups import load_newsgroups

        return load_newsgroups(folder, allow_checksum_mismatch=allow_checksum_mismatch)
    from cosnorm_lab.data.catalog import find
    from cosnorm_lab.data.idx import load_idx

    files = find(dataset)
    return load_idx(files, folder, allow_checksum_mismatch=allow_checksum_mismatch)
