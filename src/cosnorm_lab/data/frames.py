"""Tables: CSV, TSV and Parquet, read by pandas."""

from pathlib import Path
from typing import Any

import numpy as np

from cosnorm import installing
from cosnorm_lab.data.samples import Samples, sha256
from cosnorm_lab.errors import LabError

LABELS = ("label", "labels", "class", "target", "y")  # what a column of classes is called
MOST_WORDS = 50  # different words of a column that becomes a column for each


def read_table(path: Path, label: str = "", group_by: str = "") -> Samples:
    """The rows of a table: one column holds the classes, the others are features.

    Words become a column of zeros and ones for each word. A first line without any word is a row, not the
    names of columns; then the columns are called 1, 2, ….

    Args:
        path: .csv, .tsv or .parquet.
        label: the column of the classes; "": one that is called so, else the only one of words, else the
            last if it holds few whole numbers.
        group_by: a column whose equal values stay together; it is no feature.

    Raises:
        LabError: pandas is not there, the file is damaged, no such column, no column that could hold the
            classes, a place that holds nothing.
    """
    frame, first_line = _read(path)
    frame.columns = frame.columns.map(str)
    notes: list[str] = []
    label = _column(frame, label, "--label", path) if label else _found(frame, path, notes)
    groups: Any = ()
    if group_by:
        group_by = _column(frame, group_by, "--group-by", path)
        groups = frame[group_by].astype(str).to_numpy()
    counted = "row" if path.suffix.lower() == ".parquet" else "line"

    def place(row: int, column: str) -> str:
        return f"{counted} {first_line + row}, column {column!r}"

    empty = np.argwhere(frame.isna().to_numpy())
    if len(empty):
        row, column = empty[0]
        more = f", and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise LabError(
            f"{path}: {place(int(row), frame.columns[column])} holds nothing or NaN{more}; "
            "fill such places in, or leave their rows out"
        )
    features = frame.drop(columns=[label, *[group_by] * bool(group_by)])
    if features.shape[1] == 0:
        raise LabError(f"{path} holds no column besides {label!r}; expected features")
    features = _numbers(features, path, notes)
    names = list(features.columns)
    return Samples(
        features.to_numpy(dtype=np.float64),
        frame[label].to_numpy(),
        groups=groups,
        checksums={"file": sha256(path.read_bytes())},
        notes=notes,
        place=lambda test, row, column: place(row, names[column]),
    )


def _read(path: Path) -> tuple[Any, int]:
    """The table, and the number of its first row's line."""
    try:
        import pandas
    except ImportError as error:
        raise LabError(f"tables are read by pandas: {installing.command('tables')}") from error
    try:
        if path.suffix.lower() == ".parquet":
            return pandas.read_parquet(path), 0
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            first = file.readline().strip()
        separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
        named = not all(_is_number(text) for text in first.split(separator))
        if named and _first_row_is_data(first, path, separator):
            named = False
        frame = pandas.read_csv(path, sep=separator, header=0 if named else None, encoding="utf-8-sig")
        if not named:
            frame.columns = [str(number + 1) for number in range(frame.shape[1])]
    except ImportError as error:
        raise LabError(f"Parquet needs pyarrow: {installing.command('tables')}") from error
    except Exception as error:  # pandas and pyarrow raise many kinds, all about the file
        message = str(error).strip().partition("\n")[0]
        raise LabError(f"{path} cannot be read as a table ({message}); write it with to_csv") from error
    if not len(frame):
        raise LabError(f"{path} holds no row")
    return frame, 2 if named else 1


def _is_number(text: str) -> bool:
    try:
        float(text.strip().strip('"'))
    except ValueError:
        return False
    return True


def _first_row_is_data(first: str, path: Path, separator: str) -> bool:
    """Whether the first line is like the second: numbers in the same places, which count no columns."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        file.readline()
        second = file.readline().strip()
    kinds = [[_is_number(text) for text in line.split(separator)] for line in (first, second)]
    numbers = [text.strip().strip('"') for text in first.split(separator) if _is_number(text)]
    counted = any(numbers == [str(one + start) for one in range(len(numbers))] for start in (0, 1))
    return kinds[0] == kinds[1] and any(kinds[0]) and not counted


def _column(frame: Any, name: str, option: str, path: Path) -> str:
    if name not in frame.columns:
        raise LabError(f"{path} has no column {name!r} for {option}; its columns are {_listed(frame)}")
    return name


def _listed(frame: Any) -> str:
    names = [repr(name) for name in frame.columns]
    return ", ".join(names if len(names) <= 12 else [*names[:6], "…", *names[-5:]])


def _found(frame: Any, path: Path, notes: list[str]) -> str:
    """The column of the classes, where none was named."""
    from pandas.api.types import is_numeric_dtype

    called = [name for name in frame.columns if name.lower() in LABELS]
    if len(called) == 1:
        notes.append(f"the classes are the column {called[0]!r} (--label names another)")
        return called[0]
    words = [name for name in frame.columns if not is_numeric_dtype(frame[name])]
    if len(words) == 1:
        notes.append(
            f"the classes are the column {words[0]!r}, the only one of words (--label names another)"
        )
        return words[0]
    last = frame.columns[-1]
    if not words and not called and is_numeric_dtype(frame[last]):
        values = frame[last].dropna().unique()
        if len(values) <= min(100, len(frame) / 10) and all(float(one).is_integer() for one in values):
            notes.append(f"the classes are the last column, {last!r} (--label names another)")
            return last
    raise LabError(f"{path}: which column holds the classes? Name it: --label COLUMN, of {_listed(frame)}")


def _numbers(features: Any, path: Path, notes: list[str]) -> Any:
    """Features as numbers; words as a column of zeros and ones for each."""
    import pandas
    from pandas.api.types import is_numeric_dtype

    words = [name for name in features.columns if not is_numeric_dtype(features[name])]
    for name in words:
        count = features[name].nunique()
        if count > MOST_WORDS:
            raise LabError(
                f"{path}: the column {name!r} holds {count:,} different words, such as "
                f"{features[name].iloc[0]!r}; expected numbers or few words. Leave the column out"
            )
    if words:
        notes.append(f"a column of zeros and ones for each word of {', '.join(map(repr, words))}")
        return pandas.get_dummies(features, columns=words)
    return features
