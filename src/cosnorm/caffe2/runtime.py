"""A workspace: named blobs, and the nets that run on them."""

from collections.abc import Callable
from typing import Any

import torch

from cosnorm.caffe2 import operators  # noqa: F401  (registers the operators)
from cosnorm.caffe2.arguments import Arguments
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.registry import Kernel, check_known, find
from cosnorm.caffe2.stringify import shown
from cosnorm.caffe2.tensors import Value

Step = Callable[[], None]
# What Caffe2 knows, in whatever order it then runs the operators; here they run in theirs.
NET_TYPES = {"", "simple", "simple_refcount", "dag", "prof_dag", "parallel", "rnn"}
NET_TYPES |= {"async_dag", "async_polling", "async_scheduling", "async_simple"}


class Blob:
    """A place that holds a value; operators know it by reference, so that running a net looks up no names."""

    __slots__ = ("name", "value")

    def __init__(self, name: str) -> None:
        self.name = name
        self.value: Value = None


class Workspace:
    """Blobs and nets by name.

    Attributes:
        root_folder: where operators that read or write files would look.
    """

    def __init__(self, root_folder: str = ".") -> None:
        self.root_folder = root_folder
        self.blobs: dict[str, Blob] = {}
        self.nets: dict[str, CreatedNet] = {}
        self.removals = 0  # a net that was created before the last one looks its blobs up again

    def create_blob(self, name: str) -> Blob:
        """The blob of that name, made if need be."""
        blob = self.blobs.get(name)
        # Two threads that make it at once get the same one: a net bound to another would write into the void.
        return blob if blob is not None else self.blobs.setdefault(name, Blob(name))

    def find_blob(self, name: str) -> Blob:
        """Raises a RuntimeError if there is none."""
        if name not in self.blobs:
            raise RuntimeError(f"Can't find blob: {name}")
        return self.blobs[name]

    def remove_blob(self, name: str) -> bool:
        """Whether there was one."""
        blob = self.blobs.pop(name, None)
        if blob is None:
            return False
        blob.value = None  # nets know the place still; its memory is free
        self.removals += 1
        return True

    def run_operator(self, definition: caffe2_pb2.OperatorDef, times: int = 1) -> None:
        """Makes an operator and runs it so many times."""
        step = Prepared(definition).bind(self)
        with torch.no_grad():
            for _ in range(times):
                step()

    def create_net(self, definition: caffe2_pb2.NetDef, overwrite: bool = False) -> None:
        """Binds a net to the blobs, to run it by its name.

        Raises:
            RuntimeError: the net has no name, or one that is taken without `overwrite`; a declared input or
                output that is none, an input that is missing, or an operator that is wrong, as `CreatedNet`
                says.
        """
        if not definition.HasField("name"):  # "" is one
            raise RuntimeError('Net definition should have a name: set it; "" is one, too')
        if definition.name in self.nets and not overwrite:
            raise RuntimeError(
                f'I respectfully refuse to overwrite an existing net of the same name "{definition.name}", '
                "unless you explicitly specify overwrite=true."
            )
        self.nets[definition.name] = CreatedNet(self, definition)

    def run_net(self, name: str, times: int = 1) -> None:
        """Raises a RuntimeError if no such net was created."""
        if name not in self.nets:
            raise RuntimeError(f"Can't find net {name}")
        self.nets[name].run(self, times)

    def run_net_once(self, definition: caffe2_pb2.NetDef) -> None:
        """Runs a net without keeping it. Raises a RuntimeError as `CreatedNet` does."""
        CreatedNet(self, definition).run(self)


class Prepared:
    """An operator that can be bound to blobs again: its kernel is made once, so that seeds go on."""

    def __init__(self, definition: caffe2_pb2.OperatorDef) -> None:
        self.definition = definition
        self._kernel: Kernel | None = None

    def bind(self, workspace: Workspace) -> Step:
        """What runs the operator. Its inputs must be there; its outputs are created."""
        definition = self.definition
        found = find(definition)
        for name in (*definition.input, *definition.output):
            if not isinstance(name, str):
                raise RuntimeError(f"op {definition.type}: the name of a blob is no UTF-8: {shown(name)}")
        for name in definition.input:
            if name not in workspace.blobs:
                raise RuntimeError(f"op {definition.type}: Encountered a non-existing input blob: {name}")
        sources = [workspace.blobs[name] for name in definition.input]
        targets = [workspace.create_blob(name) for name in definition.output]
        if self._kernel is None:
            self._kernel = found.make(Arguments(definition))
        kernel, check = self._kernel, found.check_dtypes
        if len(sources) == len(targets) == 1 and found.dtypes == ((torch.float32,),):
            return _unary(definition, kernel, check, sources[0], targets[0])

        def run() -> None:
            values = [blob.value for blob in sources]
            try:
                check(values)
                results = kernel(*values)
                made = results if isinstance(results, tuple) else (results,)
                if len(made) != len(targets):
                    raise RuntimeError(f"{len(made)} values were made for {len(targets)} outputs")
            except RuntimeError as error:
                raise failed(error, definition) from error
            for target, result in zip(targets, made, strict=True):
                target.value = result

        return run


def _unary(definition: Any, kernel: Any, check: Any, source: Blob, target: Blob) -> Step:
    """The commonest operator, from one float tensor to another, without the lists of the others."""

    def run() -> None:
        value = source.value
        try:
            if value.__class__ is not torch.Tensor or value.dtype is not torch.float32:  # type: ignore[union-attr]
                check([value])
            result = kernel(value)
            if result.__class__ is tuple:
                raise RuntimeError(f"{len(result)} values were made for 1 outputs")
            target.value = result
        except RuntimeError as error:
            raise failed(error, definition) from error

    return run


def failed(error: RuntimeError, definition: caffe2_pb2.OperatorDef) -> RuntimeError:
    """The error, with the operator in which it happened."""
    return RuntimeError(f"{error} (Error from operator: \n{definition})")


class CreatedNet:
    """A net whose operators are bound to the blobs of a workspace; they run in their order.

    Raises:
        RuntimeError: a type that Caffe2 has not, an input that neither the net's inputs nor earlier operators
            give (as in a cycle), an output that no operator gives, operators that are not known (all of them,
            with their counts), or as for each of the operators.
    """

    def __init__(self, workspace: Workspace, definition: caffe2_pb2.NetDef) -> None:
        self.definition = caffe2_pb2.NetDef()
        self.definition.CopyFrom(definition)
        if definition.type not in NET_TYPES:
            raise RuntimeError(f"Could not create net: {definition.name} of type {definition.type}")
        check_known(definition)
        self._check_sources()
        self._operators = [Prepared(self._placed(operator)) for operator in self.definition.op]
        self._bind(workspace)

    def _placed(self, operator: caffe2_pb2.OperatorDef) -> caffe2_pb2.OperatorDef:
        """The operator with the net's device, unless it has its own."""
        if operator.HasField("device_option") or not self.definition.HasField("device_option"):
            return operator
        own = caffe2_pb2.OperatorDef()
        own.CopyFrom(operator)
        own.device_option.CopyFrom(self.definition.device_option)
        return own

    def _check_sources(self) -> None:
        definition = self.definition
        known = set(definition.external_input)
        missing = dict.fromkeys(definition.external_output)
        for operator in definition.op:
            for name in operator.input:
                if definition.external_input and name not in known:
                    raise RuntimeError(
                        f"op {operator.type}: Source for input {name} is unknown for net {definition.name}, "
                        f"operator {operator}"
                    )
            known.update(operator.output)
        missing_names = [name for name in missing if name not in known]
        if missing_names:
            raise RuntimeError(
                f"Some of the blobs are declared as output but never produced by the net {definition.name}, "
                f"the first one is {missing_names[0]}"
            )

    def _bind(self, workspace: Workspace) -> None:
        self._steps = [operator.bind(workspace) for operator in self._operators]
        self._removals = workspace.removals

    def run(self, workspace: Workspace, times: int = 1) -> None:
        """Runs the operators, so many times, in the workspace that the net was made for.

        It is given each time: a net that knew its workspace, which knows its nets, would keep all blobs in
        memory until Python looks for cycles.
        """
        if self._removals != workspace.removals:
            self._bind(workspace)
        with torch.no_grad():
            for _ in range(times):
                for step in self._steps:
                    step()
