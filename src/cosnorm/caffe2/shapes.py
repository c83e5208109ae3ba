"""Shape inference: kernels run on torch's meta device, where tensors have shapes and no elements."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from cosnorm.caffe2 import operators  # noqa: F401  (registers the operators)
from cosnorm.caffe2.arguments import Arguments
from cosnorm.caffe2.proto import caffe2_pb2
from cosnorm.caffe2.registry import find
from cosnorm.caffe2.tensors import Array, checked_shape, data_type_of, dtype_of

Known = Mapping[str, tuple[list[int], int]]
Hollow = torch.Tensor | Array  # a tensor on the meta device, or strings that take no memory


def infer(nets: Iterable[caffe2_pb2.NetDef], known: Known) -> dict[str, tuple[list[int], int]]:
    """Shape and data type of each blob that follows from the known ones, which are in the answer too.

    An operator whose inputs are unknown, that Caffe2 infers nothing for, or that fails on such shapes leaves
    its outputs unknown.

    Raises:
        RuntimeError: a known shape that no tensor has.
    """
    found: dict[str, Hollow] = {}
    for name, (dims, kind) in known.items():
        try:
            checked_shape(dims, most=2**63 - 1)
        except RuntimeError as error:
            raise RuntimeError(f"{name}: {error}") from error
        try:
            if kind == caffe2_pb2.TensorProto.STRING:
                found[name] = np.broadcast_to(np.empty((), dtype=object), dims)
            else:
                found[name] = torch.empty(dims, dtype=dtype_of(kind), device="meta")
        except (KeyError, RuntimeError, ValueError):
            continue
    for net in nets:
        for definition in net.op:
            outputs = _outputs(definition, found)
            for name in definition.output:
                found.pop(name, None)
            found.update(outputs)
    return {name: (list(hollow.shape), data_type_of(hollow)) for name, hollow in found.items()}


def _outputs(definition: caffe2_pb2.OperatorDef, found: Mapping[str, Hollow]) -> dict[str, Hollow]:
    if any(name not in found for name in definition.input):
        return {}
    inputs = [found[name] for name in definition.input]
    try:
        operator = find(definition)
        operator.check_dtypes(inputs)
        if not operator.inferred:
            return {}
        with torch.device("meta"), torch.no_grad():
            results = operator.make(Arguments(definition))(*inputs)
    except RuntimeError:
        return {}
    made = results if isinstance(results, tuple) else (results,)
    return dict(zip(definition.output, made, strict=True)) if len(made) == len(definition.output) else {}
