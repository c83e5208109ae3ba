"""`microbatch` on one and two processes: DistributedDataParallel and FSDP2, gradients sent once.

Each process runs this file.
"""

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from cosnorm import losses, microbatch

pytestmark = pytest.mark.xdist_group("microbatch processes")  # one worker has the fixture

SHARES, SIZE, WIDTH, PART = (7, 4), 6, 5, 3
CLASSES = 4


def network(seed: int, dropout: float = 0.3) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Linear(SIZE, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, WIDTH)
    return nn.Sequential(*layers).double()


def share(rank: int, seed: int) -> Tensor:
    whole = torch.randn(sum(SHARES), SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return whole.split(SHARES)[rank]


def labels(rank: int) -> Tensor:
    return (torch.arange(sum(SHARES)) % CLASSES).split(SHARES)[rank]


def by_parts(encoder: Callable[..., Tensor], batch: Tensor, size: int = PART) -> Tensor:
    return torch.cat([encoder(part) for part in batch.split(size)])


def gradients(*modules: nn.Module) -> list[Tensor]:
    found = [parameter.grad for module in modules for parameter in module.parameters()]
    found = [one.full_tensor() if hasattr(one, "full_tensor") else one for one in found]
    for module in modules:
        module.zero_grad()
    return found


class Two(nn.Module):
    """Two towers and the temperature in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.towers = nn.ModuleList([network(0), network(1)])
        self.loss = losses.CLIPLoss().double()

    def forward(self, which: int, x: Tensor) -> Tensor:
        return self.towers[which](x)


def reduced(gradients: list[Tensor]) -> list[Tensor]:
    """As DistributedDataParallel averages them: each divided, then the sum."""
    for gradient in gradients:
        gradient /= dist.get_world_size()
        dist.all_reduce(gradient)
    return gradients


class Counted(DistributedDataParallel):
    """Counts how often it sends gradients."""

    def __init__(self, module: nn.Module, **options: Any) -> None:
        super().__init__(module, **options)
        self.sent = 0
        self.register_comm_hook(None, self._send)

    def _send(self, state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        self.sent += bucket.is_last()
        return allreduce_hook(None, bucket)


Found = dict[str, Any]
CASES: dict[str, Callable[[int], Found]] = {}


def case(function: Callable[[int], Found]) -> Callable[[int], Found]:
    CASES[function.__name__] = function
    return function


@case
def one_encoder_for_two_views(rank: int) -> Found:
    group, plain, views = dist.group.WORLD, network(0), [share(rank, 1), share(rank, 2)]
    loss = functools.partial(losses.nt_xent_loss, temperature=0.3, group=group)
    torch.manual_seed(rank)
    expected = loss(*(by_parts(plain, view) for view in views))
    expected.backward()
    wanted = reduced(gradients(plain))
    wrapped = Counted(network(0))
    torch.manual_seed(rank)
    value = microbatch(wrapped, views, loss, size=PART, check=True)
    sent = wrapped.sent
    found = gradients(wrapped)
    with wrapped.no_sync():  # as a loop does that adds gradients up
        torch.manual_seed(rank)
        microbatch(wrapped, views, loss, size=PART)
    alone = gradients(wrapped)
    torch.manual_seed(rank)
    microbatch(wrapped, views, loss, size=PART, sync=False)
    return {
        "values": (value, expected.detach()),
        "gradients": (found, wanted),
        "sent": (sent, 1),
        "alone": (reduced(alone), wanted),
        "not sent": (reduced(gradients(wrapped)), wanted),
        "sent in all": (wrapped.sent, 1),
    }


@case
def two_encoders_and_a_loss_that_learns(rank: int) -> Found:
    group, plain, views = dist.group.WORLD, [network(0), network(1)], [share(rank, 1), share(rank, 2)]
    criterion = losses.CLIPLoss(group=group).double()
    torch.manual_seed(rank)
    expected = criterion(*map(by_parts, plain, views))
    expected.backward()
    wanted = reduced(gradients(*plain, criterion))
    wrapped = [Counted(network(seed)) for seed in range(2)]
    loss = Counted(losses.CLIPLoss(group=group).double())
    torch.manual_seed(rank)
    value = microbatch(wrapped, views, loss, size=PART)
    return {
        "values": (value, expected.detach()),
        "gradients": (gradients(*wrapped, loss), wanted),
        "sent": ([one.sent for one in (*wrapped, loss)], [1, 1, 1]),
    }


@case
def a_sharded_head(rank: int) -> Found:
    group, plain, view = dist.group.WORLD, network(0), share(rank, 1)
    torch.manual_seed(7 + rank)
    head = losses.ArcFaceLoss(CLASSES, WIDTH, scale=8.0, dtype=torch.float64, group=group)
    torch.manual_seed(rank)
    head(by_parts(plain, view), labels(rank)).backward()
    wanted = [*reduced(gradients(plain)), *gradients(head)]
    wrapped = Counted(network(0))
    torch.manual_seed(rank)
    microbatch(lambda x: wrapped(x), view, lambda made: head(made, labels(rank)), size=PART)
    return {"gradients": (gradients(wrapped, head), wanted), "sent": (wrapped.sent, 1)}


@case
def parts_of_one_module(rank: int) -> Found:
    """Towers, and a temperature that its forward pass does not use."""
    views, plain, wrapped = (
        [share(rank, 1), share(rank, 2)],
        Two(),
        Counted(Two(), find_unused_parameters=True),
    )
    towers = [functools.partial(plain, which) for which in range(2)]
    group = dist.group.WORLD
    plain.loss.group = wrapped.module.loss.group = group
    found = []
    for size in (PART, 100):
        torch.manual_seed(rank)
        pairs = zip(towers, views, strict=True)
        plain.loss(*(by_parts(tower, view, size) for tower, view in pairs)).backward()
        wanted = reduced(gradients(plain))
        torch.manual_seed(rank)
        calls = [functools.partial(wrapped, which) for which in range(2)]
        microbatch(calls, views, wrapped.module.loss, size=size)
        found.append((gradients(wrapped), wanted))
    return {f"gradients {number}": one for number, one in enumerate(found)}


@case
def few_rows(rank: int) -> Found:
    """Where processes have different numbers of parts, one of them a single one."""
    found: Found = {}
    for number, size in ((1, 100), (2, 100), (1, 4), (2, 4)):
        plain, wrapped = network(0), Counted(network(0))
        views = [share(rank, seed) for seed in range(number)]
        torch.manual_seed(rank)
        parts = [plain(part) for view in views for part in view.split(size)]
        torch.cat(parts).sin().sum().backward()
        wanted = reduced(gradients(plain))
        torch.manual_seed(rank)
        microbatch(wrapped, views, lambda *made: torch.cat(made).sin().sum(), size=size)
        found[f"gradients of {number} with {size}"] = (gradients(wrapped), wanted)
        found[f"sent of {number} with {size}"] = (wrapped.sent, 1)
    return found


@case
def fully_sharded(rank: int) -> Found:
    group, plain = dist.group.WORLD, network(0)
    views = [share(rank, 1)[:4], share(rank, 2)[:4]]  # gathering parameters, processes go in step
    loss = functools.partial(losses.nt_xent_loss, temperature=0.3, group=group)
    sharded = network(0)
    for layer in (sharded[0], sharded[3], sharded):
        fully_shard(layer)
    try:
        with torch.no_grad():
            sharded(views[0])
    except AttributeError as error:
        return {"skipped": f"FSDP2 of this torch does not run on a CPU: {error}"}
    found: Found = {}
    steps = {"parts": (PART, [True]), "whole": (100, [True]), "added, within rounding": (PART, [False, True])}
    for name, (size, calls) in steps.items():
        for sync in calls:
            torch.manual_seed(rank)
            loss(*(by_parts(plain, view, size) for view in views)).backward()
            torch.manual_seed(rank)
            microbatch(sharded, views, loss, size=size, sync=sync)
        found[name] = (gradients(sharded), reduced(gradients(plain)))
    return found


@case
def fully_sharded_beside_its_loss(rank: int) -> Found:
    """One module holds both, and the encoder is a method of it."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = network(0)
            self.loss = losses.NTXentLoss(learn_temperature=True, group=dist.group.WORLD).double()

        def encode(self, x: Tensor) -> Tensor:
            return self.encoder(x)

    plain, sharded = Both(), Both()
    views = [share(rank, 1)[:4], share(rank, 2)[:4]]
    fully_shard(sharded.encoder)
    fully_shard(sharded.loss)
    try:
        with torch.no_grad():
            sharded.encode(views[0])
    except AttributeError as error:
        return {"skipped": f"FSDP2 of this torch does not run on a CPU: {error}"}
    torch.manual_seed(rank)
    plain.loss(*(by_parts(plain.encode, view) for view in views)).backward()
    torch.manual_seed(rank)
    microbatch(sharded.encode, views, sharded.loss, size=PART)
    return {"gradients, within rounding": (gradients(sharded), reduced(gradients(plain)))}


@case
def the_law(rank: int) -> Found:
    """One process with the whole batch, or several with a share each."""
    alone, wrapped, processes = (
        network(0, dropout=0),
        DistributedDataParallel(network(0, dropout=0)),
        range(dist.get_world_size()),
    )
    whole = [torch.cat([share(one, seed) for one in processes]) for seed in (1, 2)]
    losses.clip_loss(*map(alone, whole)).backward()
    loss = functools.partial(losses.clip_loss, group=dist.group.WORLD)
    microbatch(wrapped, [share(rank, 1), share(rank, 2)], loss, size=PART)
    return {"gradients, within rounding": (gradients(wrapped), gradients(alone))}


@pytest.fixture(scope="module", params=[1, 2])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What each of the processes found."""
    folder, number = tmp_path_factory.mktemp("processes"), request.param
    running = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(number), str(folder)])
        for rank in range(number)
    ]
    assert [one.wait(300) for one in running] == [0] * number
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(number)]


@pytest.mark.parametrize("name", CASES)
def test_bit_for_bit_what_one_graph_of_all_parts_has(ranks: list[Found], name: str):
    for found in ranks:
        if "skipped" in found[name]:
            pytest.skip(found[name]["skipped"])
        for what, (one, other) in found[name].items():
            if isinstance(one, list) and isinstance(one[0], Tensor):
                bound = 1e-14 if "rounding" in what else 0
                assert len(one) == len(other)
                for here, there in zip(one, other, strict=True):
                    assert (here - there).abs().max() <= bound * there.abs().max(), what
            else:
                assert one == other, what


def main(rank: int, processes: int, folder: str) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    found = {name: function(rank) for name, function in CASES.items()}
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
