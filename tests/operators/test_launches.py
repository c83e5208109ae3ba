"""The torch form takes few launches, as many in half precision, and never looks at the data."""

import pytest
import torch
from launches import launches

from cosnorm.backends.torch import rows
from cosnorm.backends.torch.contraction import MATRIX

ROWS = ((512, 1024), (1024, 1024))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("centered", "forward", "backward", "megabytes"),
    [(False, 9, 22, (40, 125)), (True, 16, 30, (70, 170))],
    ids=["plain", "centered"],
)
def test_rows(
    centered: bool, forward: int, backward: int, megabytes: tuple[int, int], dtype: torch.dtype
) -> None:
    x, w = (torch.randn(shape).to(dtype) for shape in ROWS)
    found = []
    options = {"centered": centered, "augment": 0.0}
    there = launches(lambda: found.append(rows.cosines(x, w, MATRIX, keep=True, **options)))
    output, *saved = found[0]
    cotangent = torch.randn(output.shape).to(dtype)
    back = launches(lambda: rows.gradients(cotangent, x, w, *saved, MATRIX, needs=[True, True], **options))
    assert len(there.names) <= forward, there.names
    assert len(back.names) <= backward, back.names
    assert there.bytes <= 1e6 * megabytes[0]
    assert back.bytes <= 1e6 * megabytes[1]
