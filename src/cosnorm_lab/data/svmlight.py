"""Lines of svmlight, `label index:value …`, as sparse rows."""

from pathlib import Path

import numpy as np

from cosnorm_lab.data.samples import Samples, sha256
from cosnorm_lab.errors import LabError


def read_svmlight(path: Path, forms: str) -> Samples:
    """The lines of a file, and those of the file of the same name with ".t" behind it as the test.

    Args:
        path: the file.
        forms: what else would do, for messages.

    Raises:
        LabError: a line is not svmlight (the message names it), or there is none.
    """
    from sklearn.datasets import load_svmlight_files

    test = path.with_name(f"{path.name}.t")
    paths = [path, test] if test.is_file() else [path]
    try:
        found = load_svmlight_files([str(one) for one in paths], dtype=np.float32)
    except (ValueError, OverflowError, OSError, UnicodeDecodeError) as error:
        place = _first_wrong_line(paths) or path
        raise LabError(
            f"{place}: expected `label index:value …` ({error}). What would do: {forms}"
        ) from error
    if not len(found[1]):
        raise LabError(f"{path} holds no sample")
    contents = [one.read_bytes() for one in paths]
    checksums = dict(zip(("file", "test"), map(sha256, contents), strict=False))
    x, y, x_test, y_test = found if len(paths) == 2 else (*found, None, None)
    return Samples(x, y, x_test, y_test, checksums=checksums)


def _first_wrong_line(paths: list[Path]) -> str | None:
    """Where a file stops to be svmlight, as "name, line n"."""
    for path in paths:
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            fields = line.split(b"#")[0].split()
            try:
                for place, text in enumerate(fields):
                    index, colon, value = text.partition(b":")
                    if (place > 0) != bool(colon):
                        raise ValueError
                    float(value if colon else index)
                    if colon and not 0 <= int(index) < 2**31:
                        raise ValueError
            except ValueError:
                return f"{path}, line {number}"
    return None
