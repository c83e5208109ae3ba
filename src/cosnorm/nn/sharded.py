"""Linear layers whose weight is a `DTensor`: tensor parallelism over the processes of a mesh.

Column-wise each process has some rows of the weight (output features) and makes their cosines from whole
inputs: nothing changes. Row-wise each would have a part of every row; norms and means of rows would want a
sum over the processes before the product, and so it is refused.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def is_plain(weight: Tensor) -> bool:
    """Whether it is no `DTensor`, at one glance: every call of a layer comes by here."""
    return type(weight) is nn.Parameter or not hasattr(weight, "placements")


def check_shard(where: str, name: str, parameter: Any) -> None:
    """Raise where `torch.distributed.tensor.parallel` shards what cannot be shared out."""
    if "." in name:
        raise ValueError(
            f'{where}: a layer with a learned scale cannot be sharded; give it scale="unit" or a number, or '
            "leave the layer out of the plan"
        )
    if name == "weight" and any(one.is_shard(1) for one in getattr(parameter, "placements", ())):
        raise ValueError(
            f"{where}: the weight cannot be sharded row-wise (RowwiseParallel, Shard(1)): a cosine wants "
            "whole rows, and their norms would not be those of the parts; use ColwiseParallel(), with "
            "output_layouts=Replicate() where the next layer wants a whole input"
        )


def on_shards(where: str, compute: Callable[[Tensor, Tensor], Tensor], x: Any, weight: Any) -> Any:
    """`compute(x, weight)` of what each process has, as a `DTensor`.

    Args:
        where: the beginning of an error.
        compute: takes whole rows of x and of the weight.
        x: (…, D), a `DTensor`, or a tensor that all processes have.
        weight: (C, D), a `DTensor`.
    """
    from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

    mesh, last = weight.device_mesh, x.ndim - 1
    if not isinstance(x, DTensor):
        x = DTensor.from_local(x, mesh, [Replicate()] * mesh.ndim, run_check=False)
    # Of the result, and of the gradients in x and in the weight, along each dimension of the mesh.
    placements: list[tuple[Placement, Placement, Placement]] = []
    for of_x, of_weight in zip(x.placements, weight.placements, strict=True):
        if of_weight.is_shard(0) and of_x.is_replicate():
            placements.append((Shard(last), Partial(), of_weight))
        elif of_weight.is_replicate() and of_x.is_replicate():
            placements.append((of_x, of_x, of_weight))
        elif of_weight.is_replicate() and of_x.is_shard() and not of_x.is_shard(last):
            placements.append((of_x, of_x, Partial()))
        else:
            check_shard(where, "weight", weight)
            raise ValueError(
                f"{where}: cosines want whole rows; got an input of placements {x.placements} and a weight "
                f"of {weight.placements}; redistribute the input to Replicate()"
            )
    results, into_x, into_weight = zip(*placements, strict=True)
    found = compute(x.to_local(grad_placements=into_x), weight.to_local(grad_placements=into_weight))
    shape = torch.Size((*x.shape[:-1], weight.shape[0]))
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(found.contiguous(), mesh, results, run_check=False, shape=shape, stride=stride)
