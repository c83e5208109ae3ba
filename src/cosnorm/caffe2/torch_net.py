"""The way out of Caffe2: a net as a torch module."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cosnorm.caffe2.arguments import Arguments
from cosnorm.caffe2.checks import list_of
from cosnorm.caffe2.net import Net
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.registry import check_known, find
from cosnorm.caffe2.runtime import Workspace
from cosnorm.caffe2.tensors import from_array


class Operation(nn.Module):
    """One operator of a net."""

    def __init__(self, definition: caffe2_pb2.OperatorDef) -> None:
        super().__init__()
        self.kind = definition.type
        self.inputs, self.outputs = list(definition.input), list(definition.output)
        self._definition = caffe2_pb2.OperatorDef()
        self._definition.CopyFrom(definition)
        self._make()

    def _make(self) -> None:
        self._operator = find(self._definition)
        self._kernel = self._operator.make(Arguments(self._definition))

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: kernels are functions within functions, and are made again."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_operator", "_kernel")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._make()

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The values of the outputs."""
        self._operator.check_dtypes(values)
        results = self._kernel(*values)
        made = results if isinstance(results, tuple) else (results,)
        return tuple(self._own(result, values) for result in made)

    def _own(self, result: Any, values: Sequence[Any]) -> Any:
        """A copy of what a kernel passes on, as Copy's does: who changes that must not change the input."""
        passed_on = self.kind == "StopGradient" or any(result is value for value in values)
        return result.clone() if passed_on and isinstance(result, Tensor) else result

    def extra_repr(self) -> str:
        """The names of the blobs."""
        return f"{self.kind}: {', '.join(self.inputs)} -> {', '.join(self.outputs)}"


class TorchNet(nn.Module):
    """A Caffe2 net as a module; `to_torch` makes it.

    Attributes:
        inputs: the names of the arguments of `forward`, in order.
        outputs: the names of what `forward` returns, in order.
        operations: one module an operator.

    Example:
        >>> from cosnorm.caffe2 import core, to_torch
        >>> net = core.Net("angles")
        >>> cosine = net.Cos("X", "Y")
        >>> to_torch(net)
        TorchNet(
          (operations): ModuleList(
            (0): Operation(Cos: X -> Y)
          )
        )
    """

    def __init__(
        self,
        definition: caffe2_pb2.NetDef,
        parameters: Mapping[str, Tensor],
        inputs: Sequence[str],
        outputs: Sequence[str],
    ) -> None:
        super().__init__()
        self.inputs, self.outputs = list(inputs), list(outputs)
        self.operations = nn.ModuleList(Operation(operator) for operator in definition.op)
        self._attributes: dict[str, str] = {}
        for name, tensor in parameters.items():
            attribute = re.sub(r"\W", "_", name)
            while hasattr(self, attribute) or attribute in self._attributes.values():
                attribute += "_"
            self._attributes[name] = attribute
            if tensor.is_floating_point():
                self.register_parameter(attribute, nn.Parameter(tensor))
            else:
                self.register_buffer(attribute, tensor)

    def forward(self, *inputs: Tensor) -> Any:
        """The output, or a tuple of several.

        Raises:
            TypeError: another number of inputs than `self.inputs` has.
        """
        if len(inputs) != len(self.inputs):
            raise TypeError(
                f"expected {len(self.inputs)} inputs ({', '.join(self.inputs)}), got {len(inputs)}"
            )
        blobs: dict[str, Tensor] = {name: getattr(self, at) for name, at in self._attributes.items()}
        blobs.update(zip(self.inputs, inputs, strict=True))
        for operation in self.operations:
            results = operation(*(blobs[name] for name in operation.inputs))  # type: ignore[union-attr]
            blobs.update(zip(operation.outputs, results, strict=True))  # type: ignore[arg-type]
        found = tuple(blobs[name] for name in self.outputs)
        return found if len(found) > 1 else found[0]


def to_torch(
    net: Net | caffe2_pb2.NetDef,
    init: Net | caffe2_pb2.NetDef | Mapping[str, Any] | None = None,
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> TorchNet:
    """A module that computes what a net computes, and that trains, compiles, exports and pickles.

    Operators that overwrite a parameter, as those that train a net do, do so within one call of the module:
    each call begins with the module's parameters, which are for an optimizer of torch to change.

    Args:
        net: the net, without gradient operators.
        init: the net that fills the parameters, or arrays or tensors by name. Those of a floating dtype
            become parameters of the module, others buffers.
        inputs: names of `forward`'s arguments; by default the blobs that nothing else gives, in the order of
            the net's external inputs.
        outputs: names of what it returns; by default the net's external outputs, or else what no later
            operator reads.

    Raises:
        RuntimeError: unknown operators, or a blob that neither `init`, the inputs nor an operator gives.
        TypeError: `inputs` or `outputs` is no list.

    Example:
        >>> import torch
        >>> from cosnorm.caffe2 import core, to_torch
        >>> net = core.Net("example")
        >>> cosines = net.CosineSimilarity(["X", "Y"], "cosines")
        >>> to_torch(net)(torch.ones(2, 4), torch.ones(2, 4))
        tensor([1., 1.])
    """
    definition = net.Proto() if isinstance(net, Net) else net
    check_known(definition)
    parameters = _parameters(init)
    made: set[str] = set(parameters)
    free: dict[str, None] = {}
    read: set[str] = set()
    last: dict[str, None] = {}  # what no later operator reads
    for operator in definition.op:
        for name in operator.input:
            read.add(name)
            last.pop(name, None)
            if name not in made:
                free[name] = None
        made.update(operator.output)
        last.update(dict.fromkeys(operator.output))
    in_order = [name for name in definition.external_input if name in free]
    wanted = (
        list_of(inputs, "inputs")
        if inputs is not None
        else [*in_order, *(name for name in free if name not in in_order)]
    )
    missing = [name for name in free if name not in wanted]
    if missing:
        raise RuntimeError(f"the net reads {', '.join(missing)}, which neither init nor inputs give")
    returned = (
        list_of(outputs, "outputs") if outputs is not None else list(definition.external_output) or list(last)
    )
    unknown = [name for name in returned if name not in made and name not in wanted]
    if unknown:
        raise RuntimeError(f"no operator makes the outputs {', '.join(unknown)}; give outputs that are made")
    if not returned:
        raise RuntimeError("the net has no output; give outputs")
    used = {name: tensor for name, tensor in parameters.items() if name in read or name in returned}
    return TorchNet(definition, used, wanted, returned)


def _parameters(init: Any) -> dict[str, Tensor]:
    if init is None:
        return {}
    if isinstance(init, Mapping):
        given = {str(name): value for name, value in init.items()}
    else:
        workspace = Workspace()
        workspace.run_net_once(init.Proto() if isinstance(init, Net) else init)
        given = {name: blob.value for name, blob in workspace.blobs.items()}
    values = {name: from_array(one) if isinstance(one, np.ndarray) else one for name, one in given.items()}
    return {name: one.detach().clone() for name, one in values.items() if isinstance(one, torch.Tensor)}
