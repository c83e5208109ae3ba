"""The backward pass of a list of operators: gradient operators, in reverse, and the sums of what meets.

Blobs can be written more than once, so that a name alone does not say which value is meant: every write makes
a new version, and a gradient operator may read a value only while its version is the last one.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from cosnorm.caffe2.blobs import BlobReference, CreateOperator, name_of
from cosnorm.caffe2.checks import list_of
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.registry import OPERATORS, find

Definition = caffe2_pb2.OperatorDef
Names = Sequence[str | None]
Maker = Callable[[Definition, list[str | None]], tuple[Any, list[str | None]]]


class GradientRegistry:
    """What makes the gradient operators of each type."""

    _registered: ClassVar[dict[str, Maker]] = {}

    @classmethod
    def RegisterGradient(cls, op_type: str) -> Callable[[Maker], Maker]:
        """A decorator for what makes the gradient of a type that has none of its own.

        The function receives an operator and the names of its outputs' gradients, and returns the gradient
        operators and the names of the inputs' gradients.
        """

        def register(maker: Maker) -> Maker:
            cls._registered[op_type] = maker
            return maker

        return register

    @classmethod
    def GetGradientForOp(cls, op: Definition, g_output: Names) -> tuple[list[Definition], list[str | None]]:
        """The gradient operators of one operator, and the names of its inputs' gradients.

        Args:
            op: the operator.
            g_output: the names of its outputs' gradients, or None where there is none.

        Raises:
            Exception: the type has no gradient.
            TypeError: `g_output` is no list.
        """
        g_output = list_of(g_output, "g_output, the names of the outputs' gradients,")
        try:
            maker: Any = find(op).gradient if op.type in OPERATORS else None
            if maker is None:
                raise RuntimeError(f"no gradient is registered for {op.type}")
            operators, names = maker(op, g_output)
        except Exception as error:
            # A gradient in Python is tried last, and its own exceptions are raised as they are.
            own = cls._registered.get(op.type)
            if own is None:
                raise Exception(
                    f"Exception when creating gradient for [{op.type}]:{error}.\nOp: \n{op}"
                ) from error
            operators, names = own(op, g_output)
        if operators is None:
            operators = []
        return operators if isinstance(operators, list) else [operators], list(names)

    @classmethod
    def GetBackwardPass(
        cls, operators: Sequence[Definition], ys: Any, ys_generate_gradient: bool = False
    ) -> tuple[list[Definition], dict[BlobReference, BlobReference]]:
        """The gradient operators of a list of operators, and the gradient of each blob.

        Args:
            operators: in the order in which they run.
            ys: the blobs to differentiate: a list, whose gradients are filled with 1, or a dict from blobs to
                their gradients, None for such a fill.
            ys_generate_gradient: not looked at, as in Caffe2.

        Raises:
            TypeError: `ys` is neither.
            RuntimeError: a gradient operator needs a value that was overwritten.
            ValueError: a StopGradient whose output nothing uses.
        """
        del ys_generate_gradient
        return _Backward(operators).run(ys)


class IR:
    """The marks in the `extra_info` of a device option that concern the sums of gradients.

    Attributes:
        IS_AUTO_GEN_SUM_OPS_TAG: with ":1" behind it marks a Sum that was added.
        ONLY_KEEP_IS_AUTO_GEN_SUM_OPS_TAG: with ":1" behind it, on an operator that makes a term, asks
            for a Sum without that operator's device option.
    """

    IS_AUTO_GEN_SUM_OPS_TAG = "is_auto_gen_sum_ops"
    ONLY_KEEP_IS_AUTO_GEN_SUM_OPS_TAG = "only_keep_is_auto_gen_sum_ops_tag"


class GradientSlice(NamedTuple):
    """A gradient of some rows alone, as scripts compare with; the operators that are here make none."""

    indices: Any
    values: Any


class _Played(NamedTuple):
    """An operator with the versions of the blobs that it reads and writes."""

    operator: Definition
    reads: dict[str, int]
    writes: dict[str, int]


class _Source(NamedTuple):
    """Where a gradient of a blob comes from: an output of an operator, or another's gradient as it is."""

    operator: Definition | None
    place: int
    name: str
    device_option: caffe2_pb2.DeviceOption


class _Backward:
    def __init__(self, operators: Sequence[Definition]) -> None:
        self.versions: dict[str, int] = {}  # the last ones
        self.uses: dict[tuple[str, int], list[int]] = defaultdict(list)  # by which operators
        self.sources: dict[tuple[str, int], list[_Source]] = defaultdict(list)
        self.gradient_versions: dict[str, int] = {}
        self.gradients: dict[str, str | None] = {}
        self.made: list[Definition] = []
        self.played = [self._play(number, operator) for number, operator in enumerate(operators)]
        used = {name for name, _ in self.uses}
        for operator in operators:
            if operator.type == "StopGradient" and operator.output[0] not in used:
                raise ValueError(
                    f"StopGradient's output '{operator.output[0]}' is orphan. You typically want to specify "
                    f"same input and output for StopGradient. Op:\n\n{operator}"
                )

    def _play(self, number: int, operator: Definition) -> _Played:
        reads = {}
        for name in operator.input:
            reads[name] = self.versions.setdefault(name, 0)
            self.uses[name, reads[name]].append(number)
        writes = {}
        for name in operator.output:
            writes[name] = self.versions[name] = self.versions.get(name, -1) + 1
        return _Played(operator, reads, writes)

    def run(self, ys: Any) -> tuple[list[Definition], dict[BlobReference, BlobReference]]:
        if isinstance(ys, list):
            ys = dict.fromkeys(ys)
        elif not isinstance(ys, dict):
            raise TypeError("ys should either be a list or a dict.")
        self._begin(ys)
        for number in reversed(range(len(self.played))):
            self._differentiate(number)
            self._accumulate(number)
        found = {name: gradient for name, gradient in self.gradients.items() if gradient is not None}
        return self.made, {BlobReference(name): BlobReference(gradient) for name, gradient in found.items()}

    def _begin(self, ys: Mapping[Any, Any]) -> None:
        """The gradients that are given, or filled with 1."""
        for y, gradient in ys.items():
            name = name_of(y)
            version = self.versions.setdefault(name, 0)
            self.gradient_versions[name] = version
            self.uses[name, version].append(len(self.played))
            if gradient is None:
                fill = CreateOperator(
                    "ConstantFill", BlobReference(name), BlobReference(f"{name}_autogen_grad"), value=1.0
                )
                self.made.append(fill)
                gradient = fill.output[0]
                self.sources[name, version].append(_Source(fill, 0, gradient, fill.device_option))
            self.gradients[name] = name_of(gradient)

    def _differentiate(self, number: int) -> None:
        operator, reads, _ = self.played[number]
        of_outputs = [self.gradients.get(name) for name in operator.output]
        if not any(of_outputs):
            return
        made, of_inputs = GradientRegistry.GetGradientForOp(operator, of_outputs)
        written: list[str] = []
        for one in made:
            for name in one.input:
                self._check_version(name, of_outputs, number, written)
            written += one.output
            for place, output in enumerate(one.output):
                if output in of_inputs:
                    name = operator.input[of_inputs.index(output)]
                    self.sources[name, reads[name]].append(_Source(one, place, output, one.device_option))
        self.made += made
        for name, gradient in zip(operator.input, of_inputs, strict=True):
            if gradient is not None:
                if gradient not in written:
                    passed_on = _Source(None, 0, gradient, operator.device_option)
                    self.sources[name, reads[name]].append(passed_on)
                self.gradient_versions[name] = reads[name]
            # None does not take a gradient away, unless the operator wrote the blob anew.
            if gradient is not None or name not in self.gradients or name in operator.output:
                self.gradients[name] = gradient

    def _check_version(self, name: str, of_outputs: Names, number: int, written: Sequence[str]) -> None:
        operator, reads, writes = self.played[number]
        if name in of_outputs:
            output = operator.output[of_outputs.index(name)]
            if writes[output] != self.gradient_versions[output]:
                raise RuntimeError(
                    f'Gradient name "{name}" is expected to correspond to version {writes[output]} of '
                    f'"{output}", but currently we have version {self.gradient_versions[output]}.'
                    + self._history(output, "is the same output blob used twice for different operators?")
                )
            return
        for kind, versions in (("output", writes), ("input", reads)):
            if name in versions:
                if self.versions[name] != versions[name]:
                    raise RuntimeError(
                        f'Gradient operator needs {kind} "{name}" at version {versions[name]}, but currently '
                        f"we have version {self.versions[name]}."
                        + self._history(name, "was it overwritten by another operator?")
                    )
                return
        if name not in written:
            raise RuntimeError(
                f'Blob name "{name}" not in the scope of operator: {operator}\nand is not generated by any '
                "of the local gradient operators."
            )

    def _history(self, name: str, question: str) -> str:
        writers = [
            f"version {one.writes[name]} by {one.operator.type}" for one in self.played if name in one.writes
        ]
        return f' The blob "{name}" was written as {", ".join(writers) or "nothing"}: {question}'

    def _accumulate(self, number: int) -> None:
        """After the first operator that used a value, adds up the gradients of all that did."""
        operator, reads, _ = self.played[number]
        for name in dict.fromkeys(operator.input):
            key = name, reads[name]
            sources = self.sources[key]
            if len(self.uses[key]) < 2 or self.uses[key][0] != number or len(sources) < 2:
                continue
            if not all(_same_device(one.device_option, sources[0].device_option) for one in sources):
                raise RuntimeError(
                    f"Gradients for param ''{name}'' failed to verify: not all grad ops have the same device "
                    "option."
                )
            self.gradients[name] = self._sum(name, sources)

    def _sum(self, name: str, sources: Sequence[_Source]) -> str:
        made = [one.operator.output[one.place] for one in sources if one.operator is not None]
        total = made[0] if made else f"{name}_grad"
        terms: list[str] = []
        renamed = 0
        kept = False
        for one in sources:
            if one.operator is None:
                if one.name == total:
                    raise RuntimeError(
                        f'The gradient "{total}" is passed on by one operator and made by another: no name '
                        "is left for their sum"
                    )
                terms.append(one.name)
            elif not kept:
                kept = True
                terms.append(one.operator.output[one.place])
            else:
                one.operator.output[one.place] = f"_{one.operator.output[one.place]}_autosplit_{renamed}"
                terms.append(one.operator.output[one.place])
                renamed += 1
        if total in terms:  # only the first input of Sum may be its output
            place = terms.index(total)
            terms[0], terms[place] = terms[place], terms[0]
        added = CreateOperator("Sum", [BlobReference(term) for term in terms], BlobReference(total))
        marks = {mark for one in sources for mark in one.device_option.extra_info}
        if f"{IR.ONLY_KEEP_IS_AUTO_GEN_SUM_OPS_TAG}:1" not in marks:
            added.device_option.CopyFrom(sources[0].device_option)
        added.device_option.extra_info.append(f"{IR.IS_AUTO_GEN_SUM_OPS_TAG}:1")
        self.made.append(added)
        return total


def _same_device(one: caffe2_pb2.DeviceOption, other: caffe2_pb2.DeviceOption) -> bool:
    return one.device_type == other.device_type and (not one.device_type or one.device_id == other.device_id)
