"""NumPy's arrays: an .npz file, or a folder of .npy files."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from cosnorm_lab.data.samples import Samples, sha256
from cosnorm_lab.errors import LabError

# What each array may be called, in capitals or not.
NAMES = {
    "x": ("x", "x_train", "train_x", "data", "features", "images", "train_images", "train_data"),
    "y": ("y", "y_train", "train_y", "labels", "target", "targets", "train_labels"),
    "x_test": ("x_test", "test_x", "test_images", "test_data"),
    "y_test": ("y_test", "test_y", "test_labels"),
    "groups": ("groups", "groups_train"),
    "groups_test": ("groups_test",),
}
WANTED = "expected x and y, and perhaps x_test and y_test (or X_train, y_train, X_test, y_test)"


def are_in(folder: Path) -> bool:
    """Whether a folder holds .npy files."""
    return any(path.suffix.lower() == ".npy" for path in folder.iterdir())


def read_npz(path: Path) -> Samples:
    """The arrays of an .npz file.

    Raises:
        LabError: the file is damaged or holds other arrays.
    """
    if path.suffix.lower() == ".npy":
        raise LabError(f"{path} is one array; {WANTED}: name the folder that holds x.npy and y.npy")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise LabError(f"{path} cannot be read as .npz ({error}); write it with numpy.savez") from error
    return _samples(arrays, path, {"file": sha256(path.read_bytes())})


def read_npy(folder: Path) -> Samples:
    """The .npy files of a folder.

    Raises:
        LabError: a file is damaged, or there are others than expected.
    """
    arrays, checksums = {}, {}
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() == ".npy"):
        try:
            arrays[path.stem] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise LabError(f"{path} cannot be read as .npy ({error}); write it with numpy.save") from error
        checksums[path.name] = sha256(path.read_bytes())
    return _samples(arrays, folder, checksums)


def _samples(arrays: dict[str, Any], path: Path, checksums: dict[str, str]) -> Samples:
    found: dict[str, Any] = {}
    for role, names in NAMES.items():
        mine = [name for name in arrays if name.lower() in names]
        if len(mine) > 1:
            raise LabError(f"{path} holds {' and '.join(mine)}, which say the same; leave one")
        if mine:
            found[role] = arrays[mine[0]]
    lonely = "groups_test" in found and "y_test" not in found
    if lonely or "x" not in found or "y" not in found or ("x_test" in found) != ("y_test" in found):
        raise LabError(f"{path} holds {', '.join(arrays) or 'no array'}; {WANTED}")
    for role in ("groups", "groups_test"):
        of = found["y" if role == "groups" else "y_test"] if role in found else ()
        if role in found and np.shape(found[role]) != (len(of),):
            raise LabError(
                f"{path}: expected {role} of shape ({len(of)},), a value for each sample, got "
                f"{np.shape(found[role])}"
            )
    notes = []
    others = [name for name in arrays if not any(arrays[name] is one for one in found.values())]
    if others:
        notes.append(f"not read: {', '.join(others)}")
    return Samples(**found, checksums=checksums, notes=notes)
