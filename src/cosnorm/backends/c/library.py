"""Loads the compiled passes of `passes/`: C over the memory of float32 tensors on a CPU.

The library is compiled when the package is installed, where there is a C compiler; where there is none,
`cosnorm.backends.look` does the same work in more passes of torch's operators.
"""

import ctypes
import functools
import warnings
from pathlib import Path
from typing import Any

from cosnorm import installing
from cosnorm.backends.c import sources

# for float32; the smallest are their reciprocals.
LIMIT, COTANGENT_LIMIT = 2.0**30, 2.0**40
# A centered norm must be above D times this times the mean: far above that of what could be a constant row.
CONSTANT = 64 * 2.0**-23

_POINTER, _COUNT, _FLOAT, _DOUBLE, _INT = (
    ctypes.c_void_p,
    ctypes.c_longlong,
    ctypes.c_float,
    ctypes.c_double,
    ctypes.c_int,
)
# The arguments of each function but the last, the number of threads.
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "center_rows": (_POINTER, _POINTER, _COUNT, _COUNT),
    "finish_rows": (_POINTER, _FLOAT, *[_POINTER] * 3, _COUNT, _COUNT),
    "prepare_fields": (
        _POINTER,
        _POINTER,
        _COUNT,
        _COUNT,
        _POINTER,
        _INT,
        _COUNT,
        _DOUBLE,
        _DOUBLE,
        _POINTER,
    ),
    "finish_fields": (_POINTER, _FLOAT, *[_POINTER] * 3, *[_COUNT] * 4),
    "weigh_fields": (_POINTER, _POINTER, _FLOAT, _POINTER, *[_COUNT] * 4, _INT, _DOUBLE, _POINTER, _POINTER),
    "correct_fields": (*[_POINTER] * 3, _COUNT, _COUNT, _POINTER, _INT),
    "prepare_centered": (
        _POINTER,
        _POINTER,
        _COUNT,
        _COUNT,
        _POINTER,
        _INT,
        _COUNT,
        *[_DOUBLE] * 3,
        *[_POINTER] * 4,
    ),
    "clear_fields": (_POINTER, _POINTER, *[_COUNT] * 3, _INT),
    "correct_centered": (*[_POINTER] * 4, _COUNT, _COUNT, _POINTER, _INT),
    "sparse_products": (*[_POINTER] * 3, _COUNT, _POINTER, _COUNT, _COUNT, _POINTER),
    "sparse_cosine": (
        *[_POINTER] * 3,
        _COUNT,
        _POINTER,
        _COUNT,
        _COUNT,
        _DOUBLE,
        _DOUBLE,
        _INT,
        _DOUBLE,
        _POINTER,
        _POINTER,
    ),
    "sparse_gradient": (*[_POINTER] * 3, _COUNT, *[_POINTER] * 4, _COUNT, _COUNT, _POINTER),
}
# Those over rows are there for each type.
_ROWS: dict[str, tuple[Any, ...]] = {
    "center": (*[_POINTER] * 2, *[_COUNT] * 3, *[_DOUBLE] * 3, *[_POINTER] * 2),
    "cosines": (*[_POINTER] * 3, *[_COUNT] * 3, *[_DOUBLE] * 2, *[_POINTER] * 2),
    "few_cosines": (*[_POINTER] * 2, *[_COUNT] * 3, *[_DOUBLE] * 3, _INT, *[_POINTER] * 4),
    "gradients": (*[_POINTER] * 5, *[_COUNT] * 3, *[_DOUBLE] * 2, _INT, *[_POINTER] * 4),
}
_SIGNATURES |= {
    f"{name}_{dtype}": arguments
    for name, arguments in _ROWS.items()
    for dtype in ("float32", "float64", "bfloat16")
}
_WITHOUT_RESULT = ("center_rows", "finish_rows", "finish_fields", "clear_fields")


@functools.cache
def library() -> Any:
    """The compiled passes, or None where they were not built; with a warning if they cannot be used."""
    path = Path(__file__).with_name("_passes.so")
    if not list(path.parent.glob("_passes.*")):  # those with another ending are of an older version
        return None
    try:
        return _load(path)
    except (OSError, AttributeError, ValueError) as error:
        warnings.warn(
            f"cosnorm computes with torch's operators, which is slower, for {path} cannot be used: {error}; "
            f"mend it with: CC=gcc {installing.command(options='--force-reinstall --no-deps')}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def _load(path: Path) -> Any:
    # Its OpenMP functions are those that torch has loaded; without them this fails.
    found = ctypes.CDLL(str(path))
    built = ctypes.c_uint32.in_dll(found, "cosnorm_sources").value
    # An installed package has no sources: what it has was compiled with it.
    if sources.FOLDER.exists() and built != sources.checksum():
        raise ValueError(f"it was compiled from other sources than those in {sources.FOLDER}")
    for name, arguments in _SIGNATURES.items():
        function = getattr(found, f"cosnorm_{name}")
        function.argtypes = (*arguments, _INT)
        function.restype = None if name in _WITHOUT_RESULT else _INT
    return found
