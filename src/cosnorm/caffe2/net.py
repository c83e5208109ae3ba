"""Nets: operators in order, with the names of the blobs that come from outside."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from cosnorm.caffe2.arguments import MakeArgument
from cosnorm.caffe2.blobs import (
    BlobReference,
    CreateOperator,
    ScopedBlobReference,
    ScopedName,
    check_registered,
    name_of,
    references,
)
from cosnorm.caffe2.checks import text_of
from cosnorm.caffe2.gradients import GradientRegistry
from cosnorm.caffe2.proto import caffe2_pb2


class Net:
    """A net under construction. `net.Cos("X", "Y")` adds an operator and gives a reference to its output.

    A name that another net has taken is made unique: "angles", then "angles_1". Inputs that nothing in the
    net has made become external inputs. Without a name for its output an operator's is "angles/Cos", then
    "angles/Cos_2"; a number in its place asks for so many outputs, "angles/Cos:0" and on.

    Args:
        name_or_proto: the name of an empty net, or a NetDef to copy; "" is a name, too.

    Raises:
        TypeError: neither of these.

    Example:
        >>> from cosnorm.caffe2 import core
        >>> net = core.Net("similar")
        >>> cosine = net.CosineSimilarity(["X", "Y"], "similarity")
        >>> net.AddGradientOperators([cosine])[core.BlobReference("X")]
        BlobReference("X_grad")
    """

    _names_taken: ClassVar[set[str]] = set()

    def __init__(self, name_or_proto: str | caffe2_pb2.NetDef) -> None:
        self._net = caffe2_pb2.NetDef()
        if isinstance(name_or_proto, caffe2_pb2.NetDef):
            self._net.CopyFrom(name_or_proto)
            name = name_or_proto.name
        elif isinstance(name_or_proto, str):
            name = name_or_proto
        else:
            raise TypeError(f"a Net wants a str or a NetDef, got {name_or_proto!r}")
        self._net.name = Net._free_name(name)
        self._reserved: set[str] = set()
        self._next_numbers: dict[str, int] = {}
        self._forget()

    def _forget(self) -> None:
        """Whoever has the message may change it: what is defined is looked up anew."""
        self._defined: set[str] = set()
        self._looked_at = 0, 0  # operators and external inputs

    @staticmethod
    def _free_name(base: str) -> str:
        name, number = base, 1
        while name in Net._names_taken:
            name = f"{base}_{number}"
            number += 1
        Net._names_taken.add(name)
        return name

    def Name(self) -> str:
        """The net's name."""
        return self._net.name

    def __str__(self) -> str:
        return self.Name()

    def Proto(self) -> caffe2_pb2.NetDef:
        """The net's message itself, not a copy."""
        self._forget()
        return self._net

    def _outputs(self) -> set[str]:
        return {name for operator in self._net.op for name in operator.output}

    def BlobIsDefined(self, blob: Any) -> bool:
        """Whether an operator of the net makes the blob, or it is an external input."""
        operators, inputs = self._looked_at
        self._defined.update(self._net.external_input[inputs:])
        for one in self._net.op[operators:]:
            self._defined.update(one.output)
        self._looked_at = len(self._net.op), len(self._net.external_input)
        return name_of(blob) in self._defined

    def UsesBlob(self, blob: Any) -> bool:
        """Whether an operator reads the blob, or it is an external input."""
        name = name_of(blob)
        return name in self._net.external_input or any(name in one.input for one in self._net.op)

    def UsedBlobNames(self) -> set[str]:
        """The names of all blobs of the net."""
        names = {name for one in self._net.op for name in (*one.input, *one.output)}
        return names | set(self._net.external_input) | set(self._net.external_output)

    def GetBlobRef(self, blob_name: Any) -> BlobReference:
        """Raises a KeyError if the net does not define the blob."""
        if not self.BlobIsDefined(blob_name):
            raise KeyError(f"Net does not define blob {blob_name}")
        return BlobReference(blob_name, self)

    @property
    def external_inputs(self) -> list[BlobReference]:
        """The blobs that come from outside."""
        return [BlobReference(name) for name in self._net.external_input]

    @property
    def external_outputs(self) -> list[BlobReference]:
        """The blobs that the net is run for."""
        return [BlobReference(name) for name in self._net.external_output]

    def AddExternalInput(self, *inputs: Any) -> Any:
        """Declares inputs and gives a reference or a list of them. Raises an AssertionError for one twice."""
        names = [name_of(one) for one in inputs]
        for number, name in enumerate(names):
            there = name in self._net.external_input or name in names[:number]
            assert not there, f"Net already contains an input named {name}"
        self._net.external_input.extend(names)
        found = [BlobReference(name, self) for name in names]
        return found[0] if len(found) == 1 else found

    AddExternalInputs = AddExternalInput

    def AddScopedExternalInputs(self, *inputs: Any) -> list[BlobReference]:
        """`AddExternalInput` of names in the current NameScope."""
        found = self.AddExternalInput(*(ScopedBlobReference(name) for name in inputs))
        return found if isinstance(found, list) else [found]

    def AddExternalOutput(self, *outputs: Any) -> None:
        """Declares outputs, given as references. Raises an AssertionError for one that is not defined."""
        for output in outputs:
            assert isinstance(output, BlobReference), f"expected a BlobReference, got {type(output).__name__}"
            assert self.BlobIsDefined(output), f"{output} is not defined"
        self._net.external_output.extend(map(str, outputs))

    AddExternalOutputs = AddExternalOutput

    def AddScopedExternalOutputs(self, *outputs: Any) -> None:
        """`AddExternalOutput` of names in the current NameScope."""
        self.AddExternalOutput(*(ScopedBlobReference(name) for name in outputs))

    def AddArgument(self, arg_name: str, arg_value: Any) -> None:
        """Adds an argument of the net itself."""
        self._net.arg.append(MakeArgument(arg_name, arg_value))

    def NextName(self, prefix: str | None = None, output_id: int | None = None) -> str:
        """A name that no blob of the net has yet."""
        if prefix is None:
            number = self._next_numbers.get("", 0)
            self._next_numbers[""] = number + 1
            return f"{self.Name()}_blob_{number}"
        ending = "" if output_id is None else f":{output_id}"
        base = f"{self.Name()}/{text_of(prefix, 'a prefix')}"
        first = name = base + ending
        number = self._next_numbers.get(first, 2)
        while self.BlobIsDefined(ScopedName(name)):
            name = f"{base}_{number}{ending}"
            number += 1
            self._next_numbers[first] = number
        return name

    def NextBlob(self, prefix: str = "unnamed") -> BlobReference:
        """A name that no blob of the net has and no earlier call gave: the prefix, or that and "_auto_0"."""
        base = name = name_of(prefix)
        number = 0
        while name in self._reserved or self.BlobIsDefined(name):
            name = f"{base}_auto_{number}"
            number += 1
        self._reserved.add(name)
        return BlobReference(name)

    def NextScopedBlob(self, prefix: str = "unnamed") -> BlobReference:
        """`NextBlob` in the current NameScope."""
        return self.NextBlob(ScopedName(prefix))

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if op_type.startswith("_"):
            raise AttributeError(f"Attribute {op_type} not found.")
        check_registered(op_type)

        def add(inputs: Any, outputs: Any = None, **kwargs: Any) -> Any:
            return self._add(op_type, inputs, outputs, **kwargs)

        return add

    def _add(self, op_type: str, inputs: Any, outputs: Any, **kwargs: Any) -> Any:
        sources = references(inputs)
        for source in sources:
            if not self.BlobIsDefined(source):
                assert source.Net() is not self
                self.AddExternalInput(source)
        if outputs is None:
            outputs = self.NextName(op_type)
        elif isinstance(outputs, int):
            outputs = [self.NextName(op_type, number) for number in range(outputs)]
        operator = CreateOperator(op_type, sources, references(outputs, self), **kwargs)
        self._net.op.append(operator)
        made = tuple(BlobReference(name, self) for name in operator.output)
        return (made[0] if len(made) == 1 else made) if made else None

    def AddGradientOperators(self, ys: Any, skip: int = 0) -> dict[BlobReference, BlobReference]:
        """Adds the gradient operators of the net's operators, but the first `skip`.

        Args:
            ys: the blobs to differentiate: a list, whose gradients are filled with 1, or a dict from blobs to
                the blobs of their gradients.
            skip: number of operators at the beginning that want no gradient.

        Returns:
            The gradient of each blob that has one.

        Raises:
            RuntimeError: a gradient operator needs a value that was overwritten.
            Exception: an operator without a gradient.
        """
        operators, gradients = GradientRegistry.GetBackwardPass(self._net.op[skip:], ys)
        self._net.op.extend(operators)
        return gradients

    def AppendNet(self, net: "Net", device_option: caffe2_pb2.DeviceOption | None = None) -> "Net":
        """Adds the operators of another net, with its inputs and outputs."""
        made = self._outputs()
        for name in net.Proto().external_input:
            if name not in self._net.external_input and name not in made:
                self._net.external_input.append(name)
        for name in net.Proto().external_output:
            if name not in self._net.external_output:
                self._net.external_output.append(name)
        for operator in net.Proto().op:
            added = self._net.op.add()
            added.CopyFrom(operator)
            if device_option is not None:
                added.device_option.CopyFrom(device_option)
        return self

    def Clone(
        self,
        name: str,
        blob_remap: Mapping[Any, Any] | None = None,
        op_id_mask: Iterable[int] | None = None,
        remap_funcs: Mapping[str, Callable[..., Any]] | None = None,
        keep_schema: bool = True,
    ) -> "Net":
        """A copy under another name.

        Args:
            name: of the copy.
            blob_remap: new names of blobs.
            op_id_mask: the numbers of the operators to keep; by default all.
            remap_funcs: by the type of an operator, what receives each such operator of the copy, the copy's
                name with a slash and `blob_remap`, to rename what the arguments name.
            keep_schema: not looked at: nets have no schemas here.
        """
        del keep_schema
        renamed = {str(old): str(new) for old, new in (blob_remap or {}).items()}
        copy = caffe2_pb2.NetDef()
        copy.CopyFrom(self._net)
        copy.name = name
        kept = list(copy.op) if op_id_mask is None else [copy.op[number] for number in op_id_mask]
        chosen = [caffe2_pb2.OperatorDef.FromString(one.SerializeToString()) for one in kept]
        del copy.op[:]
        copy.op.extend(chosen)
        lists: list[Any] = [copy.external_input, copy.external_output]
        for names in [*lists, *(part for one in copy.op for part in (one.input, one.output))]:
            names[:] = [renamed.get(one, one) for one in names]
        for one in copy.op:
            if remap_funcs and one.type in remap_funcs:
                remap_funcs[one.type](one, f"{name}/" if name else "", blob_remap or {})
        return Net(copy)

    def RunAllOnGPU(self, gpu_id: int = 0, use_cudnn: bool = False) -> None:
        """Sets the net's device; `use_cudnn` is kept as the engine."""
        self._net.device_option.device_type = caffe2_pb2.PROTO_CUDA
        self._net.device_option.device_id = gpu_id
        if use_cudnn:
            for operator in self._net.op:
                operator.engine = "CUDNN"
