"""Clause 5: the closed form, for random cotangents; second derivatives; function transforms."""

import pytest
import torch
from operations import Operation, every_operation, every_operation_in_float64, value_and_gradients
from torch.func import grad, jacrev, vmap

from cosnorm import functional


@every_operation
def test_gradients_against_the_float64_formula(operation: Operation):
    for seed in range(3):
        x, y = operation.inputs(seed)
        _, *gradients = value_and_gradients(operation.call, x, y, operation.cotangent)
        _, *exact = value_and_gradients(operation.reference, x.double(), y.double(), operation.cotangent)
        for own, other in zip(gradients, exact, strict=True):
            assert (own - other).abs().max() < 2e-6 * max(1.0, other.abs().max().item())


@pytest.mark.parametrize("rows", [1, 63])
@pytest.mark.parametrize("size", [1, 63, 123, 507])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("augment", [0.0, 0.3])
def test_linear_at_awkward_sizes(rows: int, size: int, centered: bool, augment: float):
    import reference

    generator = torch.Generator().manual_seed(size)
    # No row is short: the error of a gradient grows as 1/|x|.
    x, w = (torch.randn(n, size, generator=generator) for n in (rows, 37))
    x, w = x + x.sign(), w + w.sign()
    cotangent = torch.randn(rows, 37, generator=generator)
    own = value_and_gradients(
        lambda x, w: functional.cosine_linear(x, w, centered=centered, augment=augment),
        x,
        w,
        lambda _: cotangent,
    )
    exact = value_and_gradients(
        lambda x, w: reference.linear(x, w, centered, augment),
        x.double(),
        w.double(),
        lambda _: cotangent.double(),
    )
    for one, other in zip(own, exact, strict=True):
        assert (one - other).abs().max() < 3e-6 * max(1.0, other.abs().max().item())


def _small(operation: Operation) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs of a few dozen numbers: the checks take each of them apart."""
    x, y = operation.inputs(dtype=torch.float64)
    if operation.is_conv:
        x, y = x[:1], y[:: y.shape[0] // 2][:2]
        for dimension in range(2, x.ndim):
            x = x.narrow(dimension, 0, y.shape[dimension] + 1)
    else:
        x, y = x[:3, :5], y[:3, :5]
    return x.clone().requires_grad_(), y.clone().requires_grad_()


@every_operation_in_float64
def test_gradcheck_and_gradgradcheck(operation: Operation):
    inputs = _small(operation)
    assert torch.autograd.gradcheck(operation.call, inputs)
    assert torch.autograd.gradgradcheck(operation.call, inputs, fast_mode=operation.is_conv)


@pytest.mark.parametrize("centered", [False, True])
def test_gradcheck_and_gradgradcheck_with_augment(centered: bool):
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    options = {"centered": centered, "augment": 0.4}
    assert torch.autograd.gradcheck(lambda x, w: functional.cosine_linear(x, w, **options), (x, w))
    assert torch.autograd.gradgradcheck(lambda x, w: functional.cosine_linear(x, w, **options), (x, w))
    image = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    filters = torch.randn(2, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    options |= {"groups": 2, "padding": 1}

    def conv(x, w):
        return functional.cosine_conv2d(x, w, **options)

    assert torch.autograd.gradcheck(conv, (image, filters))
    assert torch.autograd.gradgradcheck(conv, (image, filters), fast_mode=True)


@every_operation
def test_the_gradient_is_orthogonal_to_its_vector(operation: Operation):
    """Eqs. 11 and 12: cos does not change with the length of a vector."""
    x, y = operation.inputs()
    _, gradient_x, gradient_y = value_and_gradients(operation.call, x, y, operation.cotangent)
    along = (gradient_x * x).flatten(1).sum(1), (gradient_y * y).flatten(1).sum(1)
    for products, gradient in zip(along, (gradient_x, gradient_y), strict=True):
        assert products.abs().max() < 1e-4 * gradient.abs().max()


@every_operation
def test_one_input_alone(operation: Operation):
    x, y = operation.inputs()
    _, gradient_x, gradient_y = value_and_gradients(operation.call, x, y, operation.cotangent)
    alone = x.clone().requires_grad_()
    output = operation.call(alone, y)
    torch.testing.assert_close(torch.autograd.grad(output, alone, operation.cotangent(output))[0], gradient_x)
    alone = y.clone().requires_grad_()
    output = operation.call(x, alone)
    torch.testing.assert_close(torch.autograd.grad(output, alone, operation.cotangent(output))[0], gradient_y)


@every_operation
def test_func_grad_and_vmap(operation: Operation):
    x, y = operation.inputs()
    _, gradient_x, gradient_y = value_and_gradients(operation.call, x, y, torch.cos)

    def loss(x, y):
        return operation.call(x, y).sin().sum()

    both = grad(loss, argnums=(0, 1))(x, y)
    torch.testing.assert_close(both[0], gradient_x, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both[1], gradient_y, rtol=1e-4, atol=1e-5)
    every = (0, None), (None, 0), (0, 0), (1, 2), (-1, 0)
    quick = torch.float64 in operation.dtypes or not operation.is_conv  # the interpreter takes its time
    for dims in every if quick else every[2:3]:
        xs = torch.stack([x, 2 * x.flip(0), x.sin()])
        ys = torch.stack([y, y.cos(), y.flip(-1)])
        moved = [
            t if d is None else stack.movedim(0, d)
            for t, stack, d in zip((x, y), (xs, ys), dims, strict=True)
        ]
        mapped = vmap(operation.call, in_dims=dims)(*moved)
        each = [
            operation.call(x if dims[0] is None else xs[i], y if dims[1] is None else ys[i]) for i in range(3)
        ]
        torch.testing.assert_close(mapped, torch.stack(each), rtol=1e-5, atol=1e-6)
        mapped = vmap(grad(loss, argnums=1), in_dims=dims)(*moved)
        each = [
            grad(loss, argnums=1)(x if dims[0] is None else xs[i], y if dims[1] is None else ys[i])
            for i in range(3)
        ]
        torch.testing.assert_close(mapped, torch.stack(each), rtol=1e-4, atol=1e-5)


def test_a_hessian_by_reverse_mode_twice():
    x, w = torch.randn(5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)

    def loss(x):
        return functional.cosine_linear(x, w).square().sum()

    hessian = jacrev(grad(loss))(x)
    expected = torch.autograd.functional.hessian(loss, x)
    torch.testing.assert_close(hessian, expected)
    torch.testing.assert_close(hessian, hessian.T)


@every_operation
def test_what_is_saved_for_backward(operation: Operation):
    """The inputs, norm and mean of each vector, and products; never the output, never a normalized copy."""
    x, y = operation.inputs()
    x, y = x.requires_grad_(), y.requires_grad_()
    saved = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = operation.call(x, y)
    # A convolution's products; those of a linear layer are fewer than its weights.
    products = output.numel() if operation.is_conv or "linear" in operation.name else 0
    if operation.name == "topk":  # numbers of keys, of 8 bytes, in the search and where they are put back
        products = 4 * output.numel()
    # A convolution's vectors are its fields, those of each group apart.
    vectors = output.numel() // len(y) * (x.shape[1] // y.shape[1]) if operation.is_conv else len(x)
    numbers = (2 if operation.centered else 1) * (vectors + len(y))
    # Kernels keep those of vectors in float64, for norms of float32 vectors go from 1e-45 to 1e40: each is
    # exact for itself, and nobody looks whether one is beyond float32.
    width = 8 if "triton" in operation.name else 4
    assert sum(saved.values()) <= 4 * (x.numel() + y.numel() + products) + width * numbers
    assert output.untyped_storage().data_ptr() not in saved


def test_an_in_place_relu_may_follow():
    x, w = torch.randn(63, 123, requires_grad=True), torch.randn(7, 123, requires_grad=True)
    one = torch.autograd.grad(functional.cosine_linear(x, w).relu_().square().sum(), (x, w))
    two = torch.autograd.grad(functional.cosine_linear(x, w).relu().square().sum(), (x, w))
    assert all(map(torch.equal, one, two))


def test_x_and_weight_may_be_one_tensor():
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(functional.pairwise_cosine, (x,))
    assert torch.autograd.gradcheck(lambda x: functional.cosine_linear(x, x), (x,))
