"""The loss modules: options, state, copies, learned temperatures, sampling, training, compile, autocast."""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor, nn

from cosnorm import losses

NUMBER, SIZE, CLASSES = 12, 6, 4
LABELS = torch.arange(NUMBER) % CLASSES


def slow(step: Tensor) -> Tensor:
    return 0.3 - 1e-7 * step


def modules() -> dict[str, nn.Module]:
    return {
        "nt-xent": losses.NTXentLoss(0.5),
        "nt-xent learned": losses.NTXentLoss(0.5, learn_temperature=True),
        "info-nce": losses.InfoNCELoss(0.5),
        "sup-con": losses.SupConLoss(0.5),
        "clip": losses.CLIPLoss(),
        "siglip": losses.SigLIPLoss(),
        "embedding": losses.CosineEmbeddingLoss(target=0.9),
        "normface": losses.NormFaceLoss(CLASSES, SIZE),
        "cosface": losses.CosFaceLoss(CLASSES, SIZE, sub_centers=2),
        "arcface": losses.ArcFaceLoss(CLASSES, SIZE, margin=0.3, scale=16.0),
        "adaface": losses.AdaFaceLoss(CLASSES, SIZE, scale=16.0),
        "magface": losses.MagFaceLoss(CLASSES, SIZE, norms=(1, 5), scale=16.0),
        "elasticface": losses.ElasticFaceLoss(CLASSES, SIZE, scale=16.0, deviation=0.0, sort=True),
        "curricularface": losses.CurricularFaceLoss(CLASSES, SIZE, scale=16.0),
        "sphereface": losses.SphereFaceLoss(CLASSES, SIZE, scale=16.0),
        "combined": losses.CombinedMarginLoss(CLASSES, SIZE, scale=16.0),
        "sphereface2": losses.SphereFace2Loss(CLASSES, SIZE, scale=16.0),
        "proxy anchor": losses.ProxyAnchorLoss(CLASSES, SIZE),
        "proxy nca": losses.ProxyNCALoss(CLASSES, SIZE),
        "scheduled": losses.ArcFaceLoss(CLASSES, SIZE, margin=slow, scale=16.0),
        "center": losses.CenterLoss(CLASSES, SIZE),
        "island": losses.IslandLoss(CLASSES, SIZE),
        "cosine distance": losses.CosineDistanceLoss(CLASSES, SIZE),
    }


PAIRS = ("nt-xent", "nt-xent learned", "info-nce", "clip", "siglip", "embedding")
each_module = pytest.mark.parametrize("name", modules())


def arguments(name: str, rows: Tensor) -> tuple[Tensor, Tensor]:
    if name in PAIRS:
        return rows, torch.randn(rows.shape, generator=torch.Generator().manual_seed(7)).to(rows.dtype)
    return rows, LABELS


@each_module
def test_copies_state_and_repr(name: str):
    module, rows = modules()[name], torch.randn(NUMBER, SIZE)
    fresh = modules()[name]
    fresh.load_state_dict(module.state_dict())
    twins = copy.deepcopy(module), pickle.loads(pickle.dumps(module)), fresh
    expected = module(*arguments(name, rows))  # which counts a step where there are steps to count
    for twin in twins:
        assert twin(*arguments(name, rows)) == expected
    assert type(module).__name__ in repr(module)


@each_module
def test_training_lowers_the_loss(name: str):
    module, rows = modules()[name], torch.randn(NUMBER, SIZE, requires_grad=True)
    optimizer = torch.optim.SGD([rows, *module.parameters()], lr=0.05)
    found = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = module(*arguments(name, rows))
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert found[-1] < found[0]


@each_module
def test_autocast(name: str):
    module, rows = modules()[name], torch.randn(NUMBER, SIZE, requires_grad=True)
    plain = module(*arguments(name, rows))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = module(*(one.bfloat16() if one.is_floating_point() else one for one in arguments(name, rows)))
    assert loss.dtype == torch.float32
    assert abs(loss - plain) < 0.03 * (1 + abs(plain))
    loss.backward()
    assert rows.grad.isfinite().all()


@pytest.mark.slow
@each_module
def test_compile_without_graph_breaks(name: str):
    torch._dynamo.reset()
    module, rows = modules()[name], torch.randn(NUMBER, SIZE, requires_grad=True)
    twin = copy.deepcopy(module)  # some count steps, or remember batches
    loss = torch.compile(module, fullgraph=True)(*arguments(name, rows))
    expected = twin(*arguments(name, rows))
    torch.testing.assert_close(loss, expected)
    found, right = (
        torch.autograd.grad(value, [rows, *one.parameters()])
        for value, one in ((loss, module), (expected, twin))
    )
    for one, other in zip([*found, *module.buffers()], [*right, *twin.buffers()], strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("step", [-1e3, 1e3])
def test_a_learned_temperature_stays_positive_and_comes_back(step: float):
    criterion = losses.NTXentLoss(0.1, learn_temperature=True)
    rows = torch.randn(NUMBER, SIZE)
    with torch.no_grad():
        criterion.temperature.log_temperature += step
    assert 0 < criterion.temperature() < math.inf
    loss = criterion(rows, rows + 0.1 * torch.randn(NUMBER, SIZE))
    assert loss.isfinite()
    if step > 0:
        loss.backward()
        assert criterion.temperature.log_temperature.grad != 0


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", ["nt_xent", "info_nce", "sup_con", "clip"])
def test_a_temperature_learns_alone_as_beside_embeddings(name: str, reduction: str):
    x, y = torch.randn(NUMBER, SIZE), torch.randn(NUMBER, SIZE)
    found = []
    for learns in (False, True):
        rows = x.clone().requires_grad_(learns)
        temperature = torch.tensor(0.3, requires_grad=True)
        given = (rows, LABELS) if name == "sup_con" else (rows, y)
        loss = getattr(losses, f"{name}_loss")(*given, temperature=temperature, reduction=reduction)
        loss.sum().backward()
        found.append(temperature.grad)
    torch.testing.assert_close(*found)


def test_clips_scale_is_cut_and_comes_back():
    criterion = losses.CLIPLoss(0.07, max_scale=100.0)
    pair = torch.randn(NUMBER, SIZE), torch.randn(NUMBER, SIZE)
    with torch.no_grad():
        criterion.logit_scale.fill_(9.0)
    loss = criterion(*pair)
    assert loss == losses.clip_loss(*pair, temperature=0.01)
    loss.backward()
    assert criterion.logit_scale.grad > 0  # too sure of random pairs
    assert losses.CLIPLoss(learn_temperature=False).state_dict().keys() == {"logit_scale"}
    assert not list(losses.CLIPLoss(learn_temperature=False).parameters())


def test_heads_are_built_as_people_know_them():
    head = losses.ArcFaceLoss(num_classes=5, embedding_size=3, margin=0.3, scale=16.0)
    assert head.weight.shape == (5, 3)
    assert losses.CosFaceLoss(5, 3, sub_centers=2).weight.shape == (10, 3)
    assert losses.NormFaceLoss(5, 3, dtype=torch.float64).weight.dtype == torch.float64


def test_sampled_classes_in_training_only():
    head = losses.NormFaceLoss(50, SIZE, num_sampled=6)
    rows = torch.randn(NUMBER, SIZE)
    head(rows, LABELS).backward()
    trained = head.weight.grad.any(1)
    assert trained[:CLASSES].all()
    assert trained.sum() == 6
    head.zero_grad()
    head.eval()(rows, LABELS).backward()
    assert head.weight.grad.any(1).all()


def test_negatives_never_collide_and_are_even():
    generator = torch.Generator().manual_seed(0)
    drawn = losses.sample_negatives(10, 2000, generator=generator)
    assert drawn.shape == (10, 2000)
    assert not (drawn == torch.arange(10).unsqueeze(1)).any()
    counts = torch.stack([row.bincount(minlength=10) for row in drawn]).float()
    expected = 2000 / 9
    chi_square = ((counts - expected).square() / expected).sum() - 10 * expected  # the empty diagonal
    assert chi_square < 160  # 80 degrees of freedom
    again = losses.sample_negatives(10, 2000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)
    assert losses.sample_negatives(3, 4, torch.tensor([2])).shape == (1, 4)
    module = losses.InfoNCELoss(num_negatives=3)
    assert module(torch.eye(5), torch.eye(5)) == pytest.approx(math.log(1 + 3 * math.exp(-10)), abs=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: losses.NTXentLoss(0.0), ValueError, "temperature must be a number between"),
        (lambda: losses.CLIPLoss(0.001), ValueError, "at least 1/max_scale = 0.01"),
        (lambda: losses.SigLIPLoss(-1.0), ValueError, "temperature must be a positive number"),
        (lambda: losses.NormFaceLoss(0, 3), ValueError, "num_classes must be at least 1"),
        (lambda: losses.NormFaceLoss(5, 3, scale=-1.0), ValueError, "scale must be positive, got -1"),
        (lambda: losses.NormFaceLoss(5, 3, num_sampled=6), ValueError, "at most num_classes = 5, got 6"),
        (lambda: losses.NormFaceLoss(5, 3, dtype=torch.int64), TypeError, "dtype must be float16"),
        (lambda: losses.InfoNCELoss(num_negatives=0), ValueError, "num_negatives must be at least 1"),
        (lambda: losses.sample_negatives(1, 3), ValueError, "num_keys must be at least 2"),
        (lambda: losses.sample_negatives(4, 3, torch.tensor([4])), ValueError, r"in \[0, 4\)"),
        (
            lambda: losses.nt_xent_loss(torch.ones(3, 2), torch.ones(4, 2)),
            ValueError,
            r"one shape \(N, D\), got \(3, 2\) and \(4, 2\)",
        ),
        (
            lambda: losses.cosine_embedding_loss(torch.ones(2, 3), torch.ones(2, 3), torch.tensor([1, 0])),
            ValueError,
            "1 or -1, got 0; 2 \\* labels - 1",
        ),
        (
            lambda: losses.cosine_embedding_loss(torch.ones(2, 3), torch.ones(2, 3)),
            ValueError,
            "either labels, of 1 and -1, or target",
        ),
        (
            lambda: losses.info_nce_loss(torch.ones(2, 3), torch.ones(2, 3), torch.tensor([[2], [0]])),
            ValueError,
            r"rows of keys, in \[0, 2\)",
        ),
        (
            lambda: losses.center_loss(torch.ones(2, 3), torch.tensor([0, 5]), torch.ones(4, 3)),
            ValueError,
            r"labels must be in \[0, 4\), got 0 to 5",
        ),
        (
            lambda: losses.center_loss(torch.ones(2, 3), torch.tensor([0, 1]), torch.ones(4, 2)),
            ValueError,
            r"shapes \(N, D\) and \(C, D\)",
        ),
        (
            lambda: losses.NTXentLoss(group=object())(torch.ones(2, 3), torch.ones(2, 3)),
            RuntimeError,
            "init_process_group",
        ),
    ],
)
def test_errors(call, error, message: str):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("move", ["as it is", "double", "to", "deepcopy", "double, deepcopy"])
def test_the_buffers_of_a_head_are_followed_wherever_it_was_moved(move: str):
    margin, scale = torch.tensor(0.1), torch.tensor(8.0)
    head = losses.ArcFaceLoss(5, 4, margin=margin, scale=scale)
    assert head.scale is scale
    assert head.margin.number0 is margin
    for one in move.split(", "):
        head = {
            "as it is": lambda head: head,
            "double": lambda head: head.double(),
            "to": lambda head: head.to(torch.float64),
            "deepcopy": copy.deepcopy,
        }[one](head)
    x, labels = torch.randn(3, 4, dtype=head.weight.dtype), torch.tensor([0, 4, 2])
    for m, s in ((0.1, 8.0), (0.3, 32.0), (0.0, 2.0)):
        head.margin.number0.fill_(m)
        head.scale.fill_(s)
        fixed = losses.ArcFaceLoss(5, 4, margin=m, scale=s, dtype=head.weight.dtype)
        fixed.load_state_dict(head.state_dict())
        torch.testing.assert_close(head(x, labels), fixed(x, labels))
        torch.testing.assert_close(head.logits(x), fixed.logits(x))
