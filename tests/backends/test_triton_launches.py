"""What the Triton backend launches, kernels and torch's operators together, counted on tensors without data.

A look at the data would raise on them: nothing waits for the device.
"""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from benchmarks.launches import STEPS, Launches, kernel_cost

from cosnorm.backends.geometry import Geometry
from cosnorm.backends.torch.contraction import MATRIX
from cosnorm.backends.triton import fields, fields_back, images, launch, rows, units
from cosnorm.functional import cosine_conv2d, cosine_linear
from cosnorm.losses import clip_loss

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LINEAR, CONV = (4, 8), {False: (5, 10), True: (6, 12)}
AUGMENTS = (0.0, 1e-4)
# Whole steps, forward and backward together: 12 is the goal. NT-Xent misses it by the positives of its two
# views, made (2) and checked (9) above the kernels; ArcFace by all that stands between its kernels: margins,
# what each label counts, and the target's part, which is apart from the other classes.
LOSSES = {"NT-Xent": 22, "InfoNCE": 11, "SupCon": 11, "CLIP": 12, "SigLIP": 12, "ArcFace": 117}


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter wants bfloat16 converted; and a product in float16 is one launch there."""
    for module in (launch, units, images, fields_back):
        monkeypatch.setattr(module, "interpreting", lambda: False)

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a @ b).new_empty(
            (len(a), b.shape[1]), dtype=torch.float32 if a.dtype == torch.float16 else a.dtype
        )

    monkeypatch.setattr(rows, "product", product)
    convolve, adjoints = Geometry.convolve, Geometry.adjoints

    # cuDNN's results have the channels last where its operands have; those without data do not.
    def in_order(self, x, weight):
        found = convolve(self, x, weight)
        last = x.is_contiguous(memory_format=torch.channels_last)
        return torch.empty_like(found, memory_format=torch.channels_last if last else torch.contiguous_format)

    def both_in_order(self, h, x, weight, needs):
        adjoints(self, h, x, weight, needs)
        return torch.empty_like(x), torch.empty_like(weight)

    monkeypatch.setattr(Geometry, "convolve", in_order)
    monkeypatch.setattr(Geometry, "adjoints", both_in_order)


def count(call) -> tuple[int, list[str]]:
    """How many launches, and their names."""
    with launch.launches(held=True) as kernels, Launches() as counted:
        call()
    names = [one.kernel.__name__ for one in kernels] + counted.names
    # Both gradients of a convolution are one call of torch's, and two convolutions.
    return len(names) + names.count("convolution_backward"), names


def empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("number", [8, 512])
def test_linear(number: int, dtype: torch.dtype, centered: bool, augment: float):
    x, w = empty(number, 1024, dtype=dtype), empty(2048, 1024, dtype=dtype)
    options = {"centered": centered, "augment": augment}
    found = []
    there, names = count(lambda: found.append(rows.cosines(x, w, MATRIX, keep=True, **options)))
    assert there <= (2 if number <= 16 and not centered else LINEAR[0]), names
    output, *saved = found[0]
    cotangent = torch.empty_like(output)
    for needs in ([True, True], [True, False], [False, True]):
        back, names = count(
            lambda needs=needs: rows.gradients(cotangent, x, w, *saved, MATRIX, needs=needs, **options)
        )
        assert back <= LINEAR[1], names


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_conv2d(dtype: torch.dtype, centered: bool, augment: float, order: torch.memory_format):
    x, w = empty(8, 64, 28, 28, dtype=dtype), empty(32, 64, 3, 3, dtype=dtype)
    x, w = (one.contiguous(memory_format=order) for one in (x, w))
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1), 1)
    options = {"centered": centered, "augment": augment}
    found = []
    there, names = count(lambda: found.append(fields.cosines(x, w, geometry, keep=True, **options)))
    assert there <= CONV[centered][0], names
    output, *saved = found[0]
    assert output.is_contiguous(memory_format=order)
    cotangent = torch.empty_like(output)
    back, names = count(
        lambda: fields.gradients(cotangent, x, w, *saved, geometry, needs=[True, True], **options)
    )
    assert back <= CONV[centered][1], names


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_losses(monkeypatch: pytest.MonkeyPatch, name: str, dtype: torch.dtype):
    monkeypatch.undo()
    step = STEPS[name]
    there, back = kernel_cost(step.ours, step.shapes, dtype)
    most = LOSSES[name] + (5 if name == "ArcFace" and dtype != torch.float32 else 0)
    if dtype != torch.float32 and not launch._OUT_DTYPE:  # products of half types that give no float32
        most += 4
    assert len(there) + len(back) <= most, (there, back)


def test_a_learned_temperature_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    shapes = (64, 32), (64, 32), (1,)
    there, back = kernel_cost(lambda a, b, t: clip_loss(a, b, temperature=t), shapes, torch.float32)
    assert len(there) + len(back) <= 22, (there, back)


@pytest.mark.parametrize("centered", [False, True])
def test_the_same_numbers_where_kernels_run(monkeypatch: pytest.MonkeyPatch, centered: bool):
    monkeypatch.undo()
    cases = (
        (cosine_linear, (20, 5), (3, 5), 2 if centered else 3, 4),
        (cosine_conv2d, (2, 3, 5, 5), (2, 3, 2, 2), 4, 5),
    )
    for call, x_shape, w_shape, there, back in cases:
        x, w = torch.randn(x_shape, requires_grad=True), torch.randn(w_shape, requires_grad=True)
        with launch.launches() as seen:
            output = call(x, w, centered=centered, impl="triton")
            forward = len(seen)
            output.sum().backward()
        assert forward == there, [one.kernel.__name__ for one in seen]
        assert len(seen) - forward == back, [one.kernel.__name__ for one in seen[forward:]]
