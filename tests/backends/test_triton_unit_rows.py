"""Unit rows of losses by a kernel, and what finishes their gradients, against float64."""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from cosnorm.backends.triton import unit_rows

SHAPES, D = (5, 37, 3), 19


def _sets(dtype: torch.dtype) -> list[torch.Tensor]:
    sets = [torch.randn(number, D) for number in SHAPES]
    low, high = (-7, 4) if dtype == torch.float16 else (-44, 37)
    sets[1] *= 10.0 ** torch.linspace(low, high, 37).unsqueeze(1)
    sets[0][2] = 0
    return [one.to(dtype) for one in sets]


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_units_and_gradients(dtype: torch.dtype, number: int):
    sets = _sets(dtype)[:number]
    units, rounded, divisors = unit_rows.units_beside(sets, dtype)
    values = torch.cat(sets).double()
    norms = values.norm(dim=1, keepdim=True)
    exact = torch.where(norms == 0, 0, values / norms)
    assert units.dtype == divisors.dtype == torch.float32
    assert (units.double() - exact).abs().max() < 1e-7
    assert rounded.dtype == dtype
    assert rounded.equal(units.to(dtype))
    factor = torch.tensor(3e-4)
    u = torch.randn(units.shape)
    limit = torch.finfo(dtype).max
    expected = torch.where(norms == 0, 0, u.double() * factor.double() / norms)
    if dtype != torch.float16:
        expected = expected.clamp(-limit, limit)
    found = unit_rows.finish_each(u, divisors, factor, [(len(one), one.dtype) for one in sets])
    assert [one.shape for one in found] == [one.shape for one in sets]
    torch.testing.assert_close(torch.cat(found), expected.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_rows_that_are_not_finite_are_nan_alone():
    x = torch.randn(4, D)
    x[1, 3], x[2, 0] = torch.nan, torch.inf
    units, _, divisors = unit_rows.units_beside([x], torch.float32)
    assert units[1:3].isnan().all()
    assert units[::3].isfinite().all()
    assert divisors[1:3, 0].isnan().all()


@pytest.mark.parametrize("learned", [False, True], ids=["a number", "a tensor"])
def test_what_is_along_a_unit_row_is_taken_off(learned: bool):
    units = torch.nn.functional.normalize(torch.randn(11, D), dim=1)
    u = torch.randn(11, D)
    along = 3 * (u * units).sum(1)
    expected = 3 * u - along.unsqueeze(1) * units
    found = unit_rows.project_(u, units, torch.tensor(3.0) if learned else 3.0)
    torch.testing.assert_close(found, along, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(u, expected, rtol=1e-5, atol=1e-6)
