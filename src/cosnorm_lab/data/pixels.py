"""What a pixel's range is: one rule for arrays and for pictures of every depth.

* Bytes go from 0 to 255.
* Other whole numbers go from 0 to 2^k - 1, the smallest such number, of 8 bits at least, that no training
  pixel exceeds: 12-bit pictures in 16-bit files fill their range.
* Real numbers from 0 to 1 stay as they are. Others go from the least to the largest of the training part.
"""

from typing import Any

import numpy as np

from cosnorm_lab.errors import LabError

LEAST_BYTE = 128  # rows of bytes that stay below are numbers, not pixels


def are_pixels(x: Any) -> bool:
    """Whether samples are pictures or rows of pixels: those are not standardized.

    Bytes are, but for rows (N, D) all of which are small; (N, height, width) and (N, channels, height, width)
    of whole numbers are, and of real numbers from 0 to 1.

    Args:
        x: the training part.
    """
    if hasattr(x, "tocsr") or not x.size:
        return False
    if x.dtype == np.uint8:
        return x.ndim > 2 or int(x.max()) >= LEAST_BYTE
    if x.ndim < 3:
        return False
    return x.dtype.kind in "iub" or (x.dtype.kind == "f" and float(x.min()) >= 0 and float(x.max()) <= 1)


def unit_range(x: Any, x_test: Any, notes: list[str], file: str) -> tuple[Any, Any]:
    """Pixels in [0, 1]; bytes stay bytes, which networks divide by 255 themselves.

    Args:
        x: training pixels.
        x_test: test pixels, which may lie beyond.
        notes: is told of a range that is not the type's own.
        file: what messages call it.

    Raises:
        LabError: one part holds whole numbers and the other real ones.
    """
    if (x.dtype.kind == "f") != (x_test.dtype.kind == "f"):
        raise LabError(
            f"{file}: the pixels of x are {x.dtype}, those of x_test {x_test.dtype}; "
            "give both in one type and range"
        )
    if x.dtype == np.uint8 and x_test.dtype == np.uint8:
        return x, x_test
    low, high = pixel_range(x)
    if (low, high) != (0.0, 1.0):
        notes.append(f"pixels from {low:g} to {high:g} became 0 to 1")
    first, second = (
        ((part.astype(np.float64) - low) / (high - low or 1.0)).astype(np.float32) for part in (x, x_test)
    )
    return first, second


def pixel_range(x: Any) -> tuple[float, float]:
    """The range of training pixels, by the rule above."""
    if x.dtype == np.uint8:
        return 0.0, 255.0
    if x.dtype.kind == "b":
        return 0.0, 1.0
    low, high = float(x.min()), float(x.max())
    if x.dtype.kind in "iu" and low >= 0:
        return 0.0, float(2 ** max(8, int(high).bit_length()) - 1)
    if x.dtype.kind == "f" and low >= 0 and high <= 1:
        return 0.0, 1.0
    return low, high
