"""Gradient operators: by differences, as Caffe2's own suite checks them, and errors where they do not fit."""

import numpy as np
import pytest
import torch
from fresh_workspace import fresh_workspace  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from numeric_gradient import check_gradient

from cosnorm.caffe2 import core, workspace
from cosnorm.caffe2.registry import MANY, OPERATORS, operator

few = settings(max_examples=4, deadline=None)
seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def within(random, low, high, *shape):
    return random.uniform(low, high, shape).astype(np.float32)


def off_zero(random, *shape):
    """Farther from 0 than a step of the differences."""
    x = within(random, 0.2, 1, *shape)
    return np.where(within(random, 0, 1, *shape) < 0.5, x, -x)


def labels(random, rows, classes):
    return random.integers(0, classes, rows).astype(np.int32)


@few
@given(seeds)
def test_trigonometry(random):
    check_gradient("Sin", [within(random, -3, 3, 2, 3)], 0)
    check_gradient("Tan", [within(random, -0.5, 0.5, 5)], 0)
    for kind in ("Acos", "Asin", "Atan"):
        check_gradient(kind, [within(random, -0.5, 0.5, 3, 2)], 0)


@few
@given(seeds)
def test_distances(random):
    x, y = within(random, -1, 1, 3, 4), within(random, -1, 1, 3, 4)
    apart = y + off_zero(random, 3, 4)
    for place in (0, 1):
        check_gradient("SquaredL2Distance", [x / 2, y / 2], place)
        check_gradient("L1Distance", [y / 4, apart / 4], place)


@few
@given(seeds)
def test_what_a_network_is_made_of(random):
    x, weight, bias = within(random, -1, 1, 3, 4), within(random, -1, 1, 2, 4), within(random, -1, 1, 2)
    for place in range(3):
        check_gradient("FC", [x, weight, bias], place)
        check_gradient("FC", [x.reshape(3, 2, 2), weight, bias], place)
    for place in (0, 1):
        check_gradient("MatMul", [x, weight], place, trans_b=1)
        check_gradient("MatMul", [x, x], place, trans_a=1)
        check_gradient("MatMul", [x.T.copy(), weight], place, trans_a=1, trans_b=1)
    check_gradient("Relu", [off_zero(random, 3, 4)], 0)
    check_gradient("Softmax", [x], 0)
    check_gradient("Softmax", [x.reshape(3, 2, 2)], 0, axis=2)
    check_gradient("LabelCrossEntropy", [within(random, 0.6, 1, 3, 4), labels(random, 3, 4)], 0)
    check_gradient("AveragedLoss", [x], 0)
    check_gradient("ReduceBackSum", [x], 0)
    check_gradient("ReduceBackSum", [x.reshape(3, 2, 2)], 0, num_reduce_dim=2)
    check_gradient("ReduceBackSum", [x, np.array([1, 4, 2], dtype=np.int32)], 0)


@few
@given(seeds)
def test_arithmetic(random):
    x = within(random, -1, 1, 3, 4)
    for kind in ("Scale", "Sqr"):
        check_gradient(kind, [x], 0)
    check_gradient("Sqrt", [within(random, 0.5, 1.5, 3, 4)], 0)
    check_gradient("Scale", [x], 0, scale=-1.5)
    for place in (0, 2):
        check_gradient("Sum", [x, x / 2, x + 1], place)
    inputs = [x, within(random, -1, 1, 1), x / 2 - 1, within(random, -1, 1, 1)]
    for place in range(4):
        check_gradient("WeightedSum", inputs, place, grad_on_w=1)
    check_gradient("WeightedSum", inputs, 2)


@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul", "Div"])
@few
@given(seeds)
def test_broadcasts(kind, random):
    for b, options in (
        ((2, 3, 2), {}),
        ((3, 2), {}),
        ((3, 1), {}),
        ((), {}),
        ((3,), {"broadcast": 1, "axis": 1}),
        ((1, 3, 1), {"broadcast": 1}),
        ((1, 2), {"broadcast": 1, "axis": 1}),
        ((1, 1, 1, 1), {"broadcast": 1}),
    ):
        inputs = within(random, -1, 1, 2, 3, 2), within(random, 1.5, 2, *b)
        for place in (0, 1):
            check_gradient(kind, inputs, place, **options)
    check_gradient(kind, [within(random, -1, 1, 3), within(random, 1.5, 2, 2, 3)], 0)


FLOATS = {"x": (2, 3), "row": (3,), "pair": (2,), "number": ()}
# The inputs of a gradient operator, "?" where dY stands, of another size than the output.
SHORT = {
    "AddGradient": "? x x",
    "SubGradient": "? x row",
    "MulGradient": "? x number",
    "DivGradient": "? x x x",
    "CosGradient": "x ?",
    "NormalizeGradient": "x ?",
    "ReluGradient": "x ?",
    "SoftmaxGradient": "x ?",
    "CosineEmbeddingCriterionGradient": "row labels ?",
    "CosineSimilarityGradient": "x x ?",
    "DotProductGradient": "x x ?",
    "SquaredL2DistanceGradient": "x x ?",
    "L1DistanceGradient": "x x ?",
    "FCGradient": "x x ?",
    "LabelCrossEntropyGradient": "x two ?",
    "ReduceBackSumGradient": "? x",
}


@pytest.mark.parametrize("shape", [(), (5,), (1, 3, 1, 1, 4), (0, 2)], ids=str)
@pytest.mark.parametrize("kind", SHORT)
def test_a_gradient_of_another_size_is_refused(kind, shape):
    """The original reads beyond its end, or makes gradients of another shape than the inputs'."""
    for name, size in FLOATS.items():
        workspace.FeedBlob(name, np.ones(size, dtype=np.float32))
    workspace.FeedBlob("labels", np.ones(3, dtype=np.int32))
    workspace.FeedBlob("two", np.ones(2, dtype=np.int32))
    workspace.FeedBlob("?", np.ones(shape, dtype=np.float32))
    outputs = [f"O{i}" for i in range(OPERATORS[kind].outputs[0])]
    with pytest.raises(RuntimeError, match=r"must have the elements of the output|dim32\(0\) == N"):
        workspace.RunOperatorOnce(core.CreateOperator(kind, SHORT[kind].split(), outputs))


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        ("AddGradient", [(3, 3, 3), (3, 3, 4), ()]),
        ("MulGradient", [(3,), (2, 3), (2, 3)]),
        ("SubGradient", [(1, 4), (4, 1, 1, 2), (2,)]),
        ("MulGradient", [(1, 1, 4), (4, 1), (4, 1, 3)]),
        ("DivGradient", [(2, 3), (2, 3), (2, 3), (3,)]),
    ],
)
def test_a_gradient_that_broadcasts_is_refused(kind, shapes):
    for i, shape in enumerate(shapes):
        workspace.FeedBlob(f"I{i}", np.ones(shape, dtype=np.float32))
    names = [f"I{i}" for i in range(len(shapes))]
    with pytest.raises(RuntimeError, match="must have the elements of the output"):
        workspace.RunOperatorOnce(core.CreateOperator(kind, names, ["a", "b"]))
    assert workspace.FetchBlob("a").startswith(b"a, a C++ native class of type nullptr")


ONES, FEW, SIZES = np.ones((2, 3), np.float32), np.ones(3, np.float32), np.array([2, 3])
MOST = np.ones(1, np.float32)
# An operator for each that takes inputs or leaves them out: all that it takes, and in the last one's place
# what does not fit. Sums, whose terms are alike, and fills, whose inputs are looked at together, have theirs
# elsewhere.
OPTIONAL = {
    "DivGradient": ([ONES, ONES, ONES, ONES], FEW),
    "MatMul": ([ONES, ONES.T, np.ones(4, np.float32)], FEW),
    "ReduceBackSum": ([ONES, np.array([1, 2], np.int32)], np.array([1, 2, 3], np.int32)),
    "ReduceBackSumGradient": ([ONES[:, 0], SIZES, np.array([1, 2], np.int32)], np.array([1], np.int32)),
    "UniformFill": ([SIZES, -MOST, MOST], FEW),
    "ConstantFill": ([SIZES, MOST], FEW),
}


@pytest.mark.parametrize("kind", OPTIONAL)
def test_an_input_that_may_be_left_out_is_looked_at(kind):
    """What came in the place of such an input was passed over by some, which made a wrong shape of it."""
    inputs, wrong = OPTIONAL[kind]
    names = [f"I{i}" for i in range(len(inputs))]
    outputs = [f"O{i}" for i in range(OPERATORS[kind].outputs[0])]
    definition = core.CreateOperator(kind, names, outputs, input_as_shape=1)
    for name, array in zip(names, inputs, strict=True):
        workspace.FeedBlob(name, array)
    assert workspace.RunOperatorOnce(definition)
    for other in (wrong, np.array(["text"])):
        workspace.FeedBlob(names[-1], other)
        with pytest.raises(RuntimeError) as caught:
            workspace.RunOperatorOnce(definition)
        assert "is invalid for input" not in str(caught.value)  # torch's own words, which name no operator


def test_each_operator_with_such_inputs_has_a_case():
    optional = {name for name, one in OPERATORS.items() if one.inputs[0] < one.inputs[1] < MANY}
    assert {name for name in optional if not name.endswith("Fill")} <= OPTIONAL.keys() <= optional


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
def test_the_gradient_of_a_sum_takes_a_shape(dtype):
    """A vector of int64 is the shape of X, and not X: the gradient has that shape, not the vector's."""
    workspace.FeedBlob("dY", np.array([3, 4], dtype=dtype))
    workspace.FeedBlob("sizes", np.array([2, 3]))
    definition = core.CreateOperator("ReduceBackSumGradient", ["dY", "sizes"], "dX")
    net = core.Net("sizes")
    net.Proto().op.append(definition)
    assert "dX" not in workspace.InferShapesAndTypes([net])[0]  # what the blob holds, nobody asks then
    workspace.RunOperatorOnce(definition)
    found = workspace.FetchBlob("dX")
    assert (found.dtype, found.tolist()) == (dtype, [[3, 3, 3], [4, 4, 4]])
    for wrong in ([-1, 3], [2**40, 2**40], [3, 3]):
        workspace.FeedBlob("sizes", np.array(wrong))
        with pytest.raises(RuntimeError):
            workspace.RunOperatorOnce(definition)


def test_the_weights_of_a_sum_are_trained():
    """`grad_on_w` in a net: w of w x nears 3, by a gradient that passes through AddGradientOperators."""
    feeds = {"x": [1.0, 2.0], "w": [0.0], "no": [-3.0], "one": [1.0], "step": [-0.1]}
    for name, values in feeds.items():
        workspace.FeedBlob(name, np.array(values, dtype=np.float32))
    net = core.Net("weights")
    error = net.WeightedSum(["x", "w", "x", "no"], "error", grad_on_w=1)
    loss = net.AveragedLoss(net.Sqr(error, "squares"), "loss")
    gradients = net.AddGradientOperators([loss])
    assert set(gradients) >= {"x", "w", "no"}
    net.WeightedSum(["w", "one", gradients["w"], "step"], "w")
    workspace.CreateNet(net)
    workspace.RunNet(net, 60)
    assert workspace.FetchBlob("w") == pytest.approx([3.0], abs=1e-3)


def test_an_operator_that_makes_another_number_of_values_is_an_error():
    try:
        operator("Two", outputs=(1, 3))(lambda _: lambda x: (x, x))
        workspace.FeedBlob("X", np.ones(1, dtype=np.float32))
        for outputs in (["Y"], ["Y", "Z", "W"]):
            definition = core.CreateOperator("Two", "X", outputs)
            with pytest.raises(RuntimeError, match=f"2 values were made for {len(outputs)} outputs"):
                workspace.RunOperatorOnce(definition)
            net = core.Net("two")
            net.Proto().op.append(definition)
            assert workspace.InferShapesAndTypes([net])[0].keys() == {"X"}
        workspace.RunOperatorOnce(core.CreateOperator("Two", "X", ["Y", "Z"]))
        assert torch.equal(*(torch.from_numpy(workspace.FetchBlob(name)) for name in "YZ"))
    finally:
        del OPERATORS["Two"]
