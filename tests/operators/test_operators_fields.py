"""The operators of receptive fields: each form against the plain formula, and how many launches they take."""

import pytest
import reference
import torch
from operations import value_and_gradients
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from cosnorm import functional, nn
from cosnorm.backends.c.library import library
from cosnorm.backends.geometry import Geometry
from cosnorm.backends.torch import fields as torch_fields
from cosnorm.operators.fields import cosine_fields, cosine_folded_fields

FORMS = ["torch", "look", pytest.param("c", marks=pytest.mark.skipif(library() is None, reason="no passes"))]
# x, weight, stride, padding, dilation, groups
GEOMETRIES = [
    ((3, 4, 17), (6, 2, 4), (2,), (1,), (1,), 2),
    ((2, 6, 12, 10), (3, 2, 3, 2), (3, 1), (0, 2), (2, 3), 3),
    ((3, 2, 4, 4), (5, 2, 2, 2), (1, 1), (3, 3), (1, 1), 1),  # fields of padding alone
    ((2, 4, 5, 4, 6), (4, 2, 2, 1, 3), (1, 2, 1), (1, 0, 1), (1, 1, 2), 2),
]
each_form = pytest.mark.parametrize("form", FORMS)
each_geometry = pytest.mark.parametrize("geometry", GEOMETRIES, ids=["1d", "dilated", "padded", "3d"])


def call_of(geometry: tuple, **options):
    """The public function and the plain formula, both of x and the weight."""
    places = dict(zip(("stride", "padding", "dilation", "groups"), geometry[2:], strict=True))
    own = getattr(functional, f"cosine_conv{len(geometry[0]) - 2}d")
    return (
        lambda x, w: own(x, w, **places, **options),
        lambda x, w: reference.conv(x, w, **places, **options),
    )


@each_form
@each_geometry
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("augment", [0.0, 0.3])
@pytest.mark.parametrize("last", [False, True])
def test_each_form_against_unfolding(
    form: str, geometry: tuple, centered: bool, augment: float, last: bool, force
):
    force(form)
    own, plain = call_of(geometry, centered=centered, augment=augment)
    x, w = torch.randn(geometry[0]), torch.randn(geometry[1])
    x[0] = 0
    x[1, :, 1:] = 3 if centered else x[1, :, 1:]  # constant fields
    if last and x.ndim > 3:
        order = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
        x, w = x.contiguous(memory_format=order), w.contiguous(memory_format=order)

    def cotangent(output: Tensor) -> Tensor:
        return torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output.dtype)

    found = value_and_gradients(own, x, w, cotangent)
    expected = value_and_gradients(plain, x.double(), w.double(), cotangent)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() < 1e-5 * other.abs().max().clamp(min=1)


@each_form
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("augment", [0.0, 0.3])
def test_folded_filters(form: str, centered: bool, augment: float, force):
    force(form)
    layer = nn.CosineConv2d(4, 6, (3, 2), padding=(1, 2), groups=2, centered=centered, augment=augment)
    x = torch.randn(3, 4, 7, 6, requires_grad=True)
    for scale in (1.0, 1e-30):
        found, expected = layer.fold()(scale * x), layer(scale * x)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    cotangent = torch.randn_like(found)
    into_x, exact = (torch.autograd.grad(f(x), x, cotangent)[0] for f in (layer.fold(), layer))
    torch.testing.assert_close(into_x, exact, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.fold()(x).dtype == torch.bfloat16


@pytest.mark.parametrize(("centered", "augment"), [(False, 0.3), (True, 0.0)])
def test_torchs_checks_of_the_operators(centered: bool, augment: float):
    x = torch.randn(2, 2, 5, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 1, 3, dtype=torch.float64, requires_grad=True)
    places = [2], [1], [1], 2

    def own(x: Tensor, w: Tensor) -> Tensor:
        return cosine_fields(x, w, *places, centered, augment, "auto", False)[0]

    assert torch.autograd.gradcheck(own, (x, w), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(own, (x, w))
    float32, float64, bfloat16 = torch.float32, torch.float64, torch.bfloat16
    for dtype, impl in ((float32, "auto"), (float32, "torch"), (float64, "auto"), (bfloat16, "torch")):
        given = [one.detach().to(dtype).requires_grad_() for one in (x, w)]
        torch.library.opcheck(cosine_fields, (*given, *places, centered, augment, impl, False))
    constant = torch.rand(2, 1, dtype=torch.float64) if augment else None
    rows = w.detach().flatten(1)
    rows = rows - rows.mean(1, keepdim=True) if centered else rows
    unit = torch.nn.functional.normalize(rows).reshape(w.shape)
    folded = (x, unit, constant, *places, centered, augment, "auto", False)
    torch.library.opcheck(cosine_folded_fields, folded)
    assert torch.autograd.gradcheck(
        lambda x: cosine_folded_fields(x, *folded[1:]), (x,), check_forward_ad=True
    )


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_order_in_memory_is_torchs(last: bool, dtype: torch.dtype):
    order = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(2, 4, 6, 5, dtype=dtype).contiguous(memory_format=order)
    w = torch.randn(8, 4, 3, 3, dtype=dtype)
    assert functional.cosine_conv2d(x, w).stride() == torch.conv2d(x, w).stride()
    assert functional.cosine_conv2d(x.to("meta"), w.to("meta")).stride() == torch.conv2d(x, w).stride()


def test_flops_are_torchs():
    x, w = torch.randn(2, 4, 9, 8, requires_grad=True), torch.randn(6, 4, 3, 2, requires_grad=True)
    counts = []
    for call in (functional.cosine_conv2d, torch.conv2d):
        with FlopCounterMode(display=False) as counter:
            call(x, w, stride=2, padding=1).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


FREE = ("empty", "new_empty", "empty_like", "detach", "_reshape_alias", "_unsafe_view")


class Launches(TorchDispatchMode):
    """What computes: neither views nor memory."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._overloadpacket.__name__
        if not function.is_view and name not in FREE:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("centered", "most"), [(False, (18, 36)), (True, (40, 50))], ids=["plain", "centered"]
)
def test_launches_of_the_torch_form(centered: bool, most: tuple[int, int]):
    """On a CPU, in float64; those of an accelerator are counted in `test_launches.py`."""
    x, w = torch.randn(8, 4, 9, 9), torch.randn(6, 4, 3, 3)
    geometry = Geometry.of(w, (1, 1), (1, 1), (1, 1), 1)
    options = {"centered": centered, "augment": 0.0}
    with Launches() as forward:
        output, *saved = torch_fields.cosines(x, w, geometry, keep=True, **options)
    with Launches() as backward:
        torch_fields.gradients(output, x, w, *saved, geometry, needs=[True, True], **options)
    assert len(forward.names) <= most[0], forward.names
    assert len(backward.names) <= most[1], backward.names
