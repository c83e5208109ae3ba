"""Rows of all processes beside each other, and sums over them: what operators over a group of processes use.

The law, for a loss L of the whole batch and W processes that train one model through DistributedDataParallel
(which averages the gradients of its parameters over the processes): every process computes the same L, and
the gradient that leaves a process's loss for what it put in (its embeddings) is W · ∂L/∂(its rows). The
average over the processes is then Σ over the processes of ∂L/∂(their rows) · ∂(their rows)/∂parameters: the
gradient of one process with the whole batch.

A group stands in the schema of an operator by its name; "" is this process alone, and then all of this does
nothing.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

Group = Any  # torch.distributed.ProcessGroup; torch builds without distributed have no such name


class Gathered(NamedTuple):
    """Rows of all processes in the order of their ranks, and where this process's own begin."""

    rows: Tensor
    offset: int


class Shares(NamedTuple):
    """How many rows each process has, in the order of ranks, and which of all are this process's."""

    sizes: list[int]
    own: slice
    group: str

    @property
    def total(self) -> int:
        """The rows of all processes."""
        return sum(self.sizes)


def check_group(where: str, group: Group) -> None:
    """Raise unless `group` is a process group that this process belongs to."""
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            f"{where}: group was given, but torch.distributed is not initialized; call "
            "torch.distributed.init_process_group first, or leave group out for one process"
        )
    if dist.get_rank(group) < 0:
        raise ValueError(f"{where}: this process is not part of the group")


def name_of(where: str, group: Group | None) -> str:
    """The name by which operators know a group, also if it is given by that; "" without one."""
    if group is None:
        return ""
    if isinstance(group, str):
        return group
    check_group(where, group)
    name: str = group.group_name
    return name


def number_of_processes(group: str) -> int:
    """W."""
    return dist.get_world_size(resolve(group)) if group else 1


def share_rows(size: int, device: torch.device, group: str) -> Shares:
    """How many rows each process has, if this one has `size`."""
    if not group:
        return Shares([size], slice(0, size), group)
    processes = resolve(group)
    own = torch.tensor([size], dtype=torch.int64, device=device)
    found = [torch.empty_like(own) for _ in range(dist.get_world_size(processes))]
    dist.all_gather(found, own, group=processes)
    sizes = [int(one) for one in found]
    start = sum(sizes[: dist.get_rank(processes)])
    return Shares(sizes, slice(start, start + size), group)


def gather(rows: Tensor, shares: Shares) -> Tensor:
    """(n, …) of each process, n its own → (Σn, …) on every process, in the order of ranks."""
    if not shares.group:
        return rows
    found = rows.new_empty(shares.total, *rows.shape[1:])
    found[shares.own] = rows
    # One broadcast each: uneven shares need no padding, and no second copy of all rows.
    for rank, part in enumerate(found.split(shares.sizes)):
        dist.broadcast(part, group=resolve(shares.group), group_src=rank)
    return found


def in_turn(rows: Tensor, shares: Shares) -> Iterator[tuple[int, Tensor]]:
    """The rows of one process after the other, and where they begin among all: memory for one share alone."""
    if not shares.group:
        yield 0, rows
        return
    group, start = resolve(shares.group), 0
    for rank, size in enumerate(shares.sizes):
        part = rows if rank == dist.get_rank(group) else rows.new_empty(size, *rows.shape[1:])
        dist.broadcast(part, group=group, group_src=rank)
        yield start, part
        start += size


def reduce_rows(rows: Tensor, shares: Shares) -> Tensor:
    """(Σn, …) on each process → the sum over the processes of its own rows, (n, …)."""
    if not shares.group:
        return rows
    group = resolve(shares.group)
    own, result = dist.get_rank(group), rows.new_empty(0)
    for rank, part in enumerate(rows.split(shares.sizes)):
        total = part.clone(memory_format=torch.contiguous_format)
        dist.reduce(total, group=group, group_dst=rank)
        result = total if rank == own else result
    return result


def sum_in_turn(parts: Iterator[Tensor], shares: Shares) -> Tensor:
    """Of what each process has for one process after the other: the sum of what is for this one."""
    if not shares.group:
        return next(parts)
    group = resolve(shares.group)
    found: list[Tensor] = []
    for rank, part in enumerate(parts):
        dist.reduce(part, group=group, group_dst=rank)
        if rank == dist.get_rank(group):
            found.append(part)
    return found[0]


def sum_over(value: Tensor, group: str) -> Tensor:
    """The sum over the processes; the value itself without a group."""
    if not group:
        return value
    total = value.clone()
    dist.all_reduce(total, group=resolve(group))
    return total


def largest_over(value: Tensor, group: str) -> Tensor:
    """The largest over the processes, element by element; the value itself without a group."""
    if not group:
        return value
    largest = value.clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=resolve(group))
    return largest


def log_sum_over(logs: Tensor, group: str) -> Tensor:
    """Log of the sum over the processes of exp, element by element."""
    if not group:
        return logs
    largest = largest_over(logs, group)
    largest = largest.masked_fill(largest == -torch.inf, 0)
    return sum_over((logs - largest).exp_(), group).log_().add_(largest)


def gather_rows(rows: Tensor, group: Group) -> Gathered:
    """(n, …) of each process, n its own → (Σn, …) on every process, in the order of ranks; differentiable.

    Backward, each process gets the sum over all processes of the gradients in its own rows.
    """
    shares = share_rows(len(rows), rows.device, group.group_name)
    return Gathered(_GatherRows.apply(rows, shares), shares.own.start)


def share_of(total: int, group: Group) -> slice:
    """Which of `total` things are this process's: ranges in the order of ranks, as even as can be."""
    rank, processes = dist.get_rank(group), dist.get_world_size(group)
    return slice(total * rank // processes, total * (rank + 1) // processes)


def resolve(name: str) -> Group:
    """The process group of that name."""
    from torch.distributed import distributed_c10d

    return distributed_c10d._resolve_process_group(name)  # type: ignore[attr-defined, arg-type]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, shares: Shares) -> Tensor:
        ctx.shares = shares
        return gather(rows, shares)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        return reduce_rows(cotangent, ctx.shares), None
