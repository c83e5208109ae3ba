"""The cosine operators as Caffe2's own suite checks them: references, numeric gradients, shapes.

Its tolerances: values within 1e-4 of NumPy's; gradients of ½ Σ y² by differences of step 0.05, within 0.005.
"""

import numpy as np
import pytest
import torch
from fresh_workspace import fresh_workspace  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numeric_gradient import STEP, check_gradient, run

from cosnorm.caffe2 import core, workspace

few = settings(max_examples=15, deadline=None)


def check_reference(kind, inputs, reference, **arguments):
    expected = reference(*(x.astype(np.float64) if x.dtype == np.float32 else x for x in inputs))
    found = run(kind, inputs, **arguments)
    assert found.dtype == np.float32
    assert found.shape == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    net = core.Net("shapes")
    getattr(net, kind)([f"I{i}" for i in range(len(inputs))], "O", **arguments)
    shapes, _ = workspace.InferShapesAndTypes([net])
    if kind != "CosineEmbeddingCriterion":  # Caffe2 infers nothing for it
        assert shapes["O"] == list(np.shape(expected))


def tensors(shape, low=-1.0, high=1.0):
    return hnp.arrays(np.float32, shape, elements=st.floats(low, high, width=16))


@few
@given(tensors(hnp.array_shapes(min_dims=0, max_dims=3, max_side=4), -10, 10))
def test_cos(x):
    check_reference("Cos", [x], np.cos)
    check_gradient("Cos", [x], 0)


@few
@given(st.data(), st.integers(10, 20), st.sampled_from([-0.5, 0.0, 0.5]))
def test_the_embedding_criterion(data, count, margin):
    similarity = data.draw(tensors(count))
    labels = data.draw(hnp.arrays(np.int32, count, elements=st.integers(-1, 2)))
    # Not within a step of the kink, where differences are none.
    near = np.abs(similarity - margin) <= STEP
    similarity = np.where(near, np.float32(margin + 2 * STEP), similarity)

    def reference(s, y):
        return np.where(y == 1, 1 - s, np.maximum(0, s - margin))

    check_reference("CosineEmbeddingCriterion", [similarity, labels], reference, margin=margin)
    check_gradient("CosineEmbeddingCriterion", [similarity, labels], 0, margin=margin)


def rows(data, least=0.5):
    """Two tensors of 1 to 3 rows of 4 to 16, none of them short."""
    shape = (data.draw(st.integers(1, 3)), data.draw(st.integers(4, 16)))
    pair = [data.draw(tensors(shape)) for _ in range(2)]
    return [np.where(np.abs(x) < least, np.copysign(np.float32(least), x), x) for x in pair]


@few
@given(st.data())
def test_cosine_similarity(data):
    x, y = rows(data)

    def reference(x, y):
        return (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)

    check_reference("CosineSimilarity", [x, y], reference)
    for place in (0, 1):
        check_gradient("CosineSimilarity", [x, y], place)


@few
@given(st.data())
def test_dot_products_and_squared_distances(data):
    x, y = rows(data)
    check_reference("DotProduct", [x, y], lambda x, y: (x * y).sum(1))
    check_reference("SquaredL2Distance", [x, y], lambda x, y: np.square(x - y).sum(1) / 2)
    check_reference("L1Distance", [x, y], lambda x, y: np.abs(x - y).sum(1))
    for place in (0, 1):
        check_gradient("DotProduct", [x / 4, y / 4], place)


@few
@given(st.data(), st.integers(1, 5))
def test_normalize_along_every_axis(data, dimensions):
    shape = data.draw(hnp.array_shapes(min_dims=dimensions, max_dims=dimensions, max_side=3))
    x = data.draw(tensors(shape))
    x = np.where(np.abs(x) < 0.5, np.copysign(np.float32(0.5), x), x)
    for axis in range(-dimensions, dimensions):
        check_reference(
            "Normalize", [x], lambda x, axis=axis: x / np.linalg.norm(x, axis=axis, keepdims=True), axis=axis
        )
        check_reference(
            "NormalizeL1", [x], lambda x, axis=axis: x / np.abs(x).sum(axis, keepdims=True), axis=axis
        )
    check_gradient("Normalize", [x], 0, axis=data.draw(st.integers(-dimensions, dimensions - 1)))


@pytest.mark.parametrize("wrong", [lambda g: -g, lambda g: g + 0.02, lambda g: g * 0])
def test_the_check_of_gradients_finds_a_wrong_one(wrong, monkeypatch):
    from cosnorm.caffe2.registry import OPERATORS, operator

    right = OPERATORS["CosGradient"]
    operator("CosGradient", inputs=2)(lambda _: lambda x, dy: wrong(-dy * x.sin()))
    try:
        with pytest.raises(AssertionError):
            check_gradient("Cos", [np.full(3, 0.7, dtype=np.float32)], 0)
    finally:
        OPERATORS["CosGradient"] = right
    check_gradient("Cos", [np.full(3, 0.7, dtype=np.float32)], 0)


@pytest.mark.parametrize(
    ("kind", "arguments", "mean", "deviation", "bound"),
    [
        ("UniformFill", {"min": 1.0, "max": 3.0}, 2.0, 3**-0.5, 3.0),
        ("GaussianFill", {"mean": 1.0, "std": 2.0}, 1.0, 2.0, 15.0),
        ("XavierFill", {}, 0.0, (1 / 300) ** 0.5, 0.1),  # uniform up to sqrt(3 / fan-in)
        ("MSRAFill", {}, 0.0, (2 / 200) ** 0.5, 1.0),  # sqrt(2 / fan-out)
    ],
)
def test_random_fills(kind, arguments, mean, deviation, bound):
    def filled(**seed):
        workspace.RunOperatorOnce(core.CreateOperator(kind, [], "X", shape=[200, 300], **arguments, **seed))
        return workspace.FetchBlob("X")

    x = filled()
    assert (x.dtype, x.shape) == (np.float32, (200, 300))
    assert x.mean() == pytest.approx(mean, abs=0.03)
    assert x.std() == pytest.approx(deviation, rel=0.02)
    assert np.abs(x).max() <= bound
    assert not np.array_equal(filled(), x)
    np.testing.assert_array_equal(filled(random_seed=3), filled(random_seed=3))
    assert not np.array_equal(filled(random_seed=3), filled(random_seed=4))
    with pytest.raises(RuntimeError, match="schema checking"):
        workspace.RunOperatorOnce(core.CreateOperator(kind, ["X", "X"], "Y"))


@pytest.mark.parametrize("kind", ["UniformFill", "GaussianFill", "XavierFill", "MSRAFill"])
def test_random_fills_are_float_whatever_torch_makes_by_default(kind):
    torch.set_default_dtype(torch.float64)
    try:
        workspace.RunOperatorOnce(core.CreateOperator(kind, [], "X", shape=[2, 3]))
    finally:
        torch.set_default_dtype(torch.float32)
    assert workspace.FetchBlob("X").dtype == np.float32


def test_a_uniform_fill_between_what_blobs_hold():
    for name, array in (("like", np.zeros((200, 300))), ("low", np.ones(1)), ("high", np.full(1, 3.0))):
        workspace.FeedBlob(name, array.astype(np.float32))
    workspace.RunOperatorOnce(core.CreateOperator("UniformFill", ["like", "low", "high"], "X"))
    x = workspace.FetchBlob("X")
    assert x.shape == (200, 300)
    assert x.mean() == pytest.approx(2.0, abs=0.03)
    assert (x.min(), x.max()) == pytest.approx((1.0, 3.0), abs=0.001)
    workspace.FeedBlob("number", np.zeros((), dtype=np.float32))
    with pytest.raises(RuntimeError, match="a single number cannot be empty"):
        workspace.RunOperatorOnce(core.CreateOperator("UniformFill", ["number", "high", "low"], "X"))


@pytest.mark.parametrize("kind", ["Copy", "CopyOnDeviceLike", "StopGradient", "ConstantFill"])
def test_text_is_no_tensor(kind):
    workspace.FeedBlob("text", "text")
    workspace.FeedBlob("X", np.ones(1, dtype=np.float32))
    inputs = ["text", "X"] if kind == "CopyOnDeviceLike" else ["text"]
    with pytest.raises(RuntimeError, match=r"wrong type for the Blob instance\. Blob contains std::string"):
        workspace.RunOperatorOnce(core.CreateOperator(kind, inputs, "Y"))
    workspace.RunOperatorOnce(core.CreateOperator("CopyOnDeviceLike", ["X", "text"], "Y"))
    assert workspace.FetchBlob("Y").tolist() == [1]


def test_gradients_of_products_along_other_axes():
    """Caffe2's own fail, for they take 1 for every axis."""
    random = np.random.default_rng(0)
    for trans_a, trans_b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        a, b = random.normal(size=(2, 3, 4)), random.normal(size=(2, 2, 5))
        a_matrix, b_matrix = a.reshape(6, 4), b.reshape(4, 5)
        if trans_a:
            a = random.normal(size=(2, 2, 6))
            a_matrix = a.reshape(4, 6).T
        if trans_b:
            b = random.normal(size=(5, 2, 2))
            b_matrix = b.reshape(5, 4).T
        axes = {"axis_a": 2, "axis_b": 1 if trans_b else 2, "trans_a": trans_a, "trans_b": trans_b}
        cotangent = random.normal(size=(6, 5))
        for name, array in (("A", a), ("B", b), ("dC", cotangent)):
            workspace.FeedBlob(name, array.astype(np.float32))
        net = core.Net("axes")
        net.AddExternalInput("dC")
        net.MatMul(["A", "B"], "C", **axes)
        net.AddGradientOperators({"C": "dC"})
        workspace.RunNetOnce(net)
        of_a, of_b = cotangent @ b_matrix.T, a_matrix.T @ cotangent
        expected = {
            "C": a_matrix @ b_matrix,
            "A_grad": (of_a.T if trans_a else of_a).reshape(a.shape),
            "B_grad": (of_b.T if trans_b else of_b).reshape(b.shape),
        }
        for name, array in expected.items():
            np.testing.assert_allclose(workspace.FetchBlob(name), array, rtol=1e-4, atol=1e-5)
