"""The Triton kernels compiled for GPUs that are not here, as they are launched, and what they take.

A program of its own (`python tests/backends/ahead.py …` prints JSON), because triton decides on import
whether kernels are interpreted. The backend is called with tensors that have shapes and no data; what it
would launch is compiled for a GPU, and the assembler's own report is read: registers, stack (what spills),
shared memory.
"""

import argparse
import importlib
import json
import pkgutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

import cosnorm.backends.triton as kernels
from cosnorm.backends.geometry import Geometry
from cosnorm.backends.pairs import Direction, Exclusion, Places
from cosnorm.backends.torch.contraction import MATRIX
from cosnorm.backends.triton import fields, fp8, rows, sigmoid, softmax, targets, unit_rows
from cosnorm.backends.triton.launch import Launch, launches

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# These have other numbers of 8 bits, or none.
NOT_THERE = {("_quantize", "sm_80"), ("_quantize", "gfx942")}


def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor without data."""
    return torch.empty(shape, dtype=dtype, device="meta")


def _rows(dtype: torch.dtype, n: int, m: int, size: int, centered: bool, augment: float) -> None:
    x, w = tensor(n, size, dtype=dtype), tensor(m, size, dtype=dtype)
    options: Any = {"centered": centered, "augment": augment}
    output, *saved = rows.cosines(x, w, MATRIX, keep=True, **options)
    rows.gradients(torch.empty_like(output), x, w, *saved, MATRIX, needs=[True, True], **options)


def _fields(
    dtype: torch.dtype, order: torch.memory_format, centered: bool, augment: float, groups: int = 1
) -> None:
    x, w = tensor(32, 64, 56, 56, dtype=dtype), tensor(128, 64 // groups, 3, 3, dtype=dtype)
    x, w = (one.contiguous(memory_format=order) for one in (x, w))
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1), groups)
    if not fields.handles(x, w, geometry, centered):
        return
    options: Any = {"centered": centered, "augment": augment}
    output, *saved = fields.cosines(x, w, geometry, keep=True, **options)
    fields.gradients(torch.empty_like(output), x, w, *saved, geometry, needs=[True, True], **options)


def _pairs(dtype: torch.dtype, exclusion: Exclusion, both: bool) -> None:
    x, y = tensor(4096, 512, dtype=dtype), tensor(4096, 512, dtype=dtype)
    along = Direction(tensor(4096), tensor(4096))
    softmax.log_sums(x, y, 10.0, exclusion)
    softmax.gradients(x, y, 10.0, exclusion, along, along if both else None, x.float(), y.float())


def _losses(dtype: torch.dtype, places: Places, scale: float | Tensor, own: bool, symmetric: bool) -> None:
    given = [tensor(4096, 512, dtype=dtype) for _ in range(1 if symmetric else 2)]
    units, rounded, divisors = unit_rows.units_beside(given, dtype)
    x, y = (rounded, rounded) if symmetric else (rounded[:4096], rounded[4096:])
    exclusion = Exclusion(offset=0 if symmetric else None)
    columns = places == Places() and not own
    found = softmax.losses(x, y, scale, exclusion, places, own=own, columns=columns)
    found.sums()
    into = torch.empty_like(units)
    others = None if symmetric else into[4096:]
    options: Any = {"own": own, "symmetric": symmetric, "tile": None}
    softmax.loss_gradients(x, y, scale, exclusion, places, found, into[:4096], others, **options)
    unit_rows.project_(into, units, scale)
    sets = [(len(one), one.dtype) for one in given]
    unit_rows.finish_each(into, divisors, tensor(), sets)


def _units(dtype: torch.dtype, size: int) -> None:
    given = [tensor(100, size, dtype=dtype), tensor(1000, size, dtype=dtype)]
    units, _, divisors = unit_rows.units_beside(given, dtype)
    unit_rows.project_(torch.empty_like(units), units)
    unit_rows.finish_each(units, divisors, tensor(), [(len(one), one.dtype) for one in given])


def _sigmoids(dtype: torch.dtype, number: float | Tensor, weights: Tensor | None) -> None:
    x, y = tensor(4096, 512, dtype=dtype), tensor(4096, 512, dtype=dtype)
    into: Any = {"into_x": x.float(), "into_y": y.float()}
    sigmoid.whole_losses(x, y, number, number, weights=weights, tile=None, **into)
    sigmoid.whole_losses(x, y, number, number, weights=None, tile=None, into_x=None, into_y=None)


def _targets(dtype: torch.dtype, size: int, classes: Tensor | None, directions: bool) -> None:
    places = tensor(4096, dtype=torch.int64)
    targets.find(tensor(4096, size, dtype=dtype), tensor(1000, size), places, classes, directions=directions)


def _quantized(dtype: torch.dtype, centered: bool) -> None:
    fp8.quantize(tensor(4096, 1024, dtype=dtype), centered=centered, augment=1e-4)


def cases(dtype: torch.dtype) -> Iterator[Callable[[], object]]:
    """Calls of the backend that launch every kernel in each of its forms."""
    numbers = tensor(4096, dtype=torch.int64)
    for centered in (False, True):
        for augment in (0.0, 1e-4):
            yield partial(_rows, dtype, 4096, 4096, 1024, centered, augment)
            yield partial(_rows, dtype, 8, 4096, 1024, centered, augment)
            for order in (torch.contiguous_format, torch.channels_last):
                yield partial(_fields, dtype, order, centered, augment)
        for size in (63, 64, 2047):
            yield partial(_rows, dtype, 100, 1000, size, centered, 0.0)
            yield partial(_units, dtype, size)
        yield partial(_quantized, dtype, centered)
    for exclusion in (
        Exclusion(),
        Exclusion(offset=0),
        Exclusion(partner=numbers),
        Exclusion(labels=(numbers, numbers)),
        Exclusion(mask=tensor(4096, 4096, dtype=torch.bool)),
    ):
        yield partial(_pairs, dtype, exclusion, exclusion.offset is not None)
    for size in (128, 63):
        for classes in (None, numbers):
            for directions in (False, True):
                yield partial(_targets, dtype, size, classes, directions)
    for number in (10.0, tensor()):
        for weights in (None, tensor(4096)):
            yield partial(_sigmoids, dtype, number, weights)
    for places in (Places(), Places(given=numbers), Places(labels=(numbers, numbers), offset=0)):
        for scale in (10.0, tensor()):
            for own, symmetric in ((False, False), (True, False), (False, True)):
                if not (symmetric and places == Places()):
                    yield partial(_losses, dtype, places, scale, own, symmetric)


def every_kernel() -> set[str]:
    """The names of all functions that are compiled, in all modules of the backend."""
    found = set()
    for module in pkgutil.iter_modules(kernels.__path__):
        own = importlib.import_module(f"{kernels.__name__}.{module.name}")
        found |= {
            name
            for name, value in vars(own).items()
            if isinstance(value, JITFunction) and value.fn.__module__ == own.__name__
        }
    return found


def launched(dtype: torch.dtype) -> list[Launch]:
    """All that the cases launch."""
    with launches(held=True) as seen:
        for case in cases(dtype):
            case()
    return seen


def _source(one: Launch, target: GPUTarget) -> tuple[ASTSource, dict[str, Any]]:
    """What the compiler would be given for a launch on a GPU."""
    backend = make_backend(target)
    own = {
        name: value for name, value in one.options.items() if name != "maxnreg" or target.backend == "cuda"
    }
    bind = create_function_from_signature(one.kernel.signature, one.kernel.params, backend)
    bound, specialization, options = bind(*one.arguments, **one.constants, **own)
    options, signature, constants, attributes = one.kernel._pack_args(
        backend, options, bound, specialization, options
    )
    return ASTSource(one.kernel, signature, constants, attributes), options.__dict__


def _resources(binary: Any) -> dict[str, int]:
    """Registers and stack of a program's threads, from the assembler's report."""
    if "cubin" not in binary.asm:
        assembly = binary.asm["amdgcn"]

        def said(name: str) -> int:
            return int(assembly.split(f".{name}:", 1)[1].split()[0])

        return {"registers": said("vgpr_count"), "stack": said("private_segment_fixed_size")}
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        report = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    numbers = dict(
        part.split(":")
        for part in report.split("Function", 1)[1].split()
        if part.startswith(("REG:", "STACK:"))
    )
    return {"registers": int(numbers["REG"]), "stack": int(numbers["STACK"])}


class Cell(NamedTuple):
    """One launch for one GPU."""

    one: Launch
    dtype: str
    target: str


def forms(dtype: str) -> dict[str, list[Launch]]:
    """Each kernel that is launched, in each form that a compiler tells from the others."""
    found: dict[str, dict[Any, Launch]] = {}
    for one in launched(DTYPES[dtype]):
        source, _ = _source(one, TARGETS["sm_90"])
        found.setdefault(one.kernel.__name__, {}).setdefault((source.hash(), str(one.options)), one)
    return {name: list(each.values()) for name, each in found.items()}


def every_cell(dtypes: list[str], targets: list[str]) -> list[Cell]:
    """All forms of all kernels in these dtypes for these GPUs."""
    all_forms = [(dtype, one) for dtype in dtypes for each in forms(dtype).values() for one in each]
    return [Cell(one, dtype, target) for dtype, one in all_forms for target in targets]


def once(dtype: str, target: str) -> list[Cell]:
    """One form of each kernel."""
    return [Cell(each[0], dtype, target) for each in forms(dtype).values()]


def chosen_cells() -> list[Cell]:
    """Each form of each kernel at least once; each kernel in each dtype and for each GPU.

    Dtypes and GPUs go round at their own pace, from another beginning for each kernel.
    """
    by_dtype = {dtype: forms(dtype) for dtype in DTYPES}
    cells = []
    for number, name in enumerate(sorted(by_dtype["float32"])):
        most = max(len(each[name]) for each in by_dtype.values())
        for turn in range(max(most, len(TARGETS))):
            dtype = list(DTYPES)[(turn + number) % len(DTYPES)]
            target = list(TARGETS)[turn % len(TARGETS)]
            own = by_dtype[dtype][name]
            cells.append(Cell(own[turn % len(own)], dtype, target))
    return cells


def compiled(cells: list[Cell]) -> list[dict[str, Any]]:
    """What they take, compiled; without those for which a GPU has no numbers."""
    found: list[dict[str, Any]] = []
    for one, dtype, target in cells:
        name = one.kernel.__name__
        if (name, target) in NOT_THERE:
            continue
        source, options = _source(one, TARGETS[target])
        try:
            binary = triton.compile(source, target=TARGETS[target], options=options)
        except Exception as error:
            raise RuntimeError(f"{name} {dtype} {target} {one.constants}") from error
        found.append(
            {
                "kernel": name,
                "dtype": dtype,
                "target": target,
                "constants": {k: v for k, v in one.constants.items() if not isinstance(v, Tensor)},
                "shared": binary.metadata.shared,
                **_resources(binary),
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--once", action="store_true", help="one form of each kernel, float32 on sm_90")
    parser.add_argument("--chosen", action="store_true", help="each form once, each kernel on each GPU")
    parser.add_argument("--table", action="store_true", help="for people")
    given = parser.parse_args()
    if given.once:
        cells = once("float32", "sm_90")
    else:
        cells = chosen_cells() if given.chosen else every_cell(given.dtypes, given.targets)
    found = compiled(cells)
    if not given.table:
        # Those that a GPU is not there for are launched, too.
        names = {one.kernel.__name__ for one, _, _ in cells}
        report = {
            "kernels": sorted(every_kernel()),
            "called": sorted(_called(names)),
            "absent": sorted(NOT_THERE),
            "compiled": found,
        }
        print(json.dumps(report))
        return
    for one in found:
        print(
            f"{one['kernel']:20} {one['dtype']:9} {one['target']:7} registers {one['registers']:3} "
            f"stack {one['stack']:4} shared {one['shared']:6} {one['constants']}"
        )


def _called(names: set[str]) -> set[str]:
    """The functions that these call, and these themselves."""
    names = set(names)
    by_name = {}
    for module in pkgutil.iter_modules(kernels.__path__):
        own = importlib.import_module(f"{kernels.__name__}.{module.name}")
        by_name |= {name: one for name, one in vars(own).items() if isinstance(one, JITFunction)}
    left = list(names)
    while left:
        for name in by_name[left.pop()].fn.__code__.co_names:
            if name in by_name and name not in names:
                names.add(name)
                left.append(name)
    return names


if __name__ == "__main__":
    main()
