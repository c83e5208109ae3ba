"""Shapes and options by hypothesis; strides, empty input; convolutions against unfolding (clause 8 too)."""

import hypothesis
import pytest
import reference
import torch
from hypothesis import strategies as st
from operations import Operation, every_operation, value_and_gradients
from torch.nn import functional as F

from cosnorm import functional

some_examples = hypothesis.settings(max_examples=80, deadline=None, derandomize=True)


@some_examples
@hypothesis.given(st.data())
def test_similarity_broadcasts_as_torchs(data: st.DataObject):
    rank = data.draw(st.integers(1, 4))
    shape = data.draw(st.lists(st.integers(1, 5), min_size=rank, max_size=rank))
    dim = data.draw(st.integers(-rank, rank - 1))
    centered = data.draw(st.booleans())
    narrowed = [
        1 if data.draw(st.booleans()) and position != dim % rank else size
        for position, size in enumerate(shape)
    ]
    lead = data.draw(st.integers(0, dim % rank))
    if any(size != 1 for size in narrowed[:lead]):
        lead = 0
    x, y = torch.randn(shape), torch.randn(narrowed[lead:])
    if dim >= 0 and lead:
        dim -= rank
    own = functional.cosine_similarity(x, y, dim, centered=centered)
    a, b = torch.broadcast_tensors(x, y)
    expected = reference.cosine(a.movedim(dim, -1), b.movedim(dim, -1), centered)
    assert own.shape == F.cosine_similarity(a, b, dim).shape
    if not (centered and shape[dim] == 1):
        assert (own - expected).abs().max() < 2e-6


@some_examples
@hypothesis.given(
    rank=st.integers(1, 3),
    groups=st.integers(1, 3),
    per_group=st.integers(1, 3),
    filters=st.integers(1, 3),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    size=st.integers(5, 7),
    centered=st.booleans(),
    augment=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 10),
)
def test_convolutions_against_unfolding(
    rank, groups, per_group, filters, kernel, stride, padding, dilation, size, centered, augment, seed
):
    torch.manual_seed(seed)
    options = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "centered": centered,
        "augment": augment,
    }
    # No field and no filter is short: the error of a gradient grows as 1/|x|.
    x = torch.randn(2, groups * per_group, *[size] * rank)
    w = torch.randn(groups * filters, per_group, *[kernel] * rank)
    x, w = x + x.sign(), w + w.sign()
    call = getattr(functional, f"cosine_conv{rank}d")
    output = call(x, w, **options)
    assert output.shape == getattr(F, f"conv{rank}d")(x, w, None, stride, padding, dilation, groups).shape
    own = value_and_gradients(
        lambda x, w: call(x, w, **options), x, w, lambda o: torch.ones_like(o).cumsum(-1)
    )
    exact = value_and_gradients(
        lambda x, w: reference.conv(x, w, **options),
        x.double(),
        w.double(),
        lambda o: torch.ones_like(o).cumsum(-1),
    )
    if centered and kernel**rank * per_group <= 2:
        return  # less its mean such a field is zero or may be short, and the error grows as 1/|x|
    for one, other in zip(own, exact, strict=True):
        assert (one - other).abs().max() < 1e-5 * max(1.0, other.abs().max().item())


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [(2, 3), (4, 1), (3, 3)])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("centered", [False, True])
def test_padding_by_name(padding: str, kernel: tuple[int, int], dilation: int, centered: bool):
    x, w = torch.randn(2, 3, 9, 8), torch.randn(4, 3, *kernel)
    own = functional.cosine_conv2d(x, w, padding=padding, dilation=dilation, centered=centered)
    plain = F.conv2d(x, w, padding=padding, dilation=dilation)
    assert own.shape == plain.shape
    if padding == "same":
        total = [dilation * (k - 1) for k in kernel]
        x = F.pad(x, [side for amount in reversed(total) for side in (amount // 2, amount - amount // 2)])
    expected = reference.conv(x, w, dilation=dilation, centered=centered)
    assert (own - expected).abs().max() < 1e-6
    numbers = F.conv2d(x, w, dilation=dilation)  # the same zeros in front as torch puts there
    torch.testing.assert_close(plain, numbers, rtol=1e-4, atol=1e-4)


@every_operation
def test_strides_and_layout_do_not_matter(operation: Operation):
    x, y = operation.inputs()
    expected = value_and_gradients(operation.call, x, y, operation.cotangent)
    for change in (
        lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
        lambda t: torch.stack([t, t], -1)[..., 0],
        lambda t: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t,
    ):
        found = value_and_gradients(operation.call, change(x), change(y), operation.cotangent)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-6)


def test_channels_last_stays():
    x = torch.randn(2, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    w = torch.randn(8, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    plain = F.conv2d(x, w).is_contiguous(memory_format=torch.channels_last)
    assert functional.cosine_conv2d(x, w).is_contiguous(memory_format=torch.channels_last) == plain


@every_operation
def test_empty_batches(operation: Operation):
    x, y = operation.inputs()
    x = x[:0]
    y = y[:0] if operation.name.startswith("similarity") else y
    output, gradient_x, gradient_y = value_and_gradients(operation.call, x, y, torch.ones_like)
    assert output.shape[0] == 0
    assert gradient_x.shape == x.shape
    assert gradient_y.eq(0).all()


def test_empty_vectors_are_zero_vectors():
    x, w = torch.zeros(3, 0, requires_grad=True), torch.zeros(2, 0)
    output = functional.cosine_linear(x, w)
    assert torch.equal(output, torch.zeros(3, 2))
    output.sum().backward()
    assert x.grad.shape == (3, 0)
    assert functional.cosine_linear(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 0)


@pytest.mark.parametrize("shape", [(123,), (1, 123), (2, 3, 123), (0, 3, 123)])
def test_linear_takes_any_leading_shape(shape: tuple[int, ...]):
    x, w = torch.randn(shape), torch.randn(7, 123)
    output = functional.cosine_linear(x, w)
    assert output.shape == (*shape[:-1], 7)
    assert torch.allclose(output.double(), reference.linear(x, w), atol=1e-6)


def test_pairwise_takes_batches_and_itself():
    x, y = torch.randn(4, 1, 6, 5), torch.randn(3, 7, 5)
    output = functional.pairwise_cosine(x, y)
    assert output.shape == (4, 3, 6, 7)
    expected = reference.cosine(x.unsqueeze(-2), y.unsqueeze(-3))
    assert (output - expected).abs().max() < 1e-6
    assert torch.equal(functional.pairwise_cosine(x), functional.pairwise_cosine(x, x))


@pytest.mark.parametrize("mean", [1.0, 100.0, -1e4])
@pytest.mark.parametrize("deviation", [0.01, 1.0])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_centered_convolution_beside_a_large_mean(mean, deviation, padding, dtype):
    """Clause 8: error ≤ the unfolding formula's + C·eps·|local mean| / local deviation, with C = 4."""
    generator = torch.Generator().manual_seed(0)
    x = (mean + deviation * torch.randn(3, 4, 9, 9, generator=generator, dtype=torch.float64)).to(dtype)
    w = torch.randn(6, 4, 3, 3, generator=generator, dtype=torch.float64).to(dtype)
    own = functional.cosine_conv2d(x, w, padding=padding, centered=True)
    exact = reference.conv(x, w, padding=padding, centered=True)
    eps = torch.finfo(dtype).eps
    unfolding = (
        reference.conv(x, w, padding=padding, centered=True, dtype=torch.float32) if eps > 1e-10 else exact
    )
    bound = (unfolding - exact).abs().max() + 4 * eps * abs(mean) / deviation + 4 * eps
    assert (own - exact).abs().max() <= bound


def test_centered_convolution_keeps_its_digits_where_shifting_is_exact():
    """Mean 100, deviation 0.01 in float32: the digits are all there, although a sum of squares has none."""
    x, w = 100 + 0.01 * torch.randn(3, 4, 9, 9), torch.randn(6, 4, 3, 3)
    exact = reference.conv(x, w, centered=True)
    assert (functional.cosine_conv2d(x, w, centered=True) - exact).abs().max() < 1e-6
    rows = 100 + 0.01 * torch.randn(63, 123)
    weight = 100 + 0.01 * torch.randn(7, 123)
    assert (
        functional.cosine_linear(rows, weight, centered=True) - reference.linear(rows, weight, True)
    ).abs().max() < 1e-6


def test_the_unfolding_reference_is_torchs_convolution():
    """The reference itself, against an independent one: fields times filters are a convolution."""
    x, w = torch.randn(2, 3, 8, 7, dtype=torch.float64), torch.randn(5, 3, 3, 2, dtype=torch.float64)
    fields = reference.unfold(x, (3, 2), (2, 2), (1, 1), (1, 2))
    plain = torch.einsum("nckij,ock->noij", fields, w.flatten(2))
    torch.testing.assert_close(plain, F.conv2d(x, w, None, 2, 1, (1, 2)))


def test_similarity_broadcasts_along_any_dimension():
    x, y = torch.randn(3, 1, 5), torch.randn(4, 5).expand(3, 4, 5).clone()[:1].expand(3, 4, 5)
    own = value_and_gradients(lambda x, y: functional.cosine_similarity(x, y, 0), x, y, torch.cos)
    exact = value_and_gradients(
        lambda x, y: reference.cosine(*(t.movedim(0, -1) for t in torch.broadcast_tensors(x, y))),
        x.double(),
        y.double(),
        torch.cos,
    )
    for one, other in zip(own, exact, strict=True):
        assert (one - other).abs().max() < 2e-5


@pytest.mark.slow
def test_compiled_code_takes_transposed_and_channels_last_input():
    torch._dynamo.reset()
    linear = torch.compile(functional.cosine_linear, fullgraph=True)
    x, w = torch.randn(6, 4).T, torch.randn(6, 5).T
    own = value_and_gradients(linear, x, w, torch.cos)
    expected = value_and_gradients(functional.cosine_linear, x, w, torch.cos)
    for one, other in zip(own, expected, strict=True):
        torch.testing.assert_close(one, other)
    conv = torch.compile(functional.cosine_conv2d, fullgraph=True)
    x = torch.randn(2, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    w = torch.randn(4, 3, 3, 3).contiguous(memory_format=torch.channels_last)
    own = value_and_gradients(conv, x, w, torch.cos)
    expected = value_and_gradients(functional.cosine_conv2d, x, w, torch.cos)
    for one, other in zip(own, expected, strict=True):
        torch.testing.assert_close(one, other)
