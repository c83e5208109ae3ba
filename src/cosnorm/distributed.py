"""Rows of all processes beside each other, and sums over them, with the gradients that belong to them.

The law, for a loss L of the whole batch and W processes that train one model through DistributedDataParallel
(which averages the gradients of its parameters over the processes): every process computes the same L, and
the gradient that leaves a process's loss for what it put in (its embeddings) is W · ∂L/∂(its rows). The
average over the processes is then Σ over the processes of ∂L/∂(their rows) · ∂(their rows)/∂parameters: the
gradient of one process with the whole batch. The factor W stands in one place, the backward pass of
`sum_over`; the backward pass of `gather_rows` only sums.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

Group = Any  # torch.distributed.ProcessGroup; torch builds without distributed have no such name


class Gathered(NamedTuple):
    """Rows of all processes in the order of their ranks, and where this process's own begin."""

    rows: Tensor
    offset: int


def check_group(where: str, group: Group) -> None:
    """Raise unless `group` is a process group that this process belongs to."""
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            f"{where}: group was given, but torch.distributed is not initialized; call "
            "torch.distributed.init_process_group first, or leave group out for one process"
        )
    if dist.get_rank(group) < 0:
        raise ValueError(f"{where}: this process is not part of the group")


def gather_rows(rows: Tensor, group: Group) -> Gathered:
    """(n, …) of each process, n its own → (Σn, …) on every process, in the order of ranks; differentiable.

    Backward, each process gets the sum over all processes of the gradients in its own rows.
    """
    sizes = _sizes(len(rows), rows.device, group)
    offset = sum(sizes[: dist.get_rank(group)])
    return Gathered(_GatherRows.apply(rows, sizes, offset, group), offset)


def sum_over(value: Tensor, group: Group) -> Tensor:
    """Sum over the processes; backward, the cotangent times the number of processes (the law above)."""
    total: Tensor = _SumOver.apply(value, group)
    return total


def multiply_gradient(value: Tensor, group: Group) -> Tensor:
    """The value; backward, the cotangent times the number of processes (see the module's law)."""
    same: Tensor = _MultiplyGradient.apply(value, dist.get_world_size(group))
    return same


def share_gradient(value: Tensor, group: Group) -> Tensor:
    """A value that every process has; backward, the sum of the processes' cotangents, on each of them."""
    same: Tensor = _ShareGradient.apply(value, group)
    return same


def log_sum_over(logs: Tensor, group: Group) -> Tensor:
    """Log of the sum over the processes of exp, element by element; not differentiable."""
    largest = logs.clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    largest = largest.masked_fill(largest == -torch.inf, 0)
    total = (logs - largest).exp_()
    dist.all_reduce(total, group=group)
    return total.log_().add_(largest)


def share_of(total: int, group: Group) -> slice:
    """Which of `total` things are this process's: ranges in the order of ranks, as even as can be."""
    rank, processes = dist.get_rank(group), dist.get_world_size(group)
    return slice(total * rank // processes, total * (rank + 1) // processes)


def place_of(size: int, device: torch.device, group: Group) -> tuple[int, int]:
    """Where this process's `size` things begin among those of all processes, and how many all have."""
    sizes = _sizes(size, device, group)
    return sum(sizes[: dist.get_rank(group)]), sum(sizes)


def _sizes(size: int, device: torch.device, group: Group) -> list[int]:
    own = torch.tensor([size], device=device)
    found = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(found, own, group=group)
    return [int(one) for one in found]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int], offset: int, group: Group) -> Tensor:
        ctx.sizes, ctx.group = sizes, group
        found = rows.new_empty(sum(sizes), *rows.shape[1:])
        found[offset : offset + len(rows)] = rows
        # One broadcast each: uneven shares need no padding, and no second copy of all rows.
        for rank, part in enumerate(found.split(sizes)):
            dist.broadcast(part, group=group, group_src=rank)
        return found

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        own = dist.get_rank(ctx.group)
        sums = {}
        for rank, part in enumerate(cotangent.split(ctx.sizes)):
            sums[rank == own] = part.clone(memory_format=torch.contiguous_format)
            dist.reduce(sums[rank == own], group=ctx.group, group_dst=rank)
        return sums[True], None, None, None


class _SumOver(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Group) -> Tensor:
        ctx.processes = dist.get_world_size(group)
        total = value.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, None]:
        return cotangent * ctx.processes, None


class _MultiplyGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: int) -> Tensor:
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        return cotangent * ctx.factor, None


class _ShareGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        total = cotangent.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None
