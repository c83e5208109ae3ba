"""Clauses 2, 3 and 6: bounds, zero vectors, NaN and inf."""

import pytest
import torch
from operations import (
    DTYPES,
    Operation,
    every_operation,
    every_operation_and_dtype,
    seeded,
    value_and_gradients,
)

from cosnorm import functional


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("size", [3, 32, 507])
def test_a_hundred_thousand_self_pairs(dtype: torch.dtype, centered: bool, size: int):
    x = torch.randn(100_000 if size < 500 else 10_000, size, generator=seeded(0)).to(dtype)
    same = functional.cosine_similarity(x, x, centered=centered)
    opposite = functional.cosine_similarity(x, -x, centered=centered)
    eps = torch.finfo(dtype).eps
    if centered:  # of so many, some short rows are constant by the rule of clause 3
        mean = x.double().mean(-1, keepdim=True)
        constant = (x.double() - mean).abs().amax(-1) <= 4 * eps * mean.abs().squeeze(-1)
        assert same[constant].eq(0).all()
        assert constant.double().mean() < 0.01
        same, opposite = same[~constant], opposite[~constant]
    assert same.max() <= 1
    # In float64 also the products are rounded to eps: the worst of 100,000 rows of 507 has 5.05 eps.
    assert same.min() >= 1 - (6 if dtype == torch.float64 else 4) * eps
    assert torch.equal(opposite, -same)


@every_operation_and_dtype
def test_results_lie_in_the_unit_interval(operation: Operation, dtype: torch.dtype):
    for seed in range(3):
        output = operation.call(*operation.inputs(seed, dtype))
        assert output.abs().max() <= 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("centered", [False, True])
def test_a_field_equal_to_its_filter_gives_one(dtype: torch.dtype, centered: bool):
    filters = torch.randn(200, 3, 2, 2, generator=seeded(0)).to(dtype)
    output = functional.cosine_conv2d(filters, filters, centered=centered).reshape(200, 200).diagonal()
    assert output.max() <= 1
    assert output.min() >= 1 - 4 * torch.finfo(dtype).eps
    matrix = functional.pairwise_cosine(filters.flatten(1), centered=centered)
    assert matrix.abs().max() <= 1
    assert matrix.diagonal().min() >= 1 - 4 * torch.finfo(dtype).eps


@every_operation_and_dtype
def test_zero_rows_give_zero_and_receive_zero(operation: Operation, dtype: torch.dtype):
    x, y = operation.inputs(dtype=dtype)
    x[2] = 0
    y[1] = 0
    x[4] = 3.7 if operation.centered else 0
    output, gradient_x, gradient_y = value_and_gradients(operation.call, x, y, operation.cotangent)
    if operation.centered and operation.name.startswith("conv2d"):
        # The padding makes the border of a constant image another thing than a constant field.
        assert output[4, :, 1:-1, 1:-1].eq(0).all()
    else:
        assert output[4].eq(0).all()
        assert gradient_x[4].eq(0).all()
    assert output[2].eq(0).all()
    assert gradient_x[2].eq(0).all()
    assert gradient_y[1].eq(0).all()
    for tensor in (output, gradient_x, gradient_y):
        assert tensor.isfinite().all()
    # The other rows are what they are without the zero rows.
    others = [i for i in range(x.shape[0]) if i not in (1, 2, 4)]
    alone = operation.call(x[others], y[others] if operation.name.startswith("similarity") else y)
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(output[others], alone, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [2.0**-10, 1.0, 2.0**10])
def test_the_rule_for_centered_zero(dtype: torch.dtype, scale: float):
    """max|x − μ| ≤ 4·eps·|μ| is zero; a little more is not."""
    eps = torch.finfo(dtype).eps
    y = torch.tensor([1.0, -1.0, 0.0, 0.0], dtype=dtype)
    for steps, expected in ((4, 0.0), (5, 2**-0.5 * 2**0.5)):
        # Neighbours of 1, `steps` units in the last place to either side (the upper ones are eps apart).
        x = torch.tensor([1.5 + steps * eps, 1.5 - steps * eps, 1.5, 1.5], dtype=dtype) * scale
        zero = steps * eps <= 4 * eps * 1.5
        assert zero == (steps <= 6)
        value = functional.cosine_similarity(x, y, dim=-1, centered=True).item()
        assert value == pytest.approx(0.0 if zero else expected, abs=4 * eps)
    x = torch.tensor([1.5 + 7 * eps, 1.5 - 7 * eps, 1.5, 1.5], dtype=dtype) * scale
    assert functional.cosine_similarity(x, y, dim=-1, centered=True).item() == pytest.approx(1, abs=4 * eps)
    image, filters = x.reshape(1, 1, 4), y.reshape(1, 1, 4)
    assert functional.cosine_conv1d(image, filters, centered=True).item() == pytest.approx(1, abs=4 * eps)
    image = torch.tensor([[[1.5 + 6 * eps, 1.5 - 6 * eps, 1.5, 1.5]]], dtype=dtype) * scale
    assert functional.cosine_conv1d(image, filters, centered=True).item() == 0


@pytest.mark.parametrize("augment", [1e-4, 0.5])
@pytest.mark.parametrize("centered", [False, True])
def test_with_augment_zero_vectors_are_like_any_other(augment: float, centered: bool):
    """The paper's rule: center first, then append the constant component; 0 with 0 then gives 1."""
    x = torch.tensor([[0.0, 0.0, 0.0], [5.0, 5.0, 5.0], [1.0, 2.0, 6.0]])
    weight = torch.tensor([[0.0, 0.0, 0.0], [3.0, -1.0, 1.0]])
    output = functional.cosine_linear(x, weight, centered=centered, augment=augment)
    assert output[0, 0] == 1
    assert (output[1, 0] == 1) == centered
    image, filters = x.reshape(3, 3, 1), weight.reshape(2, 3, 1)
    fields = functional.cosine_conv1d(image, filters, centered=centered, augment=augment)
    torch.testing.assert_close(fields.squeeze(-1), output, rtol=0, atol=3e-7)


@every_operation_and_dtype
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["x", "y"])
def test_nan_and_inf_stay_in_their_row(operation: Operation, bad: float, where: str, dtype: torch.dtype):
    x, y = operation.inputs(dtype=dtype)
    clean = operation.call(x, y)
    spoiled = {"x": x.clone(), "y": y.clone()}
    spoiled[where][2].view(-1)[0] = bad
    output = operation.call(spoiled["x"], spoiled["y"])
    # x: a sample; y: a row of the second set, a filter, or the pair.
    along = 0 if where == "x" or operation.name.startswith("similarity") else 1
    rows, clean_rows = output.movedim(along, 0), clean.movedim(along, 0)
    if operation.is_conv and where == "x":
        # Only the fields that hold the first position.
        bad_places = rows[2].isnan()
        assert bad_places.any()
        assert not bad_places.all() or rows[2][0].numel() == 1
        groups = 2 if operation.name.startswith("conv2d") else 1
        own = rows[2].shape[0] // groups
        assert bad_places[:own].any(0).equal(bad_places[:own].all(0))
        assert not bad_places[own:].any()
    else:
        assert rows[2].isnan().all()
    others = [i for i in range(rows.shape[0]) if i != 2]
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(rows[others], clean_rows[others], rtol=0, atol=tolerance)


@every_operation
def test_finite_input_and_cotangents_never_give_nan(operation: Operation):
    generator = seeded(3)
    limit = torch.finfo(torch.float32).max

    def wild(tensor: torch.Tensor) -> torch.Tensor:
        exponents = torch.randint(-46, 39, tensor.shape, generator=generator)
        values = (tensor.double() * 10.0 ** exponents.double()).clamp(-limit, limit).float()
        return values * torch.randint(0, 3, tensor.shape, generator=generator).clamp(max=1)

    for _ in range(30 if torch.float64 in operation.dtypes else 5):  # the interpreter takes its time
        x, y = operation.inputs()
        results = value_and_gradients(operation.call, wild(x), wild(y), lambda o: wild(torch.randn_like(o)))
        for tensor in results:
            assert tensor.isfinite().all()
        assert results[0].abs().max() <= 1
