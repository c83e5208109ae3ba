"""A model with cosine layers computes the formula of its own weights, and is else the model that it was."""

import copy
import logging
import math
import pickle

import pytest
import reference
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from cosnorm.convert import fold, to_cosine, to_plain
from cosnorm.nn import CosineConv1d, CosineConv2d, CosineConv3d, CosineLinear


class Block(nn.Module):
    """A residual block, as torchvision writes it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(hidden)))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Sequential(Block(4), Block(4))
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))


class Attention(nn.Module):
    """The half of a transformer's block that a layer norm stands before."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.up, self.down, self.head = norm, nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.down(torch.tanh(self.up(self.norm(x)))))


def kinds(model: nn.Module) -> dict[str, str]:
    return {name: type(layer).__name__ for name, layer in model.named_modules() if hasattr(layer, "weight")}


def test_what_is_replaced_by_default():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 8), nn.Linear(1, 8), nn.Linear(8, 2)
    )
    assert list(kinds(to_cosine(model)).values()) == ["CosineConv2d", "CosineLinear", "Linear", "Linear"]
    assert set(kinds(model).values()) == {"Conv2d", "Linear"}
    # A cosine of one number is a sign, and a centered one of two.
    sizes = nn.Conv1d(1, 4, 1), nn.Conv1d(4, 4, 1, groups=4), nn.Conv1d(1, 4, 2), nn.Conv3d(3, 2, 1)
    narrow = nn.Sequential(*sizes, nn.Linear(2, 4), nn.Linear(4, 2))
    assert list(kinds(to_cosine(narrow)).values())[:5] == [
        "Conv1d",
        "Conv1d",
        "Conv1d",
        "CosineConv3d",
        "Linear",
    ]
    found = kinds(to_cosine(narrow, centered=False))
    assert list(found.values())[:5] == ["Conv1d", "Conv1d", "CosineConv1d", "CosineConv3d", "CosineLinear"]


class SelfAttention(nn.Module):
    """Somebody's own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 18), nn.Conv1d(6, 6, 3, padding=1))


def test_attention_and_patches_stay_by_default_and_the_log_says_why(caplog):
    model = nn.Sequential(
        nn.Conv2d(3, 6, 4, stride=4),
        nn.Conv2d(6, 6, 3, stride=2),
        nn.Conv2d(6, 6, 1),
        SelfAttention(),
        nn.Linear(6, 6),
        nn.Linear(6, 2),
    )
    with caplog.at_level(logging.INFO, "cosnorm.convert"):
        found = kinds(to_cosine(model))
    assert {name for name, kind in found.items() if "Cosine" in kind} == {"1", "2", "4"}
    assert "0: left out (it cuts its input into patches" in caplog.text
    for name in ("3.inner.0", "3.inner.1"):
        assert f"{name}: left out (of SelfAttention, which wants lengths; a filter_fn" in caplog.text
    assert "5: left out (the last linear layer" in caplog.text
    every = kinds(to_cosine(model, filter_fn=lambda layer, name: True))
    assert all("Cosine" in kind for kind in every.values())
    # Whoever converts attention itself, or one such layer, means it.
    assert kinds(to_cosine(SelfAttention()))["inner.1"] == "CosineConv1d"
    assert type(to_cosine(nn.Conv2d(3, 6, 4, stride=4))) is CosineConv2d


@pytest.mark.parametrize(
    ("plain", "cosine"),
    [
        (nn.Linear(3, 2), CosineLinear),
        (nn.Conv1d(3, 2, 2), CosineConv1d),
        (nn.Conv2d(3, 2, 2), CosineConv2d),
        (nn.Conv3d(3, 2, 2), CosineConv3d),
    ],
)
def test_a_model_that_is_one_layer(plain: nn.Module, cosine: type):
    assert type(to_cosine(plain)) is cosine
    assert to_cosine(plain, inplace=True) is plain
    assert type(plain) is cosine


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("scale", [None, 3.0, "unit", "learned"])
def test_values(centered: bool, scale):
    layer = nn.Linear(6, 5, dtype=torch.float64)
    conv = nn.Conv2d(4, 6, 3, padding=1, groups=2, dtype=torch.float64)
    x, images = torch.randn(7, 6, dtype=torch.float64), torch.randn(2, 4, 5, 5, dtype=torch.float64)
    options = {"centered": centered, "scale": scale}

    def factor(fan_in: int) -> float:
        return {None: 1.0, "unit": math.sqrt(fan_in), "learned": 10.0}.get(scale, scale)

    expected = factor(6) * reference.linear(x, layer.weight, centered=centered) + layer.bias
    torch.testing.assert_close(to_cosine(layer, **options)(x), expected)
    expected = factor(18) * reference.conv(images, conv.weight, centered=centered, padding=1, groups=2)
    expected = expected + conv.bias.reshape(-1, 1, 1)
    torch.testing.assert_close(to_cosine(conv, **options)(images), expected)


def test_the_layer_stays_the_object_that_it_was():
    shared = nn.Linear(4, 4, dtype=torch.float64)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, nn.Linear(4, 4)), "head": nn.Linear(4, 2)})
    model["b"][1].weight = model["head"].weight = nn.Parameter(torch.randn(4, 4))
    shared.weight.requires_grad_(False)
    shared.eval()
    calls = []
    shared.register_forward_hook(lambda *_: calls.append("behind"))
    shared.register_forward_pre_hook(lambda *_: calls.append("in front"))
    names, parameters = [n for n, _ in model.named_parameters()], list(model.parameters())
    found = to_cosine(model, inplace=True)
    assert found is model
    assert found["a"] is found["b"][0] is shared
    assert type(shared) is CosineLinear
    assert [n for n, _ in model.named_parameters()] == names
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    assert not shared.weight.requires_grad
    assert shared.bias.requires_grad
    assert not shared.training
    assert model.training
    shared(torch.randn(2, 4, dtype=torch.float64))
    assert calls == ["in front", "behind"]
    learned = to_cosine(nn.Linear(4, 2, dtype=torch.float64).requires_grad_(False), scale="learned")
    assert not learned.scale.log_scale.requires_grad
    assert learned.scale.log_scale.dtype == torch.float64


def test_a_copy_shares_nothing_and_travels():
    model = ResNet()
    found = to_cosine(model)
    assert not {id(p) for p in model.parameters()} & {id(p) for p in found.parameters()}
    x = torch.randn(2, 3, 6, 6)
    for twin in (
        copy.deepcopy(found),
        pickle.loads(pickle.dumps(found)),
        torch.compile(found, backend="aot_eager"),
    ):
        torch.testing.assert_close(twin(x), found(x), rtol=1e-4, atol=1e-5)
    found.load_state_dict(model.state_dict())
    meta = to_cosine(ResNet().to("meta"), scale="learned")
    meta.load_state_dict(model.state_dict(), assign=True)
    assert meta.stem[0].scale.log_scale.item() == pytest.approx(math.log(10))
    assert meta.eval()(x).isfinite().all()


def test_the_way_back():
    model = nn.Sequential(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0), nn.Linear(8, 3)
    ).eval()
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        expected = model(x)
        back = to_plain(to_cosine(model))
        assert torch.equal(back(x), expected)
    assert repr(back) == repr(model)
    assert back.state_dict().keys() == model.state_dict().keys()
    assert vars(back[0]).keys() == vars(model[0]).keys()
    assert vars(back[0].linear1).keys() == vars(model[0].linear1).keys()
    layer = CosineLinear(3, 2, scale="learned", precision="fp8")
    assert to_plain(layer, inplace=True) is layer
    assert type(layer) is nn.Linear
    with pytest.raises(TypeError, match=r"to_plain: module must be a torch\.nn\.Module, got list"):
        to_plain([])


@pytest.mark.parametrize("mask", [False, True])
def test_torchs_transformer_calls_the_layers_in_inference(mask: bool, caplog):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    model = to_cosine(nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(8, 3)))[0]
    x = torch.randn(2, 5, 8)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2]) if mask else None
    expected = model.train()(x, src_key_padding_mask=padding)
    with torch.no_grad():
        found = model.eval()(x, src_key_padding_mask=padding)
    keep = ~padding if mask else torch.ones(2, 5, dtype=torch.bool)
    torch.testing.assert_close(found[keep], expected[keep], rtol=1e-4, atol=1e-5)
    assert type(model.layers[0].linear1) is CosineLinear
    assert type(model.layers[0].self_attn.out_proj) is not CosineLinear


def _quantized() -> nn.Module:
    from torch.ao.nn.quantized import dynamic

    return dynamic.Linear(3, 2)


def _pruned() -> nn.Module:
    layer = nn.Linear(3, 2)
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: parametrizations.weight_norm(nn.Linear(3, 2)), "is parametrized"),
        (lambda: parametrizations.orthogonal(nn.Linear(3, 2)), "is parametrized"),
        (lambda: weight_norm(nn.Linear(3, 2)), "computes its weight or bias from others"),
        (lambda: spectral_norm(nn.Conv2d(3, 2, 1)), "computes its weight or bias from others"),
        (_pruned, "computes its weight or bias from others"),
        (lambda: nn.LazyLinear(3), "has no weight yet"),
        (lambda: nn.Linear(3, 2, dtype=torch.complex64), "complex"),
        (_quantized, "quantized or fused"),
        (lambda: torch.ao.nn.intrinsic.ConvReLU2d(nn.Conv2d(3, 2, 1), nn.ReLU()), "quantized or fused"),
    ],
)
def test_what_is_refused_by_name(make, message: str):
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(make()), nn.Linear(2, 2))
    with pytest.raises(TypeError, match=rf"1\.0.*{message}.*filter_fn"):
        to_cosine(model)
    assert type(model[0]) is nn.Linear
    to_cosine(model, filter_fn=lambda layer, name: name == "0", inplace=True)
    assert type(model[0]) is CosineLinear


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module, got str"):
        to_cosine("model")
    for options, message in (
        ({"centered": 1}, "centered must be True or False"),
        ({"scale": "big"}, 'scale must be None, a number, "unit" or "learned"'),
        ({"augment": -1.0}, "augment must be finite and not negative"),
    ):
        model = nn.Linear(3, 2)
        with pytest.raises((TypeError, ValueError), match=f"to_cosine: {message}"):
            to_cosine(model, inplace=True, **options)
        assert type(model) is nn.Linear


def test_a_subclass_stays_and_the_log_says_why(caplog):
    class Own(nn.Linear):
        pass

    model = nn.Sequential(Own(3, 3), CosineLinear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    with caplog.at_level(logging.INFO, "cosnorm.convert"):
        found = to_cosine(model)
    assert list(kinds(found).values()) == ["Own", "CosineLinear", "CosineLinear", "Linear"]
    assert "0: stays: Own is a class of its own" in caplog.text
    assert "2: CosineLinear" in caplog.text
    assert "3: left out" in caplog.text


def test_batch_norms_of_a_residual_network(caplog):
    model = ResNet()
    with torch.no_grad():
        model.body[0].bn1.bias.fill_(0.5)
    with caplog.at_level(logging.INFO, "cosnorm.convert"):
        found = to_cosine(model, remove_norm=True)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in found.modules())
    assert found.body[0].conv1.bias.tolist() == [0.5] * 4
    assert found.body[1].conv2.bias.tolist() == [0.0] * 4
    assert "body.0.bn1: needless, removed" in caplog.text
    assert type(found.body[0].bn1) is nn.Identity
    x = torch.randn(3, 3, 6, 6)
    torch.testing.assert_close(found.train()(x), found.eval()(x))
    found(x).sum().backward()
    assert all(one.grad is not None for one in found.parameters())


def test_a_batch_norm_stays_where_it_has_other_work():
    conv = nn.Conv2d(3, 4, 3)
    model = nn.Sequential(
        conv, nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8)
    )
    found = to_cosine(model, remove_norm=True, filter_fn=lambda layer, name: name == "0")
    assert sum(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in found) == 2
    twice = nn.Sequential(nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4))
    twice.append(twice[0])
    assert type(to_cosine(twice, remove_norm=True)[1]) is nn.BatchNorm1d


@pytest.mark.parametrize(
    ("norm", "centered"),
    [
        (nn.LayerNorm(8, elementwise_affine=False, eps=0.0), True),
        (nn.LayerNorm(8, eps=0.0), True),
        (nn.RMSNorm(8, eps=0.0), True),
        (nn.RMSNorm(8, eps=0.0), False),
    ],
)
def test_a_layer_norm_before_cosines_changes_nothing(norm: nn.Module, centered: bool):
    model = Attention(norm).double()
    found = to_cosine(model, centered=centered, remove_norm=True)
    assert type(found.norm) is nn.Identity
    x = torch.randn(5, 8, dtype=torch.float64) * torch.logspace(-2, 2, 5, dtype=torch.float64)[:, None] + 3
    torch.testing.assert_close(found(x), to_cosine(model, centered=centered)(x), rtol=1e-12, atol=1e-12)


def test_a_layer_norm_stays_where_it_counts(caplog):
    learned = Attention(nn.LayerNorm(8))
    with torch.no_grad():
        learned.norm.bias[0] = 1
    with caplog.at_level(logging.INFO, "cosnorm.convert"):
        assert type(to_cosine(learned, remove_norm=True).norm) is nn.LayerNorm
        assert "norm: stays: its learned factors differ from 1 and 0" in caplog.text
        assert (
            type(to_cosine(Attention(nn.LayerNorm(8)), centered=False, remove_norm=True).norm) is nn.LayerNorm
        )
        assert "cosines that are not centered feel the shift" in caplog.text
        wide = nn.Sequential(nn.LayerNorm((5, 8)), nn.Linear(8, 4), nn.Linear(4, 2))
        assert type(to_cosine(wide, remove_norm=True)[0]) is nn.LayerNorm
        assert "other dimensions than those of a row" in caplog.text

    class Both(Attention):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.norm(x).sum()

    class Tap(Attention):
        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(x)
            return self.head(x + self.down(self.up(x)))

    for model in (Both(nn.LayerNorm(8)), Tap(nn.LayerNorm(8))):
        assert type(to_cosine(model, remove_norm=True).norm) is nn.LayerNorm


def test_a_model_that_cannot_be_traced(caplog):
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.stem(x) if x.sum() > 0 else x

    with caplog.at_level(logging.INFO, "cosnorm.convert"):
        found = to_cosine(Branching(), remove_norm=True)
    assert "all norms stay: torch.fx cannot trace the model" in caplog.text
    assert type(found.stem[1]) is nn.BatchNorm2d
    assert type(to_cosine(found.stem, remove_norm=True)[1]) is nn.Identity


class OnTheOtherWay(Attention):
    """On one way through it somebody else takes the norm's result, too."""

    def __init__(self, norm: nn.Module, way: str) -> None:
        super().__init__(norm)
        self.way = way

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        hidden = self.norm(x)
        y = self.head(self.down(torch.tanh(self.up(hidden))))
        ways = {"left out": context is None, "given": context is not None}
        ways |= {"training": self.training, "evaluation": not self.training}
        return (y, hidden) if ways[self.way] else y


@pytest.mark.parametrize("way", ["left out", "given", "training", "evaluation"])
@pytest.mark.parametrize("training", [False, True])
def test_a_norm_that_counts_on_another_way_stays(way: str, training: bool):
    model = OnTheOtherWay(nn.LayerNorm(8), way).train(training)
    assert type(to_cosine(model, remove_norm=True).norm) is nn.LayerNorm


def test_classes_of_other_people_stay():
    class Activated(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    class Parallel(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return sum(layer(x) for layer in self)

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Activated(4))
    assert type(to_cosine(model, remove_norm=True)[1]) is Activated
    parallel = nn.Sequential(Parallel(nn.LayerNorm(8), nn.Linear(8, 8)), nn.Linear(8, 2))
    assert type(to_cosine(parallel, remove_norm=True)[0][0]) is nn.LayerNorm


def test_tracing_leaves_nothing_behind():
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps, self.seen, self.layers = 0, [], nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 4))

        def forward(self, x: Tensor) -> Tensor:
            self.steps += 1
            self.seen.append(x)
            return self.layers(x)

    model = to_cosine(nn.Sequential(Counting(), nn.Linear(4, 2)), remove_norm=True)
    assert type(model[0].layers[0]) is nn.Identity
    assert (model[0].steps, model[0].seen) == (0, [])


def test_what_else_keeps_a_norm(caplog):
    hooked, before = Attention(nn.LayerNorm(8)), Attention(nn.LayerNorm(8))
    hooked.norm.register_forward_hook(lambda layer, given, output: output.tanh())
    before.up.register_forward_pre_hook(lambda layer, given: (given[0].tanh(),))
    with torch.device("meta"):
        unknown = Attention(nn.LayerNorm(8))
    with caplog.at_level(logging.INFO, "cosnorm.convert"):
        for model, options, reason in (
            (Attention(nn.LayerNorm(8)), {"augment": 0.1}, "with augment a cosine feels the scale"),
            (hooked, {}, "there are hooks"),
            (before, {}, "there are hooks"),
            (unknown, {}, "meta device"),
        ):
            caplog.clear()
            assert type(to_cosine(model, remove_norm=True, **options).norm) is nn.LayerNorm
            assert reason in caplog.text

    class Reading(Attention):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.norm.weight.sum()

    assert type(to_cosine(Reading(nn.LayerNorm(8)), remove_norm=True).norm) is nn.LayerNorm
    model = ResNet()
    nn.init.zeros_(model.body[0].bn2.weight)
    assert type(to_cosine(model, remove_norm=True).body[0].bn2) is nn.BatchNorm2d
    for options in ({"scale": "learned"}, {"centered": False}, {"augment": 0.1}):
        assert type(to_cosine(model, remove_norm=True, **options).body[0].bn1) is nn.BatchNorm2d

    class Deciding(Attention):
        def forward(self, x: Tensor) -> Tensor:
            hidden = self.norm(x)
            return self.head(self.up(hidden)[..., :8]) if self.training or x.sum() > 0 else self.head(hidden)

    assert type(to_cosine(Deciding(nn.LayerNorm(8)), remove_norm=True).norm) is nn.LayerNorm


def test_an_optimizer_that_was_there_before_goes_on():
    model = ResNet()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    to_cosine(model, remove_norm=True, inplace=True)
    known = {id(one) for group in optimizer.param_groups for one in group["params"]}
    assert {id(one) for one in model.parameters()} <= known
    without = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False))
    assert to_cosine(without, remove_norm=True, filter_fn=lambda layer, name: True)[0].bias is None


def test_cosine_layers_that_were_there_before_count():
    model = nn.Sequential(nn.LayerNorm(8), CosineLinear(8, 8, centered=True), nn.Linear(8, 2))
    assert type(to_cosine(model, remove_norm=True)[0]) is nn.Identity
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    encoder.linear1 = CosineLinear(8, 16, bias=True)
    x = torch.randn(2, 5, 8)
    found = to_cosine(encoder)
    with torch.no_grad():
        torch.testing.assert_close(found.eval()(x), found.train()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("quantizable", [False, True])
def test_the_way_back_leaves_folded_layers_and_what_they_need(quantizable: bool):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    model = to_cosine(nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(8, 2)))
    folded = fold(model, quantizable=quantizable)
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        assert torch.equal(to_plain(folded)(x), folded(x))


def test_all_that_is_refused_is_named():
    wrapped = nn.Linear(3, 3)
    wrapped.forward = lambda x, forward=wrapped.forward: forward(x)
    half = prune.l1_unstructured(nn.Linear(3, 3), "bias", 1)
    model = nn.Sequential(wrapped, half, nn.Linear(3, 3), nn.Linear(3, 2))
    message = r"0 \(Linear\) has a forward of its own.*1 \(Linear\) computes its weight or bias from others"
    with pytest.raises(TypeError, match=message):
        to_cosine(model, inplace=True)
    assert type(model[2]) is nn.Linear
    head = nn.Sequential(nn.Linear(3, 3), parametrizations.weight_norm(nn.Linear(3, 2)))
    assert type(to_cosine(head)[0]) is CosineLinear  # the last one is left out, whatever it is
    with pytest.raises(TypeError, match="before it is scripted"):
        to_cosine(torch.jit.script(nn.Linear(3, 2)))
    for options, wrong in (({"filter_fn": "x"}, "filter_fn"), ({"remove_norm": "no"}, "remove_norm must be")):
        with pytest.raises(TypeError, match=wrong):
            to_cosine(nn.Linear(3, 2), **options)


class Branches(nn.Module):
    """What torch.fx cannot trace."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.layer(x)) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU()), "none stands beside a cosine layer"),
        (nn.Sequential(Branches(), nn.Linear(4, 2)), "torch.fx cannot trace the model"),
    ],
)
def test_when_no_norm_goes_a_warning_says_why(model: nn.Module, why: str, caplog):
    with caplog.at_level(logging.WARNING, "cosnorm.convert"):
        to_cosine(model, remove_norm=True)
        assert "remove_norm=True removed no norm" in caplog.text
        assert why in caplog.text
        caplog.clear()
        to_cosine(model)
        to_cosine(
            nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 2)),
            remove_norm=True,
        )
        assert not caplog.text
