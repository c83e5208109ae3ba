"""What Caffe2 itself answers, kept in golden.npz: the tests of cosnorm.caffe2 read only that file.

Run by CPython 3.8 with torch 1.8.1, the last wheel whose Caffe2 runs on a CPU (numpy 1.19.5, protobuf 3.20.3,
future 1.0.0, six):

    python make_golden.py golden.npz

Every case is one operator: its OperatorDef as Caffe2 wrote it, the blobs it reads, and either the blobs it
wrote or the error; what Caffe2 infers of its outputs; and its gradient operators. Then come whole nets with
gradients, serialized blobs, and nets that cosnorm.caffe2 saved. Left out are inputs for which Caffe2 leaves
its memory, or dies.
"""

import base64
import hashlib
import json
import os
import sys

import numpy as np
import torch
from caffe2.proto import caffe2_pb2
from caffe2.python import core, workspace

float32 = np.float32
random = np.random.RandomState(20180212)
cases, arrays = [], {}


def normal(*shape):
    return np.asarray(random.randn(*shape), dtype=float32)


def ints(*values):
    return np.array(values, dtype=np.int32)


def encoded(message):
    return base64.b64encode(message.SerializeToString()).decode()


def first_line(error):
    text = str(error).split("frame #")[0].split("Exception raised from")[0].split("(Error from operator")[0]
    return " ".join(text.split())


def inferred(operator, names):
    net = core.Net("inference")
    net.Proto().op.extend([operator])
    try:
        shapes, types = workspace.InferShapesAndTypes([net])
    except Exception as error:
        return {"error": first_line(error)}
    return {name: [shapes[name], types[name]] for name in names if name in shapes}


def gradients(operator):
    try:
        made, names = core.GradientRegistry.GetGradientForOp(
            operator, [str(one) + "_grad" for one in operator.output]
        )
    except Exception:
        return None
    return {"operators": [encoded(one) for one in made], "inputs": names}


def case(kind, inputs, outputs=1, **arguments):
    workspace.ResetWorkspace()
    number = len(cases)
    inputs = [np.asarray(one) for one in inputs]
    names = ["I%d" % i for i in range(len(inputs))]
    for name, array in zip(names, inputs):
        workspace.FeedBlob(name, array)
        arrays["%d/%s" % (number, name)] = array if array.dtype != object else array.astype("S")
    written = ["O%d" % i for i in range(outputs)] if isinstance(outputs, int) else outputs
    operator = core.CreateOperator(kind, names, written, **arguments)
    found = {
        "operator": encoded(operator),
        "inputs": names,
        "outputs": written,
        "gradient": gradients(operator),
    }
    asked = all(one.ndim for one in inputs) and not set(names) & set(written)  # it dies of single numbers
    found["inferred"] = inferred(operator, written) if asked else None
    try:
        workspace.RunOperatorOnce(operator)
    except Exception as error:
        found["error"] = [type(error).__name__, first_line(error)]
    else:
        for name in written:
            array = workspace.FetchBlob(name)
            arrays["%d/%s!" % (number, name)] = array.astype("S") if array.dtype == object else array
    cases.append(found)


def elementwise():
    special = np.array([0, -0.0, 1, -1, 0.5, 1e-30, 3e38, np.inf, -np.inf, np.nan], dtype=float32)
    for kind in ("Cos", "Sin", "Tan", "Acos", "Asin", "Atan"):
        inside = np.tanh(normal(2, 3, 4)) if kind in ("Acos", "Asin") else 10 * normal(2, 3, 4)
        for x in (inside, normal(), normal(0, 3), normal(7), special):
            case(kind, [x])
        for x in (np.ones(2), ints(1, 2), np.ones(2, np.float16), np.array([True])):
            case(kind, [x])
        case(kind, [normal(2)], ["I0"])
        for dtype in (np.uint8, np.int8, np.int16, np.uint16, np.int64):
            case(kind, [np.ones(2, dtype)])
        gradient = kind + "Gradient"
        for shape in ((2, 3, 4), (), (0, 3), (5,)):
            case(gradient, [np.asarray(np.tanh(normal(*shape)), float32), normal(*shape)])
        case(gradient, [np.ones(2), normal(2)])
        case(gradient, [0.5 * np.tanh(normal(1, 2)), normal(2)])
        case(gradient, [normal(3), normal(2)])
        case(gradient, [normal(2), np.ones(2)])
        case(gradient, [normal(2), normal(2)], ["I0"])
        case(gradient, [normal(2), normal(2)], ["I1"])
    for kind in ("Relu", "Sqr", "Sqrt"):
        for x in (special, normal(2, 3), normal(), normal(0, 3), np.ones(2), ints(4, 2)):
            case(kind, [x])
        case(kind, [np.abs(normal(2))], ["I0"])
    case("ReluGradient", [np.array([0, 1, np.nan, -0.0, 2], dtype=float32), normal(5)])
    case("ReluGradient", [normal(2, 2), normal(2, 2)], ["I1"])
    case("ReluGradient", [normal(2), normal(2)], ["I0"])
    for scale in (2.5, 0.0, 2, None):
        case("Scale", [normal(2, 3)], scale=scale)
    case("Scale", [np.ones(2)], scale=0.5)
    case("Scale", [ints(3, 5)], scale=2.5)


def criterion():
    kind, nan = "CosineEmbeddingCriterion", np.nan
    tie = np.array([0.5, -0.5, 0.5, 0.25, nan, nan, 1, -1], dtype=float32)
    labels = ints(1, -1, 0, 2, 1, -1, -1, 1)
    for margin in (None, 0.5, -0.5, 0.25):
        case(kind, [tie, labels], margin=margin)
        case(kind + "Gradient", [tie, labels, normal(8)], margin=margin)
        case(kind, [normal(15), np.sign(normal(15)).astype(np.int32)], margin=margin)
        case(kind + "Gradient", [normal(15), np.sign(normal(15)).astype(np.int32), normal(15)], margin=margin)
    for similarity, y in (
        (normal(2, 2), ints(1, -1, 1, -1)),
        (normal(), np.array(1, dtype=np.int32)),
        (normal(), ints(-1)),
        (normal(0, 2), ints()),
        (normal(3), ints(1, -1)),
        (normal(2), np.array([1, -1])),
        (normal(2), normal(2)),
        (np.ones(2), ints(1, -1)),
    ):
        case(kind, [similarity, y])
    case(kind, [normal(2), ints(1, 2)], margin=1)
    case(kind, [normal(2), ints(1, 2)], nonsense=3)
    case(kind, [normal(2), ints(1, 2)], ["I0"])
    case(kind, [normal(2)])


def distances():
    for kind in ("CosineSimilarity", "DotProduct", "SquaredL2Distance", "L1Distance"):
        for shape in ((3, 4), (3,), (), (3, 0), (0, 3), (3, 2, 2), (1, 16), (20, 7)):
            case(kind, [normal(*shape), normal(*shape)])
            count = shape[0] if shape else 1
            if not (kind == "DotProduct" and shape == (3, 0)):
                case(kind + "Gradient", [normal(*shape), normal(*shape), normal(count)], 2)
        for other in ((4, 3), (12,), (2, 4), (3, 2, 2)):
            case(kind, [normal(3, 4), normal(*other)])
        case(kind, [normal(3, 4), np.ones((3, 4))])
        case(kind, [np.ones((3, 4)), normal(3, 4)])
        case(kind, [np.zeros((2, 3), float32), normal(2, 3)])
        case(kind, [np.full((2, 2), 1e-9, float32), normal(2, 2)])
        case(kind + "Gradient", [np.zeros((2, 3), float32), normal(2, 3), normal(2)], 2)
        same = normal(2, 3)
        case(kind, [same, same])
        case(kind + "Gradient", [same, same, normal(2)], 2)
        for cotangent in ((3, 1), (2,), (1,), ()):
            case(kind + "Gradient", [normal(3, 4), normal(3, 4), normal(*cotangent)], 2)
        case(kind, [normal(3, 4), normal(3, 4)], ["I0"])
        case(kind, [np.array([[np.nan, 1], [1, 1]], float32), normal(2, 2)])
    for dtype in (np.bool_, np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64, np.float16):
        case("CosineSimilarity", [np.ones((2, 2), dtype), np.ones((2, 2), dtype)])
    case("CosineSimilarity", [np.full((2, 2), 1e20, float32), np.full((2, 2), 1e20, float32)])
    case("DotProduct", [np.full((2, 2), 1e20, float32), np.full((2, 2), 1e20, float32)])


def normalized():
    for shape in ((3, 4), (3,), (2, 3, 4), (2, 1, 3, 2, 2), (1,)):
        for axis in [None, *range(-len(shape), len(shape))]:
            case("Normalize", [normal(*shape)], axis=axis)
            case("NormalizeGradient", [normal(*shape), normal(*shape)], axis=axis)
            case("NormalizeL1", [normal(*shape)], axis=axis)
    for kind in ("Normalize", "NormalizeL1"):
        for axis in (5, -3, 1.0):
            case(kind, [normal(3, 4)], axis=axis)
        case(kind, [normal()])
        case(kind, [np.ones((2, 2))])
        case(kind, [normal(2, 2)], ["I0"])
        case(kind, [np.array([[1e-13, 0], [3e19, 1], [1e-30, 1e-30], [np.nan, 1], [np.inf, 1]], float32)])
    case("Normalize", [np.zeros((2, 3), float32)])
    case("NormalizeGradient", [np.zeros((2, 3), float32), normal(2, 3)])


def arithmetic():
    for kind in ("Add", "Sub", "Mul", "Div"):
        extra = [normal(2, 3)] if kind == "Div" else []
        for a, b in (
            ((2, 3), (2, 3)),
            ((2, 3), (3,)),
            ((3,), (2, 3)),
            ((2, 3), ()),
            ((2, 3, 4), (3, 1)),
            ((0, 3), (3,)),
        ):
            case(kind, [normal(*a), normal(*b)])
        case(kind, [normal(2, 3), normal(2)])
        for a, b, options in (
            ((2, 3), (2,), {"axis": 0}),
            ((2, 3), (1,), {}),
            ((2, 3), (3, 2), {}),
            ((2, 3, 4), (3,), {"axis": 1}),
            ((2, 3, 4), (3,), {"axis_str": "C", "order": "NCHW"}),
            ((2, 3, 4), (3, 4), {}),
        ):
            case(kind, [normal(*a), normal(*b)], broadcast=1, **options)
        case(kind, [ints(7, -2), ints(2, 3)])
        case(kind, [np.array([7, 2]), np.array([2, 3])])
        case(kind, [np.array([7.0, 2]), np.array([2.0, 3])])
        case(kind, [normal(2), np.ones(2)])
        case(kind, [np.array([True]), np.array([True])])
        case(kind, [np.ones(2, np.int8), np.ones(2, np.int8)])
        for outputs, a, b in (
            (["I0"], (2, 3), (2, 3)),
            (["I1"], (2, 3), (2, 3)),
            (["I1"], (2, 3), (3,)),
            (["I0"], (3,), (2, 3)),
        ):
            case(kind, [normal(*a), normal(*b)], outputs)
        for b in ((2, 3), (3,), (), (1, 3), (2, 1)):
            case(kind + "Gradient", [normal(2, 3), normal(2, 3), normal(*b), *extra], 2)
        case(kind + "Gradient", [normal(2, 3), normal(2, 3), normal(2), *extra], 2, broadcast=1, axis=0)
    case("Div", [np.array([1, 0, -1], float32), np.zeros(3, float32)])
    case("Sum", [normal(2, 3)])
    case("Sum", [normal(2, 3), normal(2, 3), normal(2, 3)])
    case("Sum", [normal(2, 3), normal(3)])
    case("Sum", [ints(1, 2), ints(3, 4)])
    case("Sum", [np.ones(2), np.ones(2)])
    case("Sum", [normal(2), np.ones(2)])
    case("Sum", [normal(2), normal(2)], ["I0"])
    case("Sum", [normal(2), normal(2)], ["I1"])
    case("WeightedSum", [normal(2, 3), normal(1), normal(2, 3), normal(1)])
    case("WeightedSum", [normal(2, 3), normal(1), normal(2, 3), normal(1)], ["I0"])
    case("WeightedSum", [normal(2, 3), normal(1), normal(3), normal(1)])
    case("WeightedSum", [normal(2, 3), normal(2)])
    for count in (1, 2, 3):
        pairs = [one for _ in range(count) for one in (normal(2, 3), normal(1))]
        case("WeightedSumGradient", [normal(2, 3), *pairs], count)
    case("WeightedSum", [normal(2, 3), normal(1), normal(2, 3)])
    for shape, count in (((2, 3), None), ((2, 3, 4), 2), ((2, 3), 0), ((2, 3), 2), ((2, 3), 3), ((3,), None)):
        case("ReduceBackSum", [normal(*shape)], num_reduce_dim=count)
    case("ReduceBackSum", [normal(2, 3), ints(2, 1)])
    case("ReduceBackSum", [normal()])
    case("ReduceBackSum", [np.ones((2, 3))])
    case("ReduceBackSum", [ints(1, 2)])
    case("ReduceBackSumGradient", [normal(2), normal(2, 3)])
    case("ReduceBackSumGradient", [normal(2), normal(2, 3), ints(2, 1)])
    case("ReduceBackSumGradient", [normal(2), normal(2, 3, 4)], num_reduce_dim=2)


def dense():
    for x, w, options in (
        ((2, 3), (4, 3), {}),
        ((2, 3, 2), (4, 6), {}),
        ((2, 3, 2), (4, 2), {"axis": 2}),
        ((3,), (4, 3), {"axis": 0}),
        ((0, 3), (4, 3), {}),
        ((2, 3), (2, 2, 3), {"axis_w": 2}),
        ((2, 3), (4, 3, 1), {}),
    ):
        count = 4
        case("FC", [normal(*x), normal(*w), normal(count)], **options)
        output = x[: options.get("axis", 1)] + (count,)
        for outputs in (2, 3):
            case("FCGradient", [normal(*x), normal(*w), normal(*output)], outputs, **options)
    case("FC", [normal(2, 3), normal(4, 2), normal(4)])
    case("FC", [normal(2, 3), normal(4, 3), normal(5)])
    case("FC", [normal(3), normal(4, 3), normal(4)])
    case("FC", [np.ones((2, 3)), normal(4, 3), normal(4)])
    for a, b, options in (
        ((2, 3), (3, 4), {}),
        ((3, 2), (3, 4), {"trans_a": 1}),
        ((2, 3), (4, 3), {"trans_b": 1}),
        ((3, 2), (4, 3), {"trans_a": 1, "trans_b": 1}),
        ((2, 3), (4, 3), {}),
        ((2, 3, 2), (6, 4), {}),
        ((2, 3, 2), (2, 4), {"axis_a": 2}),
        ((3,), (3, 4), {}),
        ((2, 3), (3, 4), {"axis_a": 5}),
    ):
        case("MatMul", [normal(*a), normal(*b)], **options)
    case("MatMul", [normal(2, 3), normal(3, 4), normal(8)])
    for shape, axis in (
        ((2, 3), None),
        ((2, 3, 2), 1),
        ((2, 3, 2), 2),
        ((2, 3), 0),
        ((2, 3), -1),
        ((0, 3), None),
    ):
        case("Softmax", [3 * normal(*shape)], axis=axis)
        case("SoftmaxGradient", [normal(*shape), normal(*shape)], axis=axis)
    case("Softmax", [np.array([[1000, 0], [-1000, 0]], float32)])
    case("Softmax", [normal(2, 3)], axis=5)
    case("Softmax", [normal(2)])
    case("Softmax", [normal(2, 2)], ["I0"])
    probabilities = np.array([[0.2, 0.8], [0, 1], [1, 0]], float32)
    kind = "LabelCrossEntropy"
    for labels in (
        ints(0, 0, 1),
        ints(0, 0, 1).reshape(3, 1),
        ints(0, 5, 1),
        ints(0, -1, 1),
        ints(0, 0),
        np.array([0, 0, 1]),
    ):
        case(kind, [probabilities, labels])
    case(kind, [probabilities[:0], ints()])
    case(kind, [np.abs(normal(3, 2, 2)), ints(0, 3, 1)])
    case(kind, [np.array([0.2, 0.8], float32), ints(1)])
    case(kind + "Gradient", [probabilities, ints(0, 0, 1), normal(3)])
    case(kind + "Gradient", [probabilities, ints(0, 0, 1), normal(2)])
    for shape in ((2, 3), (4,), (), (0, 3)):
        case("AveragedLoss", [normal(*shape)])
        case("AveragedLossGradient", [normal(*shape), normal()])
    case("AveragedLossGradient", [normal(2, 3), normal(2)])


def fills():
    for arguments in (
        {"shape": [2, 3], "value": 2.5},
        {"shape": [2], "value": 3, "dtype": 2},
        {"shape": [2], "value": 3},
        {"shape": [2], "value": 1, "dtype": 10},
        {"shape": [2], "value": True, "dtype": 5},
        {"shape": [2], "value": 1.0, "dtype": 13},
        {"shape": [2], "value": b"ab", "dtype": 4},
        {"shape": [2], "value": 300, "dtype": 6},
        {"shape": [2], "dtype": 12},
        {"shape": [2], "value": 2, "dtype": 1},
        {"shape": [2], "value": b"ab"},
        {"shape": [2], "value": -1, "dtype": 6},
        {"shape": [2], "value": 2**40, "dtype": 2},
        *({"shape": [2], "dtype": kind} for kind in range(16)),
        *({"shape": [2], "value": 1, "dtype": kind} for kind in range(16)),
        {"shape": [-1]},
        {"shape": []},
        {},
    ):
        case("ConstantFill", [], **arguments)
    case("ConstantFill", [normal(2, 3)], value=1.0)
    case("ConstantFill", [ints(1, 2)], value=1.0)
    case("ConstantFill", [normal(2, 3)], value=1.0, extra_shape=[2])
    case("ConstantFill", [np.array([2, 3])], input_as_shape=1)
    case("ConstantFill", [normal(2, 3)], shape=[2])
    case("ConstantFill", [normal(2)], ["I0"], value=1.0)
    for kind, values in (
        ("GivenTensorFill", [1.0, 2.0, 3.0, 4.0]),
        ("GivenTensorDoubleFill", [1.0, 2.0, 3.0, 4.0]),
        ("GivenTensorIntFill", [1, 2, 3, 4]),
        ("GivenTensorInt64Fill", [1, 2, 3, 4]),
        ("GivenTensorBoolFill", [1, 0, 1, 0]),
        ("GivenTensorStringFill", ["a", "b", "", "c"]),
    ):
        case(kind, [], shape=[2, 2], values=values)
        case(kind, [], shape=[3], values=values)
    case("MSRAFill", [], shape=[5])
    case("UniformFill", [], shape=[2], min=1)
    case("CopyOnDeviceLike", [normal(2, 3), normal(4)])
    strings = np.array([b"a", b"bc"], dtype=object)
    for kind in ("Copy", "StopGradient"):
        for x in (normal(2, 3), ints(1), strings):
            case(kind, [x])
        case(kind, [normal(2)], ["I0"])


def broadcasts():
    """Sizes of 1 at the ends under `broadcast=1`; gradients of every dtype, of equal size, in place."""
    for kind in ("Add", "Sub", "Mul", "Div"):
        gradient, extra = kind + "Gradient", [normal(2, 3, 2)] if kind == "Div" else []
        for b, options in (
            ((3, 1), {}),
            ((3, 1), {"axis": 1}),
            ((1, 3), {"axis": 0}),
            ((1, 3, 1), {"axis": 0}),
            ((1, 1, 1, 1), {}),
            ((1, 1), {"axis": 5}),
            ((1, 3, 1), {"axis": 1}),
            ((1, 2), {"axis": 2}),
            ((1, 1, 1, 2), {}),
            ((2, 1, 2), {}),
            ((3,), {"axis": -2}),
            ((1, 0), {}),
            ((3,), {"axis_str": "C"}),
            ((3,), {"axis_str": "X"}),
            ((3,), {"axis_str": "CN"}),
            ((3,), {"axis": 1, "axis_str": "C"}),
        ):
            case(kind, [normal(2, 3, 2), normal(*b)], broadcast=1, **options)
            inputs = [normal(2, 3, 2), normal(2, 3, 2), normal(*b)]
            case(gradient, inputs + extra, 2, broadcast=1, **options)
        case(kind, [normal(2, 3, 4, 5), normal(1, 3, 1, 1)], broadcast=1)
        case(kind, [normal(2, 3), normal(2, 3)], ["I1"], broadcast=1)
        case(kind, [normal(2, 3), normal(3)], ["I0"], broadcast=1)
        extra = [normal(2, 3)] if kind == "Div" else []
        for shape in ((6,), (3, 2), (1, 2, 3)):
            case(gradient, [normal(*shape), normal(2, 3), normal(3)] + extra, 2)
        case(gradient, [np.ones((2, 3)), normal(2, 3), normal(3)] + extra, 2)
        for outputs in (["O0", "I0"], ["I1", "O1"], ["O0", "I1"], ["I2", "O1"]):
            case(gradient, [normal(2, 3), normal(2, 3), normal(2, 3)] + extra, outputs)
        if kind != "Mul":  # which overwrites dY before it reads it again
            case(gradient, [normal(2, 3), normal(2, 3), normal(2, 3)] + extra, ["I0", "O1"])
        for dtype in (np.int32, np.int64, np.float64):
            numbers = [random.randint(1, 9, size) for size in ((2, 3), (2, 3), (3,), (2, 3))]
            case(gradient, [one.astype(dtype) for one in numbers][: 3 + len(extra)], 2)
    for b, options in (((2, 3), {}), ((3,), {}), ((2, 1), {}), ((2,), {"broadcast": 1, "axis": 0})):
        case("DivGradient", [normal(*b), normal(2, 3), normal(2, 3)], 2, **options)
    case("DivGradient", [normal(2, 3), normal(2, 3), normal(2, 3)], ["I0", "O1"])
    case("DivGradient", [ints(2, 3), ints(7, 8), ints(9, -7)], 2)
    for shape in ((6,), (3, 2)):
        case("NormalizeGradient", [normal(2, 3), normal(*shape)])
    case("SoftmaxGradient", [normal(2, 3), normal(2, 3)], ["I0"])
    case("SoftmaxGradient", [normal(2, 3), normal(2, 3)], ["I1"])


def weighted_sums():
    for count in (1, 2):
        pairs = [one for _ in range(count) for one in (normal(2, 3), normal(1))]
        for grad_on_w in (0, 1):
            case("WeightedSum", pairs, grad_on_w=grad_on_w)
            for outputs in (1, 2, 3, 4):
                case("WeightedSumGradient", [normal(2, 3)] + pairs, outputs, grad_on_w=grad_on_w)
    case("WeightedSum", [normal(0, 3), normal(1)])
    kind = "WeightedSumGradient"
    case(kind, [normal(2, 3)])
    case(kind, [normal(2, 3), normal(2, 3), normal(1), normal(2, 3)], 2)
    case(kind, [normal(2, 3), normal(2, 3), normal(2)])
    case(kind, [normal(2, 3), normal(2, 3), normal()])
    case(kind, [normal(2, 3), normal(5), normal(1)])
    case(kind, [normal(2, 3), normal(5), normal(1)], 2, grad_on_w=1)
    case(kind, [normal(2, 3), normal(6), normal(1)], 2, grad_on_w=1)
    case(kind, [normal(0, 3), normal(0), normal(1)], 2, grad_on_w=1)
    case(kind, [normal(2, 3), normal(2, 3), normal(1)], ["I0"])
    case(kind, [np.ones(2), normal(2), normal(1)])


def infinities():
    """Where a factor of 0 meets NaN or infinity, and where infinities are equal."""
    nan, inf = np.nan, np.inf
    kind, labels = "CosineEmbeddingCriterion", ints(1, 0)
    for margin in (inf, -inf, nan, 0.0):
        for similarity in (inf, -inf, nan, 0.5):
            pair = np.array([similarity, similarity], float32)
            case(kind, [pair, labels], margin=margin)
            for cotangent in (nan, inf, 1):
                case(kind + "Gradient", [pair, labels, np.full(2, cotangent, float32)], margin=margin)
    x = np.array([[1, 2, nan, inf, inf, -inf, 1, 1e-12, 1.01e-12, -1.01e-12]], float32)
    y = np.array([[1, 1, 1, inf, 1, 1, nan, 0, 0, 0]], float32)
    for cotangent in (nan, inf, -inf, 2):
        case("L1DistanceGradient", [x, y, np.array([cotangent], float32)], 2)


def more_fills():
    shape, value = normal(2, 3), np.array([7], float32)
    for inputs, options in (
        ([shape, value], {"value": 1.0}),
        ([shape, value.reshape(1, 1)], {}),
        ([shape, ints(7)], {"dtype": 2, "value": 1}),
        ([shape, value], {"dtype": 2, "value": 1}),
        ([shape, normal(2)], {}),
        ([shape, value], {"dtype": 4, "value": b"a"}),
        ([], {"shape": [2], "extra_shape": [3]}),
        ([], {"shape": [2], "input_as_shape": 1}),
        ([], {"shape": 2}),
        ([], {"shape": [2.0]}),
        ([np.zeros(0, np.int64)], {"input_as_shape": 1}),
        ([np.array([[1, 2]])], {"input_as_shape": 1}),
        ([ints(1, 2)], {"input_as_shape": 1}),
        ([np.array([2, 3])], {"input_as_shape": 1, "extra_shape": [2]}),
    ):
        case("ConstantFill", inputs, **options)
    case("ConstantFill", [shape, value], ["I1"])
    for dtype, values in ((1, [1.0, 2.0]), (13, [1.0, 2.0]), (4, [b"a", b""])):
        case("GivenTensorFill", [], shape=[2], dtype=dtype, values=values)
    for dtype in (0, 2, 3, 5, 6, 7, 8, 9, 10, 12):
        case("GivenTensorFill", [], shape=[2], dtype=dtype, values=[1, 0])
    case("GivenTensorFill", [], shape=[2], dtype=2, values=[1.0, 0.0])
    case("GivenTensorIntFill", [], shape=[2], dtype=1, values=[1, 0])
    case("GivenTensorIntFill", [], shape=[1], values=[2**40])
    case("GivenTensorFill", [], shape=[2], values=[1, 2])
    case("GivenTensorFill", [], shape=[0], values=[])
    case("GivenTensorFill", [normal(2)], ["I0"], values=[1.0, 2.0])
    for kind in ("", "Double", "Bool", "Int", "Int64", "String"):
        case("GivenTensor%sFill" % kind, [], shape=[0])
    low, high = np.array([2], float32), np.array([3], float32)
    for inputs in (
        [shape, low, high],
        [shape, low, low],
        [shape, high, low],
        [shape, low[0], high.reshape(1, 1)],
        [shape, normal(2), high],
        [shape, ints(1), high],
        [shape, low],
    ):
        case("UniformFill", inputs)
    case("UniformFill", [shape, low, high], ["I0"])
    case("UniformFill", [low, low, high], ["I1"])
    case("UniformFill", [shape, low, high], min=1.0)
    case("UniformFill", [np.array([3, 2]), low, high], input_as_shape=1)
    for bounds in ((3.0, 1.0), (1.0, 1.0), (2.0, None), (np.nan, 1.0), (0.0, 2.0)):
        case("UniformFill", [], shape=[2], min=bounds[0], max=bounds[1])
    case("GaussianFill", [], shape=[2], mean=3.0, std=0.0)
    case("GaussianFill", [], shape=[2], std=-1.0)
    for kind in ("UniformFill", "GaussianFill", "XavierFill", "MSRAFill"):
        for size in ([], [3], [2, 3], [4, 3, 2]):
            case(kind, [], shape=size)
        case(kind, [normal(2, 3)])
        case(kind, [normal(2, 3)], ["I0"])
        case(kind, [normal(2, 3)], extra_shape=[2])
        case(kind, [np.array([4, 3])], input_as_shape=1)
        case(kind, [normal(2, 3)], shape=[2])


def shapes_that_are_held():
    """The gradient of ReduceBackSum takes the shape of X from a vector of int64, as old nets give it."""
    kind = "ReduceBackSumGradient"
    case(kind, [normal(2), np.array([2, 3])])
    case(kind, [np.ones(2), np.array([2, 3])])
    case(kind, [normal(2), np.array([2, 3, 4])], num_reduce_dim=2)
    case(kind, [normal(2, 3), np.array([2, 3, 4])])
    case(kind, [normal(2), np.array([2, 3]), ints(2, 1)])
    case(kind, [normal(1), np.array([5])])
    case(kind, [normal(6), np.array([2, 3])], num_reduce_dim=0)
    case(kind, [normal(2), np.array([2, 3])], num_reduce_dim=3)
    case(kind, [normal(2), np.array([2, 3]), ints(2, 1, 1)])
    case(kind, [normal(2), ints(3, 4)], num_reduce_dim=0)
    case("MatMul", [normal(2, 3), normal(3, 4), normal(4, 2)])


def small_nets():
    """Three nets: a cosine loss, shared blobs whose gradients are summed, and a small classifier."""
    loss = core.Net("pairs")
    similarity = loss.CosineSimilarity(["X", "Y"], "similarity")
    hinge = loss.CosineEmbeddingCriterion([similarity, "labels"], "hinge", margin=0.25)
    mean = loss.AveragedLoss(hinge, "loss")
    yield loss, [mean], {"X": normal(6, 5), "Y": normal(6, 5), "labels": ints(1, -1, 1, -1, 0, 1)}

    shared = core.Net("shared")
    unit = shared.Normalize("X", "unit")
    product = shared.Mul([unit, "X"], "product")
    angle = shared.Cos(product, "angle")
    total = shared.Add([angle, unit], "total")
    square = shared.Sqr(total, "square")
    yield shared, [shared.ReduceBackSum(square, "reduced")], {"X": normal(4, 3)}

    network = core.Net("classifier")
    hidden = network.Relu(network.FC(["data", "w1", "b1"], "fc1"), "hidden")
    rows = network.Normalize(hidden, "rows")
    filters = network.Normalize("w2", "filters")
    cosines = network.MatMul([rows, filters], "cosines", trans_b=1)
    softmax = network.Softmax(network.Scale(cosines, "logits", scale=8.0), "softmax")
    entropy = network.LabelCrossEntropy([softmax, "labels"], "entropy")
    mean = network.AveragedLoss(entropy, "loss")
    feeds = {
        "data": normal(5, 6),
        "w1": normal(7, 6),
        "b1": normal(7),
        "w2": normal(3, 7),
        "labels": ints(0, 2, 1, 1, 0),
    }
    yield network, [mean], feeds


def nets():
    found = []
    for net, losses, feeds in small_nets():
        workspace.ResetWorkspace()
        name = net.Name()
        for blob, array in feeds.items():
            workspace.FeedBlob(blob, array)
            arrays["%s/%s" % (name, blob)] = array
        shapes, types = workspace.InferShapesAndTypes([net])  # before CosGradient, whose own inference fails
        forward = encoded(net.Proto())
        mapping = net.AddGradientOperators(losses)
        workspace.RunNetOnce(net)
        for blob in workspace.Blobs():
            arrays["%s/%s!" % (name, blob)] = workspace.FetchBlob(blob)
        found.append(
            {
                "name": name,
                "forward": forward,
                "net": encoded(net.Proto()),
                "losses": [str(one) for one in losses],
                "feeds": sorted(feeds),
                "blobs": workspace.Blobs(),
                "gradients": {str(one): str(other) for one, other in mapping.items()},
                "shapes": {one: [list(shapes[one]), types[one]] for one in shapes},
            }
        )
    return found


def serialized():
    found = []
    workspace.ResetWorkspace()
    kinds = (
        np.bool_,
        np.float16,
        np.float32,
        np.float64,
        np.int8,
        np.int16,
        np.int32,
        np.int64,
        np.uint8,
        np.uint16,
    )
    values = [(10 * normal(2, 3)).astype(kind) for kind in kinds]
    for number, array in enumerate([*values, np.array([b"a", b"bc"], dtype=object), normal(), normal(0, 2)]):
        array = np.asarray(array)
        workspace.FeedBlob("X", array)
        arrays["blob/%d" % number] = array.astype("S") if array.dtype == object else array
        found.append(base64.b64encode(workspace.SerializeBlob("X")).decode())
    return found


def saved_by_us():
    """The nets in ours_init.pb and ours.pb, which cosnorm.caffe2 wrote, run by Caffe2."""
    workspace.ResetWorkspace()
    for name in ("ours_init", "ours"):
        net = caffe2_pb2.NetDef()
        with open(os.path.join(os.path.dirname(__file__), name + ".pb"), "rb") as file:
            net.ParseFromString(file.read())
        workspace.RunNetOnce(net)
    for blob in workspace.Blobs():
        arrays["ours/%s!" % blob] = workspace.FetchBlob(blob)
    return workspace.Blobs()


if __name__ == "__main__":
    for part in (elementwise, criterion, distances, normalized, arithmetic, dense, fills):
        part()
    for part in (broadcasts, weighted_sums, infinities, more_fills, shapes_that_are_held):
        part()
    with open(__file__, "rb") as script:
        digest = hashlib.sha256(script.read()).hexdigest()
    meta = {
        "torch": torch.__version__,
        "script": digest,
        "cases": cases,
        "nets": nets(),
        "blobs": serialized(),
        "ours": saved_by_us(),
    }
    np.savez_compressed(sys.argv[1], meta=np.array(json.dumps(meta)), **arrays)
    print("%d cases, %d with an error" % (len(cases), sum("error" in one for one in cases)))
