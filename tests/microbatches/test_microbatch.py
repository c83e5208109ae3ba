"""`microbatch` beside the graph of the whole batch, and what its encoders may be, take and remember."""

import functools
import random
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree
from torch.utils.checkpoint import checkpoint

import cosnorm
from cosnorm import losses, microbatch
from cosnorm.microbatches.wrapped import modules_of

ROWS, SIZE, WIDTH = 13, 6, 5


def encoder(seed: int = 0, dropout: float = 0.3) -> nn.Module:
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Linear(SIZE, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, WIDTH), nn.Dropout(dropout)
    )
    return network.double()


def rows(seed: int = 1, number: int = ROWS) -> Tensor:
    return torch.randn(number, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_parts(network: Callable[..., Tensor], batch: Tensor, size: int) -> Tensor:
    """The graph of the whole batch, built of the same parts."""
    return torch.cat([network(part) for part in batch.split(size)])


def gradients(*modules: nn.Module) -> list[Tensor]:
    found = [parameter.grad for module in modules for parameter in module.parameters()]
    for module in modules:
        module.zero_grad()
    return found


def equal(found: list[Tensor], expected: list[Tensor]) -> bool:
    assert len(found) == len(expected)
    return all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def close(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Within the rounding of sums in another order."""
    pairs = list(zip(found, expected, strict=True))
    return all((one - other).abs().max() <= 1e-14 * other.abs().max().clamp(min=1) for one, other in pairs)


def step(networks: list[nn.Module], batches: list[Tensor], loss: Callable[..., Tensor], size: int) -> Tensor:
    """What `microbatch` stands for, with the memory of the whole batch."""
    embeddings = [by_parts(*one, size) for one in zip(networks, batches, strict=True)]
    value = loss(*embeddings)
    value.backward()
    return value.detach()


def head() -> nn.Module:
    torch.manual_seed(3)
    return losses.ArcFaceLoss(4, WIDTH, scale=8.0, dtype=torch.float64)


LABELS = torch.arange(ROWS) % 4
# Each with the number of encoders' results that it takes.
LOSSES: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "nt-xent": (2, lambda: losses.NTXentLoss(temperature=0.3)),
    "info-nce, learned temperature": (2, lambda: losses.InfoNCELoss(learn_temperature=True).double()),
    "clip": (2, lambda: losses.CLIPLoss().double()),
    "siglip": (2, lambda: losses.SigLIPLoss().double()),
    "drawn negatives": (2, lambda: losses.InfoNCELoss(num_negatives=3)),
    "sup-con": (1, lambda: Labelled(losses.SupConLoss())),
    "arc-face": (1, lambda: Labelled(head())),
    "center": (1, lambda: Labelled(losses.CenterLoss(4, WIDTH).double())),
}


class Labelled(nn.Module):
    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.loss(embeddings, LABELS)


@pytest.mark.parametrize("size", [1, 4, 5, ROWS, 100])
@pytest.mark.parametrize("name", LOSSES)
def test_bit_for_bit_the_graph_of_the_whole_batch(name: str, size: int):
    number, make = LOSSES[name]
    loss = make()
    networks = [encoder(seed) for seed in range(number)]
    batches = [rows(seed) for seed in range(number)]
    torch.manual_seed(5)
    expected = step(networks, batches, loss, size)
    after, wanted = torch.get_rng_state(), gradients(*networks, loss)
    torch.manual_seed(5)
    value = microbatch(networks, batches, loss, size=size, check=True)
    assert torch.equal(value, expected)
    assert not value.requires_grad
    assert torch.equal(torch.get_rng_state(), after)
    assert equal(gradients(*networks, loss), wanted)


@pytest.mark.parametrize("size", [1, 4, 5, ROWS, 100])
def test_one_encoder_for_two_views(size: int):
    network, views = encoder(), [rows(1), rows(2)]
    torch.manual_seed(5)
    expected = step([network] * 2, views, losses.nt_xent_loss, size)
    wanted = gradients(network)
    torch.manual_seed(5)
    assert torch.equal(microbatch(network, views, losses.nt_xent_loss, size=size), expected)
    assert equal(gradients(network), wanted)


@pytest.mark.parametrize("size", [1, 4, 100])
def test_the_gradient_of_the_encoder_on_the_whole_batch(size: int):
    network, views = encoder(dropout=0), [rows(1), rows(2)]
    expected = losses.nt_xent_loss(*map(network, views))
    expected.backward()
    wanted = gradients(network)
    torch.testing.assert_close(microbatch(network, views, losses.nt_xent_loss, size=size), expected.detach())
    assert close(gradients(network), wanted)


def test_gradients_add_up():
    network, views = encoder(dropout=0), [rows(1), rows(2)]
    microbatch(network, views, losses.nt_xent_loss, size=4)
    once = [parameter.grad.clone() for parameter in network.parameters()]
    microbatch(network, views, losses.nt_xent_loss, size=4)
    for one, other in zip(gradients(network), once, strict=True):
        torch.testing.assert_close(one, 2 * other)


def test_batches_of_different_lengths_and_a_single_tensor():
    queries, documents = encoder(0), encoder(1)
    batches = [rows(1, 7), rows(2, 20)]

    def loss(one: Tensor, other: Tensor) -> Tensor:
        return losses.info_nce_loss(one, other[:7], extra_keys=other[7:])

    torch.manual_seed(5)
    expected = step([queries, documents], batches, loss, 4)
    wanted = gradients(queries, documents)
    torch.manual_seed(5)
    found = microbatch(nn.ModuleList([queries, documents]), tuple(batches), loss, size=4)
    assert torch.equal(found, expected)
    assert equal(gradients(queries, documents), wanted)

    torch.manual_seed(5)
    step([queries], [batches[0]], Tensor.sum, 3)
    wanted = gradients(queries)
    torch.manual_seed(5)
    microbatch(queries, batches[0], Tensor.sum, size=3)
    assert equal(gradients(queries), wanted)


# ---- what encoders get and give

Pair = namedtuple("Pair", ["one", "other"])


@dataclass
class Output(OrderedDict):
    """As transformers' models return it: a dictionary with attributes, known to pytree."""

    last_hidden_state: Tensor
    pooler_output: Tensor
    attentions: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("last_hidden_state", "pooler_output"):
            self[name] = getattr(self, name)


_pytree.register_pytree_node(
    Output,
    lambda output: (list(output.values()), list(output)),
    lambda values, names: Output(**dict(zip(names, values, strict=True))),
)


class Words(nn.Module):
    """Has the signature of a text model."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.last = nn.Embedding(9, SIZE).double(), nn.Linear(SIZE, WIDTH).double()
        self.dropout = nn.Dropout(0.2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, scale: float = 1.0) -> Output:
        hidden = self.dropout(self.last(self.table(input_ids))) * scale
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return Output(hidden, (hidden * weights).sum(1) / weights.sum(1))


def tokens() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(4)
    mask = torch.arange(7) <= torch.randint(0, 7, (ROWS, 1), generator=generator)
    return {"input_ids": torch.randint(0, 9, (ROWS, 7), generator=generator), "attention_mask": mask}


@pytest.mark.parametrize("kind", [dict, UserDict, lambda arguments: {**arguments, "scale": 2.0}])
def test_arguments_by_name_and_outputs_with_attributes(kind: Callable[[dict[str, Any]], Any]):
    model, arguments, image, pixels = Words(), kind(tokens()), encoder(1), rows()

    def loss(texts: Output, images: Tensor) -> Tensor:
        return losses.clip_loss(texts.pooler_output, images)

    torch.manual_seed(5)
    parts = [
        model(
            **{
                name: one[start : start + 4] if isinstance(one, Tensor) else one
                for name, one in arguments.items()
            }
        )
        for start in range(0, ROWS, 4)
    ]
    whole = Output(
        torch.cat([part.last_hidden_state for part in parts]),
        torch.cat([part.pooler_output for part in parts]),
    )
    expected = loss(whole, by_parts(image, pixels, 4))
    expected.backward()
    wanted = gradients(model, image)
    torch.manual_seed(5)
    assert torch.equal(microbatch([model, image], [arguments, pixels], loss, size=4), expected.detach())
    assert equal(gradients(model, image), wanted)


def both(network: nn.Module, one: Tensor, other: Tensor, nested: dict[str, Any]) -> Any:
    return {"embeddings": Pair(network(one), network(other + nested["more"][0])), "labels": nested["labels"]}


@pytest.mark.parametrize("call", ["partial", "lambda", "method"])
def test_nested_arguments_and_results_of_functions(call: str):
    network = encoder()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def both(self, *arguments: Any) -> Any:
            return both(self.network, *arguments)

    encode = {
        "partial": functools.partial(both, network),
        "lambda": lambda *arguments: both(network, *arguments),
        "method": Model().both,
    }[call]
    batch = (rows(1), rows(2), {"more": [rows(3), None, "as it is"], "labels": LABELS})

    def loss(made: dict[str, Any]) -> Tensor:
        assert type(made["embeddings"]) is Pair
        assert torch.equal(made["labels"], LABELS)
        return losses.sup_con_loss(torch.stack(made["embeddings"], 1), made["labels"])

    torch.manual_seed(5)
    parts = [
        encode(rows(1)[part], rows(2)[part], {"more": [rows(3)[part]], "labels": LABELS[part]})
        for part in (slice(start, start + 4) for start in range(0, ROWS, 4))
    ]
    pair = Pair(*(torch.cat(ones) for ones in zip(*(part["embeddings"] for part in parts), strict=True)))
    expected = loss({"embeddings": pair, "labels": LABELS})
    expected.backward()
    wanted = gradients(network)
    torch.manual_seed(5)
    assert torch.equal(microbatch(encode, [batch], loss, size=4), expected.detach())
    assert close(
        gradients(network), wanted
    )  # used twice in a part, parameters have their sums in another order


def test_inputs_that_need_a_gradient_get_it():
    network, one = encoder(dropout=0), rows().requires_grad_()
    network(one).square().sum().backward()
    expected, one.grad = one.grad, None
    microbatch(network, one, lambda made: made.square().sum(), size=4)
    torch.testing.assert_close(one.grad, expected)


def test_a_frozen_encoder_runs_once():
    calls = []
    image, text = encoder(0), encoder(1)
    image.requires_grad_(False).register_forward_hook(lambda *_: calls.append(1))
    torch.manual_seed(5)
    step([image, text], [rows(1), rows(2)], losses.clip_loss, 4)
    wanted = gradients(text)
    calls.clear()
    torch.manual_seed(5)
    microbatch([image, text], [rows(1), rows(2)], losses.clip_loss, size=4)
    assert len(calls) == 4
    assert equal(gradients(text), wanted)
    assert all(parameter.grad is None for parameter in image.parameters())


def test_a_batch_that_the_loss_does_not_look_at():
    one, other = encoder(0), encoder(1)
    microbatch([one, other], [rows(1), rows(2)], lambda a, b: a.square().sum(), size=4)
    assert all(parameter.grad is None for parameter in other.parameters())
    assert all(parameter.grad is not None for parameter in one.parameters())


# ---- the second pass finds what the first found


class Draws(nn.Module):
    """Draws from every generator that there is, and remembers in buffers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(SIZE, WIDTH).double()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("constant", torch.full((3,), torch.nan))
        self.register_buffer("average", torch.zeros(WIDTH, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        made = self.layer(x) * random.random() * np.random.rand() + self.calls * self.average  # noqa: NPY002
        self.average.lerp_(made.detach().mean(0), 0.1)
        return nn.functional.dropout(made)


@pytest.mark.parametrize("size", [3, 100])
def test_generators_and_buffers(size: int):
    def seed() -> None:
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002

    def state() -> list[Any]:
        return [torch.rand(1), random.random(), np.random.rand()]  # noqa: NPY002

    first, second, views = Draws(), Draws(), [rows(1), rows(2)]
    seed()
    expected, after = step([first] * 2, views, losses.nt_xent_loss, size), state()
    seed()
    assert torch.equal(microbatch(second, views, losses.nt_xent_loss, size=size, check=True), expected)
    assert state() == after
    assert equal(gradients(second), gradients(first))
    for one, other in zip(second.buffers(), first.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


class Generators:
    """Of an accelerator with two devices: numbers that count up."""

    def __init__(self, kind: str) -> None:
        self.kind, self.states = kind, [0, 10]

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 2

    def get_rng_state(self, index: int = 0) -> int:
        return self.states[index]

    def set_rng_state(self, state: int, index: int = 0) -> None:
        self.states[index] = state

    def draw(self) -> float:
        number = len(self.states) if self.kind == "cuda" else 1  # mps has one
        self.states[:number] = [state + 1 for state in self.states[:number]]
        return float(sum(self.states))


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_generators_of_an_accelerator(kind: str, monkeypatch: pytest.MonkeyPatch):
    generators, layer = Generators(kind), encoder()[0]
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    monkeypatch.setattr(torch, "get_device_module", lambda device: generators)
    drawn = []

    def encode(x: Tensor) -> Tensor:
        drawn.append(generators.draw())
        return layer(x) * drawn[-1]

    microbatch(encode, rows(), lambda made: made.square().sum(), size=4, check=True)
    first, second = drawn[:4], drawn[4:]
    assert len(set(first)) == 4
    assert second == first[2::-1]
    assert generators.states == ([4, 14] if kind == "cuda" else [4, 10])


def test_spectral_norm_takes_its_vectors_again():
    first = nn.utils.parametrizations.spectral_norm(encoder()[0])
    second = nn.utils.parametrizations.spectral_norm(encoder()[0])
    second.load_state_dict(first.state_dict())
    step([first], [rows()], lambda made: made.sin().sum(), 4)
    microbatch(second, rows(), lambda made: made.sin().sum(), size=4, check=True)
    assert close(gradients(second), gradients(first))
    assert equal(list(second.buffers()), list(first.buffers()))


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, cosnorm.nn.MeanOnlyBatchNorm1d])
def test_batch_norm_warns_and_updates_its_statistics_once_a_part(norm: type[nn.Module]):
    def network() -> nn.Module:
        return nn.Sequential(encoder(), norm(WIDTH).double())

    first, second = network(), network()
    torch.manual_seed(5)
    step([first], [rows()], lambda made: made.sin().sum(), 5)
    torch.manual_seed(5)
    with pytest.warns(
        UserWarning, match=r"statistics of the part, .* not that of the whole batch; call eval"
    ):
        microbatch(second, rows(), lambda made: made.sin().sum(), size=5)
    assert equal(gradients(second), gradients(first))
    assert equal(list(second.buffers()), list(first.buffers()))
    microbatch(second, rows(), lambda made: made.sin().sum(), size=ROWS)  # no part, no warning
    microbatch(second.eval(), rows(), lambda made: made.sin().sum(), size=5)


class Plain:
    """No module, but it has some."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.towers = network, {"one": [network]}

    def encode(self, x: Tensor) -> Tensor:
        return self.network(x)

    __call__ = encode


class Slotted:
    __slots__ = ("parts",)

    def __init__(self, network: nn.Module) -> None:
        self.parts = [Plain(network)]

    def encode(self, x: Tensor) -> Tensor:
        return self.parts[0].encode(x)


def closure(network: nn.Module) -> Any:
    towers = {"one": [network]}

    def inner(x: Tensor) -> Tensor:
        return towers["one"][0](x)

    return lambda x: inner(x)


HOLDERS = {
    "method": lambda network: Plain(network).encode,
    "object": Plain,
    "slots": lambda network: Slotted(network).encode,
    "partial of a method": lambda network: functools.partial(Plain(network).encode),
    "partial of an object": lambda network: functools.partial(Plain.encode, Plain(network)),
    "closure": closure,
    "closure over an object": lambda network: (lambda plain: lambda x: plain.encode(x))(Plain(network)),
    "default": lambda network: lambda x, network=network: network(x),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_modules_of_plain_objects_remember_once(holder: str):
    def network() -> nn.Module:
        norm = nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)).double()
        return nn.Sequential(encoder(), nn.BatchNorm1d(WIDTH).double(), norm)

    first, second = network(), network()
    second.load_state_dict(first.state_dict())
    torch.manual_seed(5)
    with pytest.warns(UserWarning, match="statistics of the part"):
        microbatch(first, rows(), lambda made: made.sin().sum(), size=5)
    torch.manual_seed(5)
    with pytest.warns(UserWarning, match="statistics of the part"):
        microbatch(HOLDERS[holder](second), rows(), lambda made: made.sin().sum(), size=5, check=True)
    assert equal(gradients(second), gradients(first))
    assert equal(list(second.buffers()), list(first.buffers()))


def test_what_is_no_module_is_passed_over():
    network, plain = encoder(), Plain(encoder())
    plain.myself, plain.many, plain.kind = plain, [network] * 10**4, Plain
    assert modules_of(plain.encode) == [plain.network]
    assert modules_of(len) == []


def test_state_is_brought_back_after_an_error():
    network = Draws()
    torch.manual_seed(5)
    step([network], [rows()], lambda made: made.sin().sum(), 4)
    after, calls = torch.get_rng_state(), network.calls.clone()
    network = Draws()
    torch.manual_seed(5)
    network.layer.weight.register_hook(lambda gradient: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        microbatch(network, rows(), lambda made: made.sin().sum(), size=4)
    assert torch.equal(torch.get_rng_state(), after)
    assert network.calls == calls


# ---- precision, scaling, checkpointing


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype):
    network, views = encoder().float(), [rows(1).float(), rows(2).float()]
    seen = []
    network[3].register_forward_hook(lambda module, given, made: seen.append(made.dtype))
    torch.manual_seed(5)
    with torch.autocast("cpu", dtype):
        value = losses.nt_xent_loss(*(by_parts(network, view, 4) for view in views))
    value.backward()
    wanted = gradients(network)
    torch.manual_seed(5)
    with torch.autocast("cpu", dtype):
        found = microbatch(network, views, losses.nt_xent_loss, size=4, check=True)
    assert set(seen) == {dtype}
    assert torch.equal(found, value.detach())
    for one, other in zip(gradients(network), wanted, strict=True):
        assert one.dtype == torch.float32
        # The graph of the whole batch adds up gradients of the parts in the half type.
        assert (one - other).abs().max() <= 8 * torch.finfo(dtype).eps * other.abs().max()


def test_weights_that_autocast_casts_without_a_graph_first():
    """Those of the second layer, which the first part does not use."""
    layers, x = nn.ModuleList([nn.Linear(SIZE, WIDTH), nn.Linear(SIZE, WIDTH)]), rows().float()
    x[:, 0] = torch.arange(ROWS) - 3.5

    def encode(part: Tensor) -> Tensor:
        return layers[int(part[0, 0] > 0)](part)

    with torch.autocast("cpu", torch.bfloat16):
        value = by_parts(encode, x, 4).float().sin().sum()
    value.backward()
    wanted = gradients(layers)
    with torch.autocast("cpu", torch.bfloat16):
        microbatch(encode, x, lambda made: made.float().sin().sum(), size=4)
    for one, other in zip(gradients(layers), wanted, strict=True):
        assert (one - other).abs().max() <= 8 * torch.finfo(torch.bfloat16).eps * other.abs().max()


def test_backward_passes_are_not_under_autocast():
    network, seen = encoder().float(), []
    network[3].weight.register_hook(lambda _: seen.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", torch.bfloat16):
        microbatch(network, rows().float(), lambda made: made.float().square().sum(), size=4)
        assert torch.is_autocast_enabled("cpu")
    assert seen == [False] * 4


def test_a_gradient_scaler():
    network, views = encoder(), [rows(1), rows(2)]
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    torch.manual_seed(5)
    step([network] * 2, views, losses.nt_xent_loss, 4)
    wanted = gradients(network)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    torch.manual_seed(5)
    value = microbatch(
        network, views, losses.nt_xent_loss, size=4, backward=lambda value: scaler.scale(value).backward()
    )
    assert torch.equal(network[0].bias.grad, 2**10 * wanted[1])
    scaler.unscale_(optimizer)
    assert equal([parameter.grad for parameter in network.parameters()], wanted)
    scaler.step(optimizer)
    scaler.update()
    assert value.isfinite()


def test_a_gradient_scaler_sees_an_overflow():
    network = encoder()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    microbatch(
        network,
        rows(),
        lambda made: (made * 1e308).sum(),
        size=4,
        backward=lambda value: scaler.scale(value).backward(),
    )
    scaler.step(optimizer)
    scaler.update()
    assert equal([parameter.detach() for parameter in network.parameters()], before)
    assert scaler.get_scale() == 2**9


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # in the first pass
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant: bool):
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = encoder()

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.network[0](x)
            return checkpoint(self.network[1:], hidden, use_reentrant=reentrant)

    network, views = Checkpointed(), [rows(1), rows(2)]
    torch.manual_seed(5)
    expected = step([network] * 2, views, losses.nt_xent_loss, 4)
    wanted = gradients(network)
    torch.manual_seed(5)
    assert torch.equal(microbatch(network, views, losses.nt_xent_loss, size=4), expected)
    assert equal(gradients(network), wanted)


def test_a_compiled_encoder():
    network, views = encoder(), [rows(1), rows(2)]
    graph = torch.compile(network, backend="aot_eager")
    torch.manual_seed(5)
    expected = step([graph] * 2, views, losses.nt_xent_loss, 4)
    wanted = gradients(network)
    torch.manual_seed(5)
    assert torch.equal(microbatch(graph, views, losses.nt_xent_loss, size=4, check=True), expected)
    assert equal(gradients(network), wanted)


@pytest.mark.parametrize("size", [4, 100])
def test_lightning(size: int, tmp_path: Path):
    lightning = pytest.importorskip("pytorch_lightning", reason="pytorch-lightning is not installed")
    criterion = functools.partial(losses.NTXentLoss, learn_temperature=True)

    class Module(lightning.LightningModule):
        automatic_optimization = False

        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.criterion = encoder(dropout=0), criterion().double()

        def forward(self, x: Tensor) -> Tensor:
            return self.encoder(x)

        def training_step(self, views: list[Tensor], _: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            model = self.trainer.strategy.model
            microbatch(model, views, self.criterion, size=size, backward=self.manual_backward)
            optimizer.step()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    views, module = torch.utils.data.TensorDataset(rows(1), rows(2)), Module()
    names = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options = dict.fromkeys(names, False)
    trainer = lightning.Trainer(max_epochs=3, accelerator="cpu", default_root_dir=tmp_path, **options)
    trainer.fit(module, torch.utils.data.DataLoader(views, batch_size=ROWS))

    both = nn.ModuleList([encoder(dropout=0), criterion().double()])
    optimizer = torch.optim.SGD(both.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        both[1](both[0](rows(1)), both[0](rows(2))).backward()
        optimizer.step()
    for found, expected in zip(module.parameters(), both.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


# ---- memory


class Saved:
    """The most bytes that graphs hold at one time, of tensors that are no parameters."""

    def __init__(self, network: nn.Module) -> None:
        self.now = self.peak = 0
        self._own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda held: held.tensor)

    def __enter__(self) -> "Saved":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> Any:
        own = tensor.untyped_storage().data_ptr() in self._own
        return Held(self, tensor, 0 if own else tensor.nbytes)


class Held:
    def __init__(self, counter: Saved, tensor: Tensor, number: int) -> None:
        self.counter, self.tensor, self.number = counter, tensor.detach(), number
        counter.now += number
        counter.peak = max(counter.peak, counter.now)

    def __del__(self) -> None:
        self.counter.now -= self.number


def test_what_graphs_hold_falls_with_the_size():
    torch.manual_seed(0)
    layers = [layer for _ in range(10) for layer in (nn.Linear(64, 64), nn.Tanh())]
    network = nn.Sequential(*layers, nn.Linear(64, 16))
    views = torch.randn(2, 128, 64).unbind()
    peaks = {}
    for size in (128, 64, 32, 16):
        with Saved(network) as saved:
            microbatch(network, views, losses.nt_xent_loss, size=size)
        assert saved.now == 0
        peaks[size] = saved.peak
    with Saved(network) as saved:
        losses.nt_xent_loss(*map(network, views)).backward()
    assert peaks[128] == saved.peak
    assert peaks[16] <= peaks[128] / 5
    assert peaks[64] < 0.6 * peaks[128]
    assert peaks[32] < 0.6 * peaks[64]


# ---- errors


def test_a_second_pass_that_gives_something_else_is_seen():
    network, calls = encoder(), []

    def encode(x: Tensor) -> Tensor:
        calls.append(1)
        return network(x) * len(calls)

    with pytest.raises(
        RuntimeError, match=r"encoder of batches\[0\] must give the same twice, .* generators"
    ):
        microbatch(encode, rows(), lambda made: made.sin().sum(), size=4, check=True)


def last_token(x: Tensor) -> Any:
    return type("Output", (), {})()


ONE = nn.Linear(SIZE, WIDTH).double()
ERRORS = {
    "size": (lambda: microbatch(ONE, rows(), Tensor.sum, size=0), ValueError, ["size", "positive int", "0"]),
    "size, float": (lambda: microbatch(ONE, rows(), Tensor.sum, size=8.0), ValueError, ["size", "8.0"]),
    "no batch": (lambda: microbatch(ONE, [], Tensor.sum), ValueError, ["at least one batch", "none"]),
    "no tensor": (
        lambda: microbatch(ONE, [{"x": [1.0]}], Tensor.sum),
        TypeError,
        ["batches[0]", "dict", "as_tensor"],
    ),
    "numbers": (
        lambda: microbatch([ONE, ONE, ONE], [rows(), rows()], Tensor.sum),
        ValueError,
        ["one encoder for each batch", "3 encoders", "2 batches", "[(x, mask)]"],
    ),
    "lengths": (
        lambda: microbatch(ONE, [(rows(), rows(1, 5))], Tensor.sum),
        ValueError,
        ["batches[0]", "one length", "[5, 13]", "functools.partial"],
    ),
    "no encoder": (lambda: microbatch([1], [rows()], Tensor.sum), TypeError, ["modules or functions", "int"]),
    "another graph": (
        lambda: microbatch(ONE, ONE.weight * 2, Tensor.sum),
        ValueError,
        ["another graph", "detach()", "into the encoder"],
    ),
    "rows": (
        lambda: microbatch(lambda x: ONE(x).mean(0), rows(), Tensor.sum, size=4),
        ValueError,
        ["batches[0]", "a row for each of its 4", "(5,)", "(N, …)"],
    ),
    "a number": (lambda: microbatch(lambda x: ONE(x).sum(), rows(), Tensor.sum), ValueError, ["13", "()"]),
    "output": (lambda: microbatch(last_token, rows(), Tensor.sum), TypeError, ["tensor of emb", "Output"]),
    "no gradient": (
        lambda: microbatch([ONE, lambda x: ONE(x).detach()], [rows(), rows()], losses.clip_loss),
        RuntimeError,
        ["batches[1]", "with a gradient", "without one", "no_grad", "requires_grad_(False)"],
    ),
    "under no_grad": (
        lambda: torch.no_grad()(lambda: microbatch(ONE, rows(), Tensor.sum))(),
        RuntimeError,
        ["gradients must be on", "torch.no_grad()"],
    ),
    "loss, shape": (
        lambda: microbatch(ONE, rows(), lambda made: made.sum(1)),
        ValueError,
        ["one number", "(13,)", "mean or sum"],
    ),
    "loss, number": (
        lambda: microbatch(ONE, rows(), lambda made: made.sum().item()),
        ValueError,
        ["tensor of one number", "float"],
    ),
    "loss, detached": (
        lambda: microbatch(ONE, rows(), lambda made: made.sum().detach()),
        RuntimeError,
        ["loss must have a gradient", "detach"],
    ),
    "no backward": (
        lambda: microbatch(ONE, rows(), Tensor.sum, backward=lambda value: None),
        RuntimeError,
        ["embeddings must get a gradient", "value.backward()"],
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_came_and_how_to_mend_it(name: str):
    call, kind, words = ERRORS[name]
    with pytest.raises(kind) as error:
        call()
    message = str(error.value)
    assert message.startswith("microbatch: ")
    assert not [word for word in words if word not in message], message
