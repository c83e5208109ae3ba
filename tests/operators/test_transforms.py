"""Whoever calls an operation, and under whatever: the same numbers, for every public operation.

Eager code is compared with the plain formula elsewhere; here each caller is compared with the same caller of
the formula. What is refused is named.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from apart import Apart
from operations import OPERATIONS, Operation, _name
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from cosnorm import functional

jacobian = torch.autograd.functional.jacobian
every_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=_name)


def few(operation: Operation, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Two small samples: enough for a broadcast, and few enough numbers for a Hessian."""
    x, y = operation.inputs(dtype=dtype)
    if operation.is_conv:
        x = x[(slice(None), slice(None), *[slice(6 if x.ndim == 3 else 3)] * (x.ndim - 2))].contiguous()
    return x[:2], y[:2] if operation.name.startswith("similarity") else y


def gradients(function: Callable, x: Tensor, y: Tensor) -> list[Tensor]:
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    output = function(x, y)
    return [output.detach(), *torch.autograd.grad(output.square().sum(), (x, y))]


def assert_same(found, expected, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance, check_dtype=False)


def loss_of(function: Callable, y: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: function(x, y).square().sum()


# ---- global state


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=True)


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


STATES = {
    "default float64": lambda: default_dtype(torch.float64),
    "default bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device": lambda: torch.device("meta"),
    "deterministic": deterministic,
    "one thread": one_thread,
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=_name)
@every_operation
def test_global_state_changes_nothing(operation: Operation, dtype: torch.dtype, state: str):
    x, y = few(operation, dtype)
    expected = gradients(operation.call, x, y)
    with STATES[state]():
        found = gradients(operation.call, x, y)
    assert [one.dtype for one in found] == [dtype] * 3
    assert {str(one.device) for one in found} == {str(x.device)}
    assert_same(found, expected, 8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@every_operation
def test_without_gradients(operation: Operation, mode):
    x, y = few(operation, torch.float32)
    with mode():
        found = operation.call(x.requires_grad_(), y)
    assert not found.requires_grad
    assert_same(found, operation.call(x, y).detach(), 1e-6)


# ---- tracers


@every_operation
def test_jit_trace(operation: Operation, tmp_path):
    x, y = few(operation, torch.float32)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(lambda x, y: operation.call(x, y), (x, y)).save(str(tmp_path / "traced.pt"))
        traced = torch.jit.load(str(tmp_path / "traced.pt"))
    assert_same(traced(x.flip(0), y), operation.call(x.flip(0), y), 1e-6)
    assert_same(gradients(traced, x.flip(0), y), gradients(operation.call, x.flip(0), y), 1e-6)


@every_operation
def test_make_fx_of_a_gradient_step(operation: Operation):
    x, y = few(operation)

    def step(x: Tensor, y: Tensor) -> Tensor:
        return x - torch.autograd.grad(loss_of(operation.call, y)(x.requires_grad_()), x)[0]

    traced = make_fx(step)(x.clone(), y.clone())
    other = x.flip(0)
    assert_same(traced(other.clone(), y), step(other.clone(), y))


@every_operation
def test_symbolic_trace(operation: Operation):
    x, y = few(operation)

    class Model(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return operation.call(x, y) + 1

    traced = torch.fx.symbolic_trace(Model())
    assert_same(gradients(traced, x, y), gradients(Model(), x, y))


@pytest.mark.parametrize("dynamic", [False, True])
@every_operation
def test_export(operation: Operation, dynamic: bool):
    x, y = operation.inputs(dtype=torch.float32)

    class Model(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return operation.call(x, y)

    batch = {0: torch.export.Dim("batch", min=2, max=64)} if dynamic else {}
    paired = operation.name.startswith("similarity")
    program = torch.export.export(Model(), (x, y), dynamic_shapes=(batch, batch if paired else {}))
    other = x[:4] if dynamic else x.flip(0)
    partner = y[: len(other)] if paired else y
    assert_same(program.module()(other, partner), operation.call(other, partner), 1e-6)


@pytest.mark.parametrize("dynamic", [False, True])
@every_operation
def test_compile(operation: Operation, dynamic: bool):
    torch._dynamo.reset()
    x, y = operation.inputs(dtype=torch.float32)
    compiled = torch.compile(operation.call, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    assert_same(gradients(compiled, x, y), gradients(operation.call, x, y), 1e-6)
    extreme = x * 1e-36
    assert_same(compiled(extreme, y), operation.call(extreme, y), 1e-6)


# ---- function transforms


def stacked(x: Tensor) -> Tensor:
    return torch.stack([x, x.flip(0), 3 * x])


@every_operation
def test_vmap(operation: Operation):
    x, y = few(operation)
    xs, ys = stacked(x), stacked(y)
    for dims, given in (((0, None), (xs, y)), ((None, 0), (x, ys)), ((1, 0), (xs.movedim(0, 1), ys))):
        found = torch.func.vmap(operation.call, dims)(*given)
        pairs = zip(
            xs if dims[0] is not None else [x] * 3, ys if dims[1] is not None else [y] * 3, strict=True
        )
        assert_same(found, torch.stack([operation.call(*pair) for pair in pairs]))


@every_operation
def test_gradients_in_each_others_vmap(operation: Operation):
    torch._dynamo.reset()
    x, y = few(operation)
    xs = stacked(x)
    each = torch.func.vmap(torch.func.grad(loss_of(operation.call, y)))
    expected = torch.stack([torch.func.grad(loss_of(operation.reference, y))(one) for one in xs])
    assert_same(each(xs), expected)
    mapped = torch.func.grad(lambda xs: torch.func.vmap(loss_of(operation.call, y))(xs).sum())
    assert_same(mapped(xs), expected)
    compiled = torch.compile(each, backend="aot_eager", fullgraph=True)
    assert_same(compiled(xs), expected)


@every_operation
def test_jacobians(operation: Operation):
    x, y = few(operation)
    own, plain = (lambda x, f=f: f(x, y) for f in (operation.call, operation.reference))
    expected = jacobian(plain, x)
    assert_same(torch.func.jacrev(own)(x), expected)
    assert_same(torch.func.jacfwd(own)(x), expected)
    assert_same(jacobian(own, x, vectorize=True), expected)
    assert_same(jacobian(own, x, vectorize=True, strategy="forward-mode"), expected)
    leaf = x.clone().requires_grad_()
    output = own(leaf)
    each = torch.eye(output.numel(), dtype=x.dtype).reshape(-1, *output.shape)
    rows = torch.autograd.grad(output, leaf, each, is_grads_batched=True)[0]
    assert_same(rows.reshape(expected.shape), expected)


@every_operation
def test_second_derivatives(operation: Operation):
    x, y = few(operation)
    x = x[:1]
    y = y[:1] if operation.name.startswith("similarity") else y
    own, plain = loss_of(operation.call, y), loss_of(operation.reference, y)
    expected = torch.autograd.functional.hessian(plain, x)
    assert_same(torch.autograd.functional.hessian(own, x), expected, 1e-8)
    assert_same(torch.func.hessian(own)(x), expected, 1e-8)
    tangent = torch.cos(x)
    forward = torch.func.jvp(torch.func.grad(own), (x,), (tangent,))[1]
    assert_same(forward, torch.func.jvp(torch.func.grad(plain), (x,), (tangent,))[1], 1e-8)
    twice = torch.func.jvp(lambda x: torch.func.jvp(own, (x,), (tangent,))[1], (x,), (tangent,))[1]
    assert_same(twice, (tangent.flatten() @ expected.reshape(x.numel(), -1) @ tangent.flatten()), 1e-7)


@every_operation
def test_torchs_own_checks(operation: Operation):
    x, y = (one.requires_grad_() for one in few(operation))
    gradcheck, again = torch.autograd.gradcheck, torch.autograd.gradgradcheck
    assert gradcheck(operation.call, (x, y), check_forward_ad=True, check_batched_grad=True, fast_mode=True)
    assert again(operation.call, (x, y), check_fwd_over_rev=True, fast_mode=True)


# ---- tensors without data, and modes


@every_operation
def test_fake_and_meta_tensors(operation: Operation):
    x, y = operation.inputs(dtype=torch.bfloat16)
    expected = operation.call(x, y)
    on_meta = gradients(operation.call, x.to("meta"), y.to("meta"))
    with FakeTensorMode() as mode:
        fake = gradients(operation.call, mode.from_tensor(x), mode.from_tensor(y))
    for found in (on_meta, fake):
        assert [one.shape for one in found] == [expected.shape, x.shape, y.shape]
        assert {one.dtype for one in found} == {torch.bfloat16}


@every_operation
def test_flops_are_those_of_the_products(operation: Operation):
    x, y = operation.inputs(dtype=torch.float32)
    with FlopCounterMode(display=False) as counter:
        output, *_ = gradients(operation.call, x, y)
    length = y[0].numel()
    assert counter.get_total_flops() == 3 * 2 * output.numel() * length


@every_operation
def test_a_dispatch_mode_sees_one_operator(operation: Operation):
    x, y = few(operation)
    expected = gradients(operation.call, x, y)
    with Apart() as seen:
        found = gradients(operation.call, x, y)
    assert_same(found, expected)
    ours = [name for name in seen.names if name.startswith("cosnorm")]
    assert len(ours) == 2
    assert ours[1].removesuffix(".default") == ours[0].removesuffix(".default") + "_backward"


@pytest.mark.parametrize("impl", ["auto", "look", "torch", "triton"])
@every_operation
def test_results_are_memory_of_their_own(operation: Operation, impl: str, force):
    force(impl)
    for learning in ((False, False), (True, False), (False, True), (True, True)):
        x, y = (
            one.requires_grad_(needed)
            for one, needed in zip(few(operation, torch.float32), learning, strict=True)
        )
        for scale in (1, 1e-36):  # the second is declined by what looks at norms
            with Apart() as seen:
                output = operation.call(x * scale, y)
                if any(learning):
                    output.sum().backward()
            assert any(name.startswith("cosnorm") for name in seen.names)


# ---- what is no operation of two dense tensors


def test_a_sparse_matrix():
    weight = torch.randn(5, 20, dtype=torch.float64, requires_grad=True)
    x = (torch.rand(4, 20, dtype=torch.float64) * (torch.rand(4, 20) > 0.6)).to_sparse_csr()
    dense = x.to_dense()

    def own(weight: Tensor) -> Tensor:
        return functional.cosine_linear(x, weight)

    def plain(weight: Tensor) -> Tensor:
        return functional.cosine_linear(dense, weight)

    expected = jacobian(plain, weight)
    assert_same(jacobian(own, weight), expected)
    assert_same(jacobian(own, weight, vectorize=True), expected)
    assert torch.autograd.gradcheck(own, weight, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(own, weight)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(weight.detach(), torch.ones_like(weight))
        with pytest.raises(RuntimeError, match="no forward derivative"):
            own(dual)
    with pytest.raises(RuntimeError, match="Sparse CSR tensors do not have strides"):  # torch's own limit
        torch.func.grad(lambda weight: own(weight).sum())(weight)


def test_eight_bits_have_the_derivatives_of_the_rows_as_they_are():
    x, w = torch.randn(3, 16, dtype=torch.float64), torch.randn(4, 16, dtype=torch.float64)

    def own(x: Tensor) -> Tensor:
        return functional.cosine_linear(x, w, precision="fp8")

    expected = jacobian(lambda x: functional.cosine_linear(x, w), x)
    for found in (jacobian(own, x), torch.func.jacrev(own)(x), torch.func.jacfwd(own)(x)):
        assert_same(found, expected)


@pytest.mark.parametrize("augment", [0.0, 0.1])
@pytest.mark.parametrize("centered", [False, True])
def test_a_folded_layer(centered: bool, augment: float):
    from cosnorm.nn import CosineLinear

    layer = CosineLinear(7, 5, centered=centered, augment=augment, dtype=torch.float64)
    folded = layer.fold()
    x = torch.randn(3, 7, dtype=torch.float64)
    expected = jacobian(layer, x)
    for found in (jacobian(folded, x), torch.func.jacrev(folded)(x), torch.func.jacfwd(folded)(x)):
        assert_same(found, expected)
    with torch.autocast("cpu", torch.bfloat16):
        halves = CosineLinear(7, 5, centered=centered, augment=augment).fold()(x.float())
    assert halves.dtype == torch.bfloat16
    folded.weight.requires_grad_()
    with pytest.raises(RuntimeError, match="weight requires a gradient but receives none"):
        folded(x)
