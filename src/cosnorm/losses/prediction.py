"""What a head says of embeddings: scaled cosines without a margin, and the classes of the largest."""

import torch
from torch import Tensor

from cosnorm.devices import at_once
from cosnorm.distributed import Group, gather_rows
from cosnorm.functional import cosine_linear
from cosnorm.functional.checks import check_count, check_rows_of_classes

# Cosines of a block, if nobody says how many classes it has.
_BLOCK = 2**22


def prefixes(where: str, dim: int | None, embeddings: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The first `dim` components of both; the embeddings may have no more."""
    if dim is None:
        return embeddings, weight
    check_count(where, "dim", dim)
    if dim > weight.shape[1]:
        raise ValueError(f"{where}: dim must be at most embedding_size = {weight.shape[1]}, got {dim}")
    return embeddings[..., :dim], weight[:, :dim]


def class_cosines(where: str, embeddings: Tensor, weight: Tensor, sub_centers: int) -> Tensor:
    """The cosine of each embedding (N, D) with the nearest of the sub-centers of each class: (N, C)."""
    check_rows_of_classes(where, embeddings=embeddings, weight=weight)
    dtype = torch.promote_types(embeddings.dtype, weight.dtype)
    cosines = cosine_linear(embeddings.to(dtype), weight.to(dtype))
    return cosines if sub_centers == 1 else cosines.unflatten(1, (-1, sub_centers)).amax(2)


def best_classes(
    where: str,
    embeddings: Tensor,
    weight: Tensor,
    sub_centers: int,
    number: int,
    chunk_size: int | None,
) -> tuple[Tensor, Tensor]:
    """The largest cosines, (N, number) in falling order, and their classes; by blocks of classes.

    Where there are fewer classes the rest is -inf and class -1.
    """
    check_rows_of_classes(where, embeddings=embeddings, weight=weight)
    shape = embeddings.shape[0], number
    dtype, device = torch.promote_types(embeddings.dtype, weight.dtype), embeddings.device
    cosines = torch.full(shape, -torch.inf, dtype=dtype, device=device)
    classes = torch.full(shape, -1, dtype=torch.int64, device=device)
    step = (chunk_size or max(1, at_once(device, _BLOCK) // max(1, embeddings.shape[0]))) * sub_centers
    for first in range(0, weight.shape[0], step):
        block = class_cosines(where, embeddings, weight[first : first + step], sub_centers)
        numbers = first // sub_centers + torch.arange(block.shape[1], device=block.device)
        found = torch.cat([cosines, block.to(cosines.dtype)], 1)
        cosines, places = found.topk(number, 1)
        classes = torch.cat([classes, numbers.expand_as(block)], 1).gather(1, places)
    return cosines, classes


def best_over(group: Group, cosines: Tensor, classes: Tensor, own: slice) -> Tensor:
    """The classes of the largest cosines that any process found for the rows of all, for this one's rows."""
    number = cosines.shape[1]
    each = [gather_rows(one, group).rows.unflatten(0, (-1, len(one))) for one in (cosines, classes)]
    found, numbers = (one.transpose(0, 1)[own].flatten(1) for one in each)
    return numbers.gather(1, found.topk(number, 1).indices)
