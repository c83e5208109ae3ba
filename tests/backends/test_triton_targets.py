"""Each embedding beside its own class by a kernel, against torch's operators in float64."""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from cosnorm.operators.targets import find_targets

N, C, D = 37, 11, 19


@pytest.mark.parametrize("directions", [False, True])
@pytest.mark.parametrize("some", [False, True], ids=["all classes", "some classes"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_targets(dtype: torch.dtype, some: bool, directions: bool):
    x, weight = torch.randn(N, D).to(dtype), torch.randn(C, D)
    low, high = (-6, 3) if dtype == torch.float16 else (-40, 36)
    x *= 10.0 ** torch.linspace(low, high, N).unsqueeze(1).to(dtype)
    weight *= 10.0 ** torch.linspace(36, -40, C).unsqueeze(1)
    classes = torch.tensor([1, 4, 5, 9]) if some else None
    places = torch.arange(N) % (4 if some else C)
    places[5], places[6] = -1, 40
    own = places.clamp(0, 3 if some else C - 1)
    own = classes[own] if some else own
    x[1], weight[own[2]] = 0, 0
    x[3] = weight[own[3]].to(dtype)
    x[4, 2] = torch.nan
    found, exact = (
        find_targets(x, weight, places, classes, 1, impl, directions=directions)
        for impl in ("triton", "torch")
    )
    assert found.rows.equal(exact.rows)
    for name in ("cosine", "sine", *(("toward_w", "toward_x") if directions else ())):
        own, other = getattr(found, name), getattr(exact, name)
        assert own.dtype == other.dtype == torch.float64
        # The directions of what is all but parallel come from what is left of a difference.
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-12, equal_nan=True)
