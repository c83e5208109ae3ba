"""Under torch.compile a layer is one operator, forward and backward, and nothing is traced again."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._functorch.aot_autograd import aot_module_simplified

import cosnorm
from cosnorm.losses import ArcFaceLoss, InfoNCELoss, NTXentLoss, SupConLoss

LAYERS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...]]] = {
    "linear": (lambda **o: cosnorm.nn.CosineLinear(8, 6, **o), (5, 8)),
    "conv1d": (lambda **o: cosnorm.nn.CosineConv1d(4, 6, 3, **o), (2, 4, 9)),
    "conv2d": (lambda **o: cosnorm.nn.CosineConv2d(4, 6, 3, padding=1, **o), (2, 4, 7, 7)),
    "conv3d": (lambda **o: cosnorm.nn.CosineConv3d(2, 3, 2, **o), (2, 2, 4, 4, 4)),
}


def operators_of(call: Callable[..., Tensor], *inputs: Tensor) -> list[list[str]]:
    """The names of our operators in each graph that is compiled: forward, then backward."""
    found: list[list[str]] = []

    def note(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable:
        names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        found.append([name for name in names if name.startswith("cosnorm.")])
        return graph.forward

    def backend(graph: torch.fx.GraphModule, examples: list[Tensor]) -> Callable:
        return aot_module_simplified(graph, examples, fw_compiler=note, bw_compiler=note)

    torch._dynamo.reset()
    torch.compile(call, backend=backend, fullgraph=True)(*inputs).sum().backward()
    return found


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_one_operator_each_way(name: str, centered: bool):
    make, shape = LAYERS[name]
    layer, x = make(centered=centered), torch.randn(shape, requires_grad=True)
    forward, backward = operators_of(layer, x)
    assert len(forward) == 1, forward
    assert len(backward) == 1, backward


def _loss(make: Callable[[], nn.Module], *shapes: tuple[int, ...], labels: bool = False) -> Callable:
    def case() -> tuple[nn.Module, list[Tensor]]:
        rows = [torch.randn(shape, requires_grad=True) for shape in shapes]
        return make(), [*rows, *([torch.arange(shapes[0][0]) % 3] if labels else [])]

    return case


LOSSES = {
    "nt-xent": _loss(NTXentLoss, (6, 5), (6, 5)),
    "info-nce": _loss(InfoNCELoss, (6, 5), (6, 5)),
    "sup-con": _loss(SupConLoss, (6, 5), labels=True),
    "arcface": _loss(lambda: ArcFaceLoss(3, 5), (6, 5), labels=True),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_keeps_its_tiles_in_few_operators(name: str):
    module, inputs = LOSSES[name]()
    forward, backward = operators_of(module, *inputs)
    assert 1 <= len(forward) <= 3, forward
    assert 1 <= len(backward) <= 3, backward


@pytest.mark.parametrize("name", [*LAYERS, *LOSSES])
def test_nothing_is_traced_again(name: str):
    if name in LAYERS:
        make, shape = LAYERS[name]
        module, inputs = make(), [torch.randn(shape)]
    else:
        module, inputs = LOSSES[name]()
        inputs = [one.detach() for one in inputs]
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    call = torch.compile(module, backend=counter, fullgraph=True)
    for factor in (1.0, 1e-30, 1e30, 0.0):  # what the rows hold decides nothing above the wall
        call(*(one * factor if one.is_floating_point() else one for one in inputs))
    assert counter.frame_count == 1
    for count in (3, 7, 9):  # one more for sizes that change, then none
        call(*(torch.cat([one] * 2)[:count] for one in inputs))
    assert counter.frame_count <= 2
