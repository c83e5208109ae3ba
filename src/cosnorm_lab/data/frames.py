"""Tables: CSV, TSV and Parquet, read by pandas."""

import csv
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from cosnorm import installing
from cosnorm_lab.data.samples import Samples, sha256
from cosnorm_lab.errors import LabError

LABELS = ("label", "labels", "class", "target", "y")  # what a column of classes is called
MOST_WORDS = 50  # different words of a column that becomes a column for each
WORDS_SHARE = 1 / 3  # of the rows: more different words are no categories
FEW_CLASSES = 100  # of a last column that is taken for classes
NOTHING = ("", "nan", "na", "n/a", "null", "none", "?", "-")  # what an empty place looks like


def read_table(path: Path, label: str = "", group_by: str = "") -> Samples:
    """The rows of a table: one column holds the classes, the others are features.

    A column that holds numbers but for a few places is one of numbers, and those places are errors. Words
    become a column of zeros and ones for each word. A first line that looks like the others is a row, not the
    names of columns; then the columns are called 1, 2, …, and it is said. Where fields end with semicolons,
    numbers may have a decimal comma. Classes are told apart by what is written: 01 is not 1.

    Args:
        path: .csv, .tsv or .parquet.
        label: the column of the classes; "": one that is called so, else the only one of words, else the
            last if it holds few whole numbers.
        group_by: a column whose equal values stay together; it is no feature.

    Raises:
        LabError: pandas is not there, the file is damaged, no such column, no column that could hold the
            classes, a place that holds nothing or no number.
    """
    notes: list[str] = []
    parquet = path.suffix.lower() == ".parquet"
    frame = _parquet(path) if parquet else _text(path, notes)
    counted = "row" if parquet else "line"

    def place(row: int, column: str) -> str:
        return f"{counted} {frame.index[row]}, column {column!r}"

    label = _column(frame, label, "--label", path) if label else _found(frame, path, notes)
    groups: Any = ()
    if group_by:
        group_by = _column(frame, group_by, "--group-by", path)
        groups = frame[group_by].astype(str).to_numpy()
    classes = _classes(frame[label])
    if empty := [row for row, one in enumerate(classes.tolist()) if one is None or one == ""]:
        raise LabError(f"{path}: {place(empty[0], label)} holds no class; leave the row out")
    names, columns = [], []
    for name in frame.columns:
        if name in (label, group_by):
            continue
        numbers, wrong = _as_numbers(frame[name])
        if numbers is None:
            words = _words(frame[name], path)
            notes.append(f"a column of zeros and ones for each word of {name!r}")
            for word in sorted(set(words)):
                names.append(f"{name}: {word}")
                columns.append(np.asarray(words == word, dtype=np.float64))
            continue
        if wrong:
            row, text = wrong[0]
            more = f", and {len(wrong) - 1} more such" if len(wrong) > 1 else ""
            what = "nothing" if text.lower() in NOTHING else f"{text!r}, no number"
            raise LabError(
                f"{path}: {place(row, name)} holds {what}{more}; fill such places in, or leave their rows out"
            )
        names.append(name)
        columns.append(numbers)
    if not columns:
        raise LabError(f"{path} holds no column besides {label!r}; expected features")
    return Samples(
        np.column_stack(columns),
        classes,
        groups=groups,
        checksums={"file": sha256(path.read_bytes())},
        notes=notes,
        place=lambda test, row, column: place(row, names[column]),
    )


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise LabError(f"tables are read by pandas: {installing.command('tables')}") from error
    return pandas


def _parquet(path: Path) -> Any:
    pandas = _pandas()
    try:
        frame = pandas.read_parquet(path)
    except ImportError as error:
        raise LabError(f"Parquet needs pyarrow: {installing.command('tables')}") from error
    except Exception as error:  # pandas and pyarrow raise many kinds, all about the file
        raise LabError(f"{path} cannot be read as a table ({_first_line(error)})") from error
    if not len(frame):
        raise LabError(f"{path} holds no row")
    frame.columns = frame.columns.map(str)
    frame.index = range(len(frame))
    return frame


def _text(path: Path, notes: list[str]) -> Any:
    """A CSV or TSV as text, its index the numbers of lines."""
    pandas = _pandas()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline().strip()
            separator = (
                "\t"
                if path.suffix.lower() == ".tsv"
                else max(",;\t", key=re.sub(r'"[^"]*"', "", first).count)
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a comma at the end of every row
            frame = pandas.read_csv(
                path,
                sep=separator,
                header=None,
                names=range(_width(path, separator)),
                dtype=str,
                keep_default_na=False,
                skip_blank_lines=False,
                index_col=False,
                encoding="utf-8-sig",
            )
    except UnicodeDecodeError as error:
        raise LabError(f"{path} is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except Exception as error:  # pandas raises many kinds, all about the file
        raise LabError(
            f"{path} cannot be read as a table ({_first_line(error)}); write it with to_csv"
        ) from error
    frame = frame.fillna("").map(lambda text: text.strip())
    frame.index = range(1, len(frame) + 1)
    frame = frame[(frame != "").any(axis=1)]
    if len(frame) and (frame.iloc[1:][frame.columns[-1]] == "").all() and frame.iloc[0, -1] == "":
        frame = frame.iloc[:, :-1]  # every row ends with a separator
    if not len(frame):
        raise LabError(f"{path} cannot be read as a table: it holds no line")
    if _is_header(frame):
        names = [name or f"column {number}" for number, name in enumerate(frame.iloc[0], start=1)]
        frame = frame.iloc[1:]
        frame.columns = [
            name if names.count(name) == 1 else f"{name} ({number})"
            for number, name in enumerate(names, start=1)
        ]
    else:
        frame.columns = [str(number + 1) for number in range(frame.shape[1])]
        notes.append("the first line is taken as a row, since it looks like one: columns are called 1, 2, …")
    if not len(frame):
        raise LabError(f"{path} holds no row")
    if separator == ";":
        decimal = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")
        frame = frame.map(lambda text: text.replace(",", ".") if decimal.fullmatch(text) else text)
    return frame


def _width(path: Path, separator: str) -> int:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return max((len(row) for row in csv.reader(file, delimiter=separator)), default=0)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _is_header(frame: Any) -> bool:
    """Whether the first line names the columns: it does unless it looks like the second.

    It looks so with numbers in the same places, unless these count the columns, and with words that stand in
    their columns again.
    """
    first = list(frame.iloc[0])
    if len(frame) < 2:
        return not all(_number(text) is not None for text in first)
    second = list(frame.iloc[1])
    kinds = [[_number(text) is not None for text in line] for line in (first, second)]
    numbers = [text for text, kind in zip(first, kinds[0], strict=True) if kind]
    counting = any(numbers == [str(one + start) for one in range(len(numbers))] for start in (0, 1))
    if kinds[0] != kinds[1] or not numbers or counting:
        return True
    words = [place for place, kind in enumerate(kinds[0]) if not kind]
    return any((frame.iloc[1:, place] != first[place]).all() for place in words)


def _column(frame: Any, name: str, option: str, path: Path) -> str:
    if name not in frame.columns:
        raise LabError(f"{path} has no column {name!r} for {option}; its columns are {_listed(frame)}")
    return name


def _listed(frame: Any) -> str:
    names = [repr(name) for name in frame.columns]
    return ", ".join(names if len(names) <= 12 else [*names[:6], "…", *names[-5:]])


def _found(frame: Any, path: Path, notes: list[str]) -> str:
    """The column of the classes, where none was named."""
    called = [name for name in frame.columns if name.lower() in LABELS]
    if len(called) == 1:
        notes.append(f"the classes are the column {called[0]!r} (--label names another)")
        return str(called[0])
    words = [name for name in frame.columns if _as_numbers(frame[name])[0] is None]
    if len(words) == 1:
        notes.append(
            f"the classes are the column {words[0]!r}, the only one of words (--label names another)"
        )
        return str(words[0])
    last = frame.columns[-1]
    if not words and not called:
        values = frame[last].astype(str)
        whole = values.str.fullmatch(r"[+-]?\d+(\.0+)?").all()
        if whole and values.nunique() <= min(FEW_CLASSES, len(frame) / 10):
            notes.append(f"the classes are the last column, {last!r} (--label names another)")
            return str(last)
    raise LabError(f"{path}: which column holds the classes? Name it: --label COLUMN, of {_listed(frame)}")


def _classes(column: Any) -> Any:
    """Classes by what is written; as numbers where each number gives back its text."""
    if column.dtype != object:
        return column.to_numpy()
    texts = ["" if one is None else str(one) for one in column]
    if all(re.fullmatch(r"0|-?[1-9]\d{0,17}", text) for text in texts):
        return np.array([int(text) for text in texts])
    return np.array(texts)


def _as_numbers(column: Any) -> tuple[Any, list[tuple[int, str]]]:
    """A column as numbers, and the rows that hold none; None for a column of words."""
    if column.dtype != object and column.dtype.kind in "fiub":
        values = column.to_numpy(dtype=np.float64)
        return values, [(int(row), "") for row in np.flatnonzero(np.isnan(values))]
    texts = ["" if one is None else str(one) for one in column]
    numbers = [None if text.lower() in NOTHING else _number(text) for text in texts]
    wrong = [(row, texts[row]) for row, number in enumerate(numbers) if number is None]
    if 2 * len(wrong) > len(texts):
        return None, []
    return np.array([np.nan if number is None else number for number in numbers]), wrong


def _words(column: Any, path: Path) -> Any:
    words = column.astype(str)
    count = words.nunique()
    if count > min(MOST_WORDS, max(2, WORDS_SHARE * len(words))):
        raise LabError(
            f"{path}: the column {column.name!r} holds {count:,} different words in {len(words):,} rows, "
            f"such as {words.iloc[0]!r}; expected numbers or few words. Leave the column out"
        )
    return words.to_numpy()
