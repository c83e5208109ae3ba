"""Which classes take part in a step: Partial FC."""

import torch
from torch import Tensor

from cosnorm.devices import is_accelerator
from cosnorm.functional.arrays import takes_arrays
from cosnorm.functional.checks import check_count, check_indices
from cosnorm.functional.overrides import overridable
from cosnorm.operators.indices import indices_in


@overridable
@takes_arrays
def sample_classes(
    labels: Tensor, num_classes: int, num_sampled: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """Classes for one step of Partial FC: all of the batch, and others drawn evenly without repetition.

    Args:
        labels: the classes of the batch, (N,).
        num_classes: C.
        num_sampled: how many classes to return; more where the batch itself has more.
        generator: source of the drawing; None: torch's own.

    Returns:
        Sorted class numbers, (S,).

    Raises:
        TypeError: labels that are not whole numbers.
        ValueError: labels out of range, more classes asked for than there are.

    Source: An et al., "Partial FC", arXiv 2010.05222, section 3.

    Example:
        >>> import torch
        >>> sample_classes(torch.tensor([4, 4, 1]), num_classes=5, num_sampled=2)
        tensor([1, 4])
    """
    where = "sample_classes"
    check_indices(
        where, "labels", labels, labels.device if isinstance(labels, Tensor) else torch.device("cpu")
    )
    check_count(where, "num_classes", num_classes)
    check_count(where, "num_sampled", num_sampled)
    if num_sampled > num_classes:
        raise ValueError(
            f"{where}: num_sampled must be at most num_classes = {num_classes}, got {num_sampled}"
        )
    labels = indices_in(labels, num_classes, f"{where}: labels must be")
    order = torch.randperm(num_classes, generator=generator, device=labels.device)
    if is_accelerator(labels.device) and labels.numel() <= num_sampled:
        # The batch cannot have more: the first ones, those of the batch before all, and nobody waits.
        ranks = torch.empty_like(order).scatter_(0, order, torch.arange(num_classes, device=order.device))
        return (
            ranks.index_fill_(0, labels.flatten(), -1).topk(num_sampled, largest=False).indices.sort().values
        )
    present = labels.unique()
    absent = order[~torch.isin(order, present)]
    return torch.cat([present, absent[: max(0, num_sampled - len(present))]]).sort().values
