"""Nets as torch modules: the same output, training, compiling, exporting."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from fresh_workspace import fresh_workspace  # noqa: F401

from cosnorm.caffe2 import core, to_torch, workspace


def classifier(name: str) -> tuple[core.Net, core.Net]:
    """A net that fills parameters, and one with a cosine layer and a loss."""
    random = np.random.default_rng(0)
    init, net = core.Net(f"{name}_init"), core.Net(name)
    for parameter, shape in (("tower/w", (7, 6)), ("b", (7,)), ("classes", (3, 7))):
        values = random.normal(size=shape).astype(np.float32)
        init.GivenTensorFill([], core.BlobReference(parameter), shape=shape, values=values)
    hidden = net.Relu(net.FC(["data", core.BlobReference("tower/w"), "b"]), "hidden")
    cosines = net.MatMul([net.Normalize(hidden), net.Normalize("classes")], "cosines", trans_b=1)
    softmax = net.Softmax(net.Scale(cosines, scale=8.0), "softmax")
    loss = net.AveragedLoss(net.LabelCrossEntropy([softmax, "labels"]), "loss")
    net.AddExternalOutput(core.BlobReference("cosines"), loss)
    return init, net


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(12, 6, generator=generator), torch.arange(12, dtype=torch.int32) % 3


def test_the_output_is_the_nets_and_so_are_the_gradients():
    init, net = classifier("same")
    module = to_torch(net, init)
    assert module.inputs == ["data", "labels"]
    assert module.outputs == ["cosines", "loss"]
    assert sorted(name for name, _ in module.named_parameters()) == ["b", "classes", "tower_w"]
    x, y = data()
    x.requires_grad_()
    cosines, loss = module(x, y)
    loss.backward()
    gradients = net.AddGradientOperators(["loss"])
    workspace.RunNetOnce(init)
    workspace.FeedBlob("data", x.detach())
    workspace.FeedBlob("labels", y)
    workspace.RunNetOnce(net)
    np.testing.assert_array_equal(cosines.detach(), workspace.FetchBlob("cosines"))
    assert loss.item() == workspace.FetchBlob("loss")
    for name, gradient in (("data", x.grad), ("b", module.b.grad), ("tower/w", module.tower_w.grad)):
        found = workspace.FetchBlob(gradients[core.BlobReference(name)])
        np.testing.assert_allclose(gradient, found, rtol=1e-5, atol=1e-7)
    for operation in ("FC: data, tower/w, b -> ", "LabelCrossEntropy: softmax, labels -> "):
        assert operation in str(module)


def test_it_trains_and_keeps_its_state():
    init, net = classifier("training")
    module, other = to_torch(net, init), to_torch(net, init)
    x, y = data()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.2)
    first = module(x, y)[1].item()
    for _ in range(100):
        optimizer.zero_grad()
        loss = module(x, y)[1]
        loss.backward()
        optimizer.step()
    assert loss < 0.3 * first
    assert other(x, y)[1].item() == first
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(other(x, y)[1], module(x, y)[1])


def test_it_compiles_and_exports():
    init, net = classifier("exported")
    module = to_torch(net, init)
    x, y = data()
    expected = module(x, y)
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    for found, other in zip(compiled(x, y), expected, strict=True):
        torch.testing.assert_close(found, other)
    if torch.__version__ < "2.7":
        pytest.skip("torch.export 2.6 takes the number of rows for a constant; 2.13 does not")
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(module, (x, y), dynamic_shapes={"inputs": ({0: rows}, {0: rows})})
    # The checks that torch 2.9 puts before a program do not know `*inputs`: "name 'L' is not defined".
    unchecked = {"check_guards": False} if "2.9" <= torch.__version__ < "2.10" else {}
    exported = program.module(**unchecked)
    for found, other in zip(exported(x[:5], y[:5]), module(x[:5], y[:5]), strict=True):
        torch.testing.assert_close(found, other)


@pytest.mark.parametrize(
    ("kind", "shapes", "arguments"),
    [
        ("Cos", [(3, 4)], {}),
        ("Sin", [(3, 4)], {}),
        ("Tan", [(3, 4)], {}),
        ("Atan", [(3, 4)], {}),
        ("Sqr", [(3, 4)], {}),
        ("CosineSimilarity", [(3, 4), (3, 4)], {}),
        ("DotProduct", [(3, 4), (3, 4)], {}),
        ("SquaredL2Distance", [(3, 4), (3, 4)], {}),
        ("L1Distance", [(3, 4), (3, 4)], {}),
        ("Normalize", [(3, 4)], {"axis": 0}),
        ("Add", [(3, 4), (4,)], {}),
        ("Div", [(3, 4), (3,)], {"broadcast": 1, "axis": 0}),
        ("ReduceBackSum", [(3, 4)], {}),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_torchs_gradient_is_the_gradient_operators(kind, shapes, arguments):
    generator = torch.Generator().manual_seed(2)
    values = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    names = [f"X{i}" for i in range(len(shapes))]
    net = core.Net("one operator")
    net.AddExternalInput(*names, "dY")
    output = getattr(net, kind)(names, "Y", **arguments)
    result = to_torch(net)(*values)
    cotangent = torch.randn(result.shape, generator=generator)
    result.backward(cotangent)
    for name, value in zip(names, values, strict=True):
        workspace.FeedBlob(name, value)
    workspace.FeedBlob("dY", cotangent)
    gradients = net.AddGradientOperators({output: "dY"})
    workspace.RunNetOnce(net)
    for name, value in zip(names, values, strict=True):
        np.testing.assert_allclose(value.grad, workspace.FetchBlob(gradients[name]), rtol=1e-5, atol=1e-6)


def test_the_criterion_at_its_margin():
    """Ties count; NaN of another pair gives 0 and no gradient."""
    net = core.Net("ties")
    net.CosineEmbeddingCriterion(["S", "labels"], "loss", margin=0.5)
    similarity = torch.tensor([0.5, 0.4, float("nan"), 0.5], requires_grad=True)
    loss = to_torch(net)(similarity, torch.tensor([-1, -1, 0, 1], dtype=torch.int32))
    loss.sum().backward()
    assert loss.tolist() == [0, 0, 0, 0.5]
    assert similarity.grad.tolist() == [1, 0, 0, -1]


def test_names_that_meet():
    net = core.Net("meeting")
    net.Add(["a/b", "a_b"], "sum")
    net.Mul(["sum", "forward"], "product")
    arrays = {"a/b": np.ones(2, np.float32), "a_b": torch.full((2,), 2.0), "forward": torch.full((2,), 5.0)}
    module = to_torch(net, arrays)
    assert module().tolist() == [15, 15]
    assert len(list(module.parameters())) == 3
    counts = core.Net("counts")
    counts.Add(["X", "one"], "Y")
    module = to_torch(counts, {"one": np.ones(1, dtype=np.int64), "unused": np.ones(9)})
    assert [name for name, _ in module.named_buffers()] == ["one"]
    assert module(torch.tensor([2, 3])).tolist() == [3, 4]


def test_outputs_are_the_last_versions_that_nothing_reads():
    net = core.Net("in place")
    net.FC(["X", "w", "b"], "Y")
    net.Relu("Y", "Y")
    parameters = {"w": np.eye(2, dtype=np.float32), "b": np.zeros(2, np.float32)}
    module = to_torch(net, parameters)
    assert module.outputs == ["Y"]
    assert module(torch.tensor([[-1.0, 2.0]])).tolist() == [[0, 2]]
    net.Cos("Y", "Z")
    net.Scale("Z", "Z", scale=2.0)
    net.Cos("X", "Q")
    assert to_torch(net, parameters).outputs == ["Z", "Q"]
    with pytest.raises(RuntimeError, match="the net has no output; give outputs"):
        to_torch(core.Net("empty"))


def test_it_is_copied_and_pickled_with_its_state():
    init, net = classifier("pickled")
    module = to_torch(net, init).eval()
    with torch.no_grad():
        module.b += 1
    expected = module(*data())
    saved = io.BytesIO()
    torch.save(module, saved)
    saved.seek(0)
    net.Proto().op[0].type = "MatMul"  # what becomes of the net later is nothing to the module
    loaded = torch.load(saved, weights_only=False)
    for other in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module), loaded):
        assert not other.operations[0].training
        for found, value in zip(other(*data()), expected, strict=True):
            torch.testing.assert_close(found, value, rtol=0, atol=0)
        assert other.b.data_ptr() != module.b.data_ptr()


@pytest.mark.parametrize("kind", ["Copy", "StopGradient", "Sum"])
def test_what_is_passed_on_is_a_copy(kind):
    net = core.Net("passed on")
    getattr(net, kind)(["X"], "Y")
    net.Cos("Y", "Z")
    module = to_torch(net, outputs=["Y"])
    x = torch.ones(2)
    torch._dynamo.reset()
    for run in (module, torch.compile(module, backend="aot_eager", fullgraph=True)):
        run(x).add_(1)
        assert x.tolist() == [1, 1]
    torch.export.export(module, (x,)).module()(x).add_(1)
    assert x.tolist() == [1, 1]


def test_a_parameter_that_the_net_overwrites_begins_anew_with_each_call():
    net = core.Net("overwriting")
    net.Scale("w", "w", scale=2.0)
    module = to_torch(net, {"w": np.ones(1, np.float32)})
    assert (module().item(), module().item(), module.w.item()) == (2, 2, 1)


def test_what_cannot_be_made():
    net = core.Net("wrong")
    net.Cos("X", "Y")
    with pytest.raises(RuntimeError, match="the net reads X, which neither init nor inputs give"):
        to_torch(net, inputs=["Z"])
    with pytest.raises(RuntimeError, match="no operator makes the outputs Z"):
        to_torch(net, outputs=["Z"])
    with pytest.raises(TypeError, match=r"expected 1 inputs \(X\), got 2"):
        to_torch(net)(torch.ones(1), torch.ones(1))
    with pytest.raises(RuntimeError, match="Unsupported type of tensor: double"):
        to_torch(net)(torch.ones(1, dtype=torch.float64))
    net.Proto().op.add(type="Conv", output=["C"])
    with pytest.raises(RuntimeError, match="Cannot create operator of type 'Conv'"):
        to_torch(net)
    assert to_torch(core.Net("one").Clone("two"), inputs=["X"], outputs=["X"])(torch.ones(1)).tolist() == [1]
