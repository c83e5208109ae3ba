"""What an operator is: how many blobs it takes, what it computes, which operators compute its gradient."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cosnorm.caffe2.arguments import Arguments
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.stringify import shown

# From the values of the input blobs to those of the output blobs: one, or a tuple of several. Kernels never
# write into their inputs, and torch can differentiate and compile them.
Kernel = Callable[..., Any]
# From an operator and the names of its outputs' gradients to the gradient operators and the names of its
# inputs' gradients; None stands for none.
GradientMaker = Callable[
    [caffe2_pb2.OperatorDef, Sequence[str | None]], tuple[list[caffe2_pb2.OperatorDef], list[str | None]]
]
MANY = 2**31 - 1

FLOAT = (torch.float32,)
FLOATS = (torch.float32, torch.float64)
NUMBERS = (torch.int32, torch.int64, torch.float32, torch.float64)
NAMES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "c10::Half",
    torch.int8: "signed char",
    torch.int16: "short int",
    torch.int32: "int",
    torch.int64: "long int",
    torch.uint8: "unsigned char",
    torch.uint16: "short unsigned int",
    torch.bool: "bool",
}


@dataclass(frozen=True)
class Operator:
    """One type of operator.

    Attributes:
        make: from the arguments of an operator to its kernel; a wrong argument is an error here, not later.
        inputs: the least and the greatest number of inputs.
        outputs: the same of outputs.
        dtypes: for each input the dtypes that it may have, or None for any; the last is for all further ones.
        dispatched: whether the original looks the first input's dtype up ("Unsupported type of tensor").
        in_place: the pairs of an input and an output that may be one blob; None if all may.
        gradient: makes the gradient operators.
        inferred: whether the original infers shapes.
    """

    name: str
    make: Callable[[Arguments], Kernel]
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    dtypes: tuple[tuple[torch.dtype, ...] | None, ...]
    dispatched: bool
    in_place: frozenset[tuple[int, int]] | None
    gradient: GradientMaker | None
    inferred: bool

    def verify(self, definition: caffe2_pb2.OperatorDef) -> None:
        """Raises a RuntimeError for a wrong number of blobs, or one in-place that must not be."""
        problem = ""
        for what, names, (least, most) in (
            ("Input", definition.input, self.inputs),
            ("Output", definition.output, self.outputs),
        ):
            if not least <= len(names) <= most:
                problem = f"{what} size {len(names)} not in range [min={least}, max={most}]."
        for place, name in enumerate(definition.output):
            for source, other in enumerate(definition.input):
                allowed = self.in_place is None or (source, place) in self.in_place
                if name == other and not allowed:
                    problem = (
                        f"Input index {source} and output idx {place} ({name}) are set to be in-place but "
                        f"this is actually not supported by op {self.name}"
                    )
        if problem:
            raise RuntimeError(f"Operator def did not pass schema checking: {problem}\n{definition}")

    def check_dtypes(self, values: Sequence[Any]) -> None:
        """Raises a RuntimeError at the first input that holds no tensor, or one of another dtype."""
        for number, value in enumerate(values):
            allowed = self.dtypes[min(number, len(self.dtypes) - 1)]
            if value is None or (allowed is not None and not isinstance(value, torch.Tensor)):
                found = "nullptr (uninitialized)" if value is None else "strings"
                raise RuntimeError(
                    f"wrong type for the Blob instance. Blob contains {found} while caller expects "
                    "caffe2::Tensor"
                )
            if allowed is None:
                continue
            if value.dtype not in allowed:
                found = NAMES.get(value.dtype, str(value.dtype))
                if self.dispatched and number == 0:
                    raise RuntimeError(f"Unsupported type of tensor: {found}")
                # Where the first input's type was looked up, inputs of the same kind are to have it.
                alike = self.dispatched and allowed == self.dtypes[0]
                expected = NAMES[values[0].dtype if alike else allowed[0]]
                raise RuntimeError(
                    f"Tensor type mismatch, caller expects elements to be {expected}, "
                    f"while tensor contains {found}."
                )


OPERATORS: dict[str, Operator] = {}


def operator(
    name: str,
    *,
    inputs: int | tuple[int, int] = 1,
    outputs: int | tuple[int, int] = 1,
    dtypes: Sequence[tuple[torch.dtype, ...] | None] = (FLOAT,),
    dispatched: bool = False,
    in_place: Sequence[tuple[int, int]] | None = (),
    gradient: GradientMaker | None = None,
    inferred: bool = True,
) -> Callable[[Callable[[Arguments], Kernel]], Callable[[Arguments], Kernel]]:
    """Registers what makes the kernels of a type of operator; the parameters are `Operator`'s."""

    def register(make: Callable[[Arguments], Kernel]) -> Callable[[Arguments], Kernel]:
        OPERATORS[name] = Operator(
            name,
            make,
            (inputs, inputs) if isinstance(inputs, int) else inputs,
            (outputs, outputs) if isinstance(outputs, int) else outputs,
            tuple(dtypes),
            dispatched,
            None if in_place is None else frozenset(in_place),
            gradient,
            inferred,
        )
        return make

    return register


def find(definition: caffe2_pb2.OperatorDef) -> Operator:
    """The operator of a definition, whose numbers of blobs have been checked.

    Raises:
        RuntimeError: a type that is not known, or blobs that its schema does not allow.
    """
    known = OPERATORS.get(definition.type)
    if known is None:
        raise RuntimeError(
            f"Cannot create operator of type '{shown(definition.type)}' on the device 'CPU'. "
            f"Known are {', '.join(sorted(OPERATORS))}."
        )
    known.verify(definition)
    return known


def check_known(*nets: caffe2_pb2.NetDef) -> None:
    """Raises a RuntimeError that counts the operators of each type that is not known, in all of the nets."""
    counts = Counter(one.type for net in nets for one in net.op if one.type not in OPERATORS)
    if counts:
        listed = ", ".join(f"{shown(type_)} ({count})" for type_, count in counts.most_common())
        raise RuntimeError(
            f"Cannot create operator of type '{shown(next(iter(counts)))}' on the device 'CPU'. "
            f"Not in cosnorm.caffe2 are, with their numbers in the net: {listed}"
        )


# "X0" is the name of input 0, "Y0" of output 0, "dX0" of the gradient of input 0, "dY0" of that of output 0.
_TOKEN = re.compile(r"(d?)([XY])(\d+)")


def gradient_of(type_: str, inputs: str, outputs: str) -> GradientMaker:
    """The usual gradient: one operator, which receives the arguments, the engine and the device of the first.

    Args:
        type_: of the gradient operator.
        inputs: its inputs, such as "X0 X1 dY0".
        outputs: its outputs, such as "dX0 dX1"; other inputs receive no gradient.
    """

    def make(
        definition: caffe2_pb2.OperatorDef, output_gradients: Sequence[str | None]
    ) -> tuple[list[caffe2_pb2.OperatorDef], list[str | None]]:
        made = [new_operator(definition, type_, inputs, outputs, output_gradients)]
        return made, input_gradients(definition, outputs)

    return make


def input_gradients(definition: caffe2_pb2.OperatorDef, outputs: str) -> list[str | None]:
    """The names of the inputs' gradients, of those inputs that `outputs` ("dX0 dX1") has."""
    given = outputs.split()
    return [f"{name}_grad" if f"dX{i}" in given else None for i, name in enumerate(definition.input)]


def new_operator(
    definition: caffe2_pb2.OperatorDef,
    type_: str,
    inputs: str,
    outputs: str,
    output_gradients: Sequence[str | None],
    arguments: Sequence[caffe2_pb2.Argument] = (),
    copy_arguments: bool = True,
) -> caffe2_pb2.OperatorDef:
    """A gradient operator with the blobs that the tokens name, and `arguments` before the copied ones."""

    def name(token: str) -> str:
        match = _TOKEN.fullmatch(token)
        assert match, token
        of_gradient, side, number = match[1], match[2], int(match[3])
        if of_gradient and side == "Y":
            gradient = output_gradients[number]
            if gradient is None:
                raise RuntimeError(f"Gradient of output {definition.output[number]} is not provided.")
            return gradient
        blob = (definition.input if side == "X" else definition.output)[number]
        return f"{blob}_grad" if of_gradient else blob

    made = caffe2_pb2.OperatorDef(type=type_, name="", is_gradient_op=True)
    made.input.extend(map(name, inputs.split()))
    made.output.extend(map(name, outputs.split()))
    made.arg.extend([*arguments, *(definition.arg if copy_arguments else ())])
    if definition.HasField("device_option"):
        made.device_option.CopyFrom(definition.device_option)
    if definition.HasField("engine"):
        made.engine = definition.engine
    return made
