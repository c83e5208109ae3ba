"""Every public operation with inputs and its plain formula: what the tests of the contract run over."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest
import reference
import torch
from torch import Tensor

from cosnorm import functional
from cosnorm.functional.overrides import overridable

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def seeded(seed: int, device: torch.device | None = None) -> torch.Generator:
    """Random numbers on a device, by default on that of the tests."""
    return torch.Generator(device or torch.get_default_device()).manual_seed(seed)


@dataclass(frozen=True)
class Operation:
    """One operation with one set of options.

    rows: x with its vectors along the last dimension for all but convolutions, and `samples` first for all.
    """

    name: str
    call: Callable[[Tensor, Tensor], Tensor]
    reference: Callable[[Tensor, Tensor], Tensor]
    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]
    centered: bool
    is_conv: bool = False
    dtypes: tuple[torch.dtype, ...] = DTYPES

    def inputs(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        device = torch.get_default_device()
        generator = seeded(seed, device)
        x = torch.randn(self.x_shape, generator=generator, dtype=torch.float64, device=device)
        y = torch.randn(self.y_shape, generator=generator, dtype=torch.float64, device=device)
        return x.to(dtype), y.to(dtype)

    def cotangent(self, output: Tensor, seed: int = 1) -> Tensor:
        device = output.device
        generator = seeded(seed, device)
        return torch.randn(output.shape, generator=generator, dtype=torch.float64, device=device).to(
            output.dtype
        )


def _conv(rank: int, **options) -> tuple[Callable, Callable]:
    call = getattr(functional, f"cosine_conv{rank}d")
    return partial(call, **options), partial(reference.conv, **options)


def _operations() -> list[Operation]:
    found = []
    for centered in (False, True):
        suffix = "-centered" if centered else ""
        rows = {"centered": centered}
        found += [
            Operation(
                f"similarity{suffix}",
                partial(functional.cosine_similarity, **rows),
                partial(reference.cosine, **rows),
                (9, 63),
                (9, 63),
                centered,
            ),
            Operation(
                f"pairwise{suffix}",
                partial(functional.pairwise_cosine, **rows),
                partial(reference.linear, **rows),
                (9, 63),
                (5, 63),
                centered,
            ),
            Operation(
                f"linear{suffix}",
                partial(functional.cosine_linear, **rows),
                partial(reference.linear, **rows),
                (9, 123),
                (7, 123),
                centered,
            ),
        ]
        for rank, x_shape, y_shape, options in (
            (1, (9, 3, 11), (5, 3, 4), {"stride": 2}),
            (2, (9, 4, 7, 6), (6, 2, 3, 2), {"groups": 2, "padding": 1}),
            (3, (9, 2, 4, 5, 3), (3, 2, 2, 2, 2), {}),
        ):
            call, plain = _conv(rank, centered=centered, **options)
            found.append(
                Operation(f"conv{rank}d{suffix}", call, plain, x_shape, y_shape, centered, is_conv=True)
            )
    return found


@overridable
def nearest(x: Tensor, y: Tensor) -> Tensor:
    """All keys of each query, found and put back into their order: every cosine; NaN where none was found."""
    number = len(y)
    if not number:
        return functional.pairwise_cosine(x, y)
    found = functional.cosine_topk(x, y, number)
    places = found.indices.where(found.indices >= 0, number)  # behind the last
    all_nan = found.values.new_full((x.shape[0], number + 1), torch.nan)
    return all_nan.scatter(1, places, found.values)[:, :number].clone()


OPERATIONS = [*_operations(), Operation("topk", nearest, reference.linear, (9, 63), (5, 63), False)]


# The same by the Triton kernels, in their interpreter: few rows, and more than few; and small images, whose
# extreme fields are slow there.
KERNELS = [
    replace(
        operation,
        name=f"{operation.name}-triton{suffix}",
        call=partial(operation.call, impl="triton"),
        x_shape=(rows, *operation.x_shape[1:]),
        dtypes=DTYPES[1:],
    )
    for operation in OPERATIONS
    for suffix, rows in (("", 9), ("-rows", 17))
    if operation.name.startswith("linear")
] + [
    replace(
        operation,
        name=f"{operation.name}-triton",
        call=partial(operation.call, impl="triton"),
        x_shape=(5, 4, 3, 2),
        y_shape=(4, 2, 2, 1),
        dtypes=DTYPES[1:],
    )
    for operation in OPERATIONS
    if operation.name.startswith("conv2d")
]


# What the compiled passes do in float32 is done by torch's operators where there are none: `conftest` forces
# them for a whole test.
KERNELS += [
    replace(operation, name=f"{operation.name}-operators", dtypes=(torch.float32,))
    for operation in OPERATIONS
    if operation.name in ("linear", "linear-centered", "conv2d", "conv2d-centered")
]


def _name(value: object) -> str:
    return value.name if isinstance(value, Operation) else str(value).removeprefix("torch.")


every_operation = pytest.mark.parametrize("operation", [*OPERATIONS, *KERNELS], ids=_name)
every_operation_in_float64 = pytest.mark.parametrize("operation", OPERATIONS, ids=_name)
every_operation_and_dtype = pytest.mark.parametrize(
    ("operation", "dtype"), [(o, dtype) for o in (*OPERATIONS, *KERNELS) for dtype in o.dtypes], ids=_name
)
each_operation = [(operation.name, operation) for operation in OPERATIONS]


def value_and_gradients(
    function: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, cotangent: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and the gradients in x and y for the cotangent that is made for it."""
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    output = function(x, y)
    gradient_x, gradient_y = torch.autograd.grad(output, (x, y), cotangent(output))
    return output.detach(), gradient_x, gradient_y
