"""A user's own data: which reader a file or folder is for."""

from dataclasses import dataclass, replace
from pathlib import Path

from cosnorm_lab.data.dataset import Dataset
from cosnorm_lab.data.samples import to_dataset
from cosnorm_lab.errors import LabError

FORMS = (
    "an .npz file with x and y; a folder with x.npy and y.npy; a CSV, TSV or Parquet table; a folder of "
    "pictures in a folder for each class; a folder of idx files; an svmlight file"
)
OTHERS = {
    (".xls", ".xlsx", ".ods"): "a spreadsheet; save it as CSV",
    (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"): "packed; unpack it",
    (
        ".pkl",
        ".pickle",
        ".pt",
        ".pth",
        ".joblib",
    ): "a pickle, which may run programs; save its arrays by savez",
    (".mat", ".h5", ".hdf5"): "a MATLAB or HDF5 file; save its arrays by numpy.savez",
    (".json", ".jsonl"): "JSON; save it as CSV",
    (
        ".png",
        ".jpg",
        ".jpeg",
        ".bmp",
        ".tif",
        ".tiff",
        ".webp",
    ): "one picture; name the folder of the classes",
}


@dataclass(frozen=True)
class Reading:
    """How own data are read, where that is not plain from the file.

    Attributes:
        label: the column of a table that holds the classes; "": one is found, and named.
        group_by: what keeps samples together, in training or in test: of pictures a regular expression on
            their names, whose first group counts; of a table a column.
        size: sides of the squares that pictures become; 0: their own, if all are alike and none above 64.
    """

    label: str = ""
    group_by: str = ""
    size: int = 0


def load_own(path: Path, reading: Reading | None = None) -> Dataset:
    """Reads labelled samples.

    * `data.npz` or a folder of .npy files: x (N, …) and y (N,), and perhaps x_test and y_test; also X_train,
      y_train, X_test, y_test, in capitals or not; perhaps groups (N,);
    * a CSV, TSV or Parquet table (with pandas), a column of which holds the classes;
    * a folder of pictures in a folder for each class, perhaps below "train" and "test";
    * a folder with four idx files, as MNIST's and EMNIST's, gzipped or not;
    * any other file: svmlight lines `label index:value …`; a file of the same name with ".t" behind it is
      the test.

    Classes are learned from the data; labels may be any values. Which numbers are pixels, and what their
    range is, says `cosnorm_lab.data.pixels`. See `to_dataset` for the parts.

    Raises:
        LabError: the file is missing, damaged or of another kind; arrays, lines or columns are not what they
            should be; an option that this kind of data does not take.
    """
    reading = reading or Reading()
    if path.is_dir():
        from cosnorm_lab.data import arrays, folders, idx

        if idx.are_in(path):
            _only(reading, path, "idx files")
            samples = idx.read_own(path)
        elif arrays.are_in(path):
            _only(reading, path, "arrays")
            samples = arrays.read_npy(path)
        else:
            _only(reading, path, "pictures", "group_by", "size")
            samples = folders.read_folders(path, reading.group_by, reading.size, forms=FORMS)
    elif not path.is_file():
        raise LabError(f"{path} is not there; name, by --data-dir, {FORMS}")
    elif path.suffix.lower() in (".npz", ".npy"):
        from cosnorm_lab.data import arrays

        _only(reading, path, "arrays")
        samples = arrays.read_npz(path)
    elif path.suffix.lower() in (".csv", ".tsv", ".parquet"):
        from cosnorm_lab.data import frames

        _only(reading, path, "a table", "label", "group_by")
        samples = frames.read_table(path, reading.label, reading.group_by)
    else:
        for suffixes, what in OTHERS.items():
            if path.suffix.lower() in suffixes:
                raise LabError(f"{path} is {what}. What would do: {FORMS}")
        from cosnorm_lab.data import svmlight

        _only(reading, path, "svmlight lines")
        samples = svmlight.read_svmlight(path, forms=FORMS)
    said = {name: value for name, value in vars(reading).items() if value}
    return replace(to_dataset(samples, path.name or path.resolve().name), options=said)


def _only(reading: Reading, path: Path, what: str, *taken: str) -> None:
    options = {"label": "--label", "group_by": "--group-by", "size": "--image-size"}
    for name, option in options.items():
        if getattr(reading, name) and name not in taken:
            raise LabError(f"{path} holds {what}, which take no {option}; leave it out")
