"""Each embedding beside the weight of its own class, and the operator that looks there: `class_targets`.

A target is looked at in float64: with t = ŵ − cos θ x̂, |t| = sin θ, the gradient of ψ in the unit embedding
is −ψ'(θ) t / |t|, and 0 where sin θ = 0, where it has no direction.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cosnorm.backends import choose
from cosnorm.backends.torch.units import unit_rows
from cosnorm.devices import is_accelerator
from cosnorm.distributed import Shares, gather, share_rows, sum_over
from cosnorm.operators.define import define
from cosnorm.operators.indices import assert_all, check_range

WHERE = "margin_cross_entropy"


class Target(NamedTuple):
    """Each embedding beside the weight of its own class; 0 where another process has it.

    Attributes:
        rows: the row of the weight, (N,).
        cosine: of the angle θ between the two, (N,).
        sine: (N,).
        toward_w: where asked for, the direction in which the unit embedding turns to the weight, (N, D).
        toward_x: the direction in which the unit weight turns to the embedding, (N, D).
    """

    rows: Tensor
    cosine: Tensor
    sine: Tensor
    toward_w: Tensor
    toward_x: Tensor


def precise_dtype(device: torch.device) -> torch.dtype:
    """The dtype in which targets are looked at."""
    return torch.float32 if device.type == "mps" else torch.float64


def precise_unit(rows: Tensor, precise: torch.dtype) -> Tensor:
    """Unit rows, of float64 where the device has it; that holds every square of the narrower types."""
    if precise != torch.float64 or rows.dtype == torch.float64:
        return unit_rows(rows.to(precise)).values
    values = rows.to(torch.float64)
    norm = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return values.div_(norm.masked_fill_(norm == 0, 1))


def find_targets(
    embeddings: Tensor,
    weight: Tensor,
    places: Tensor,
    classes: Tensor | None,
    sub_centers: int,
    impl: str,
    *,
    directions: bool,
) -> Target:
    """Look at each embedding beside its own class; `places` are labels among the classes that take part."""
    kernels = choose.backends("targets", "auto" if impl == "c" else impl, embeddings)
    takes = sub_centers == 1 and weight.dtype != torch.float64
    if kernels and takes and len(weight) and (classes is None or len(classes)):
        return Target(*kernels[0].find(embeddings, weight, places, classes, directions=directions))
    precise = precise_dtype(embeddings.device)
    number = len(weight) // sub_centers if classes is None else len(classes)
    here = (places >= 0) & (places < number)
    if not number:
        zeros = embeddings.new_zeros(embeddings.shape, dtype=precise)
        return Target(places, zeros[:, :1].sum(1), zeros[:, :1].sum(1), zeros, zeros)
    x = precise_unit(embeddings, precise)
    own = places.clamp(0, number - 1)
    own = own if classes is None else classes[own]
    rows = own.unsqueeze(1) * sub_centers + torch.arange(sub_centers, device=own.device)
    candidates = precise_unit(weight[rows], precise)
    cosine, nearest = (candidates @ x.unsqueeze(2)).squeeze(2).max(1)
    rows = rows.gather(1, nearest.unsqueeze(1)).squeeze(1)
    w = candidates[:, 0]
    if sub_centers > 1:
        w = candidates[torch.arange(len(x), device=x.device), nearest]
    cosine = cosine.clamp(-1, 1)
    # A zero vector has cosine 0, and no direction.
    some = (x != 0).any(1) & (w != 0).any(1) & here

    def orthogonal(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        rest = torch.addcmul(one, other, cosine.unsqueeze(1), value=-1)
        sine = rest.norm(dim=1)
        if not directions:
            return sine, rest
        lost = (sine <= 16 * torch.finfo(precise).eps) | ~some  # rounding of equal vectors
        return sine, rest.div_(sine.unsqueeze(1)).masked_fill_(lost.unsqueeze(1), 0)

    sine, toward_w = orthogonal(w, x)
    toward_x = orthogonal(x, w)[1] if directions else toward_w
    zero = cosine.new_zeros(())
    return Target(rows, torch.where(here, cosine, zero), torch.where(here, sine, zero), toward_w, toward_x)


class Batch(NamedTuple):
    """The embeddings of all processes, and where their classes are among this process's.

    Attributes:
        embeddings: (N, D).
        places: labels among the classes that take part here, (N,); out of their range: another process's.
        shares: which embeddings are whose.
    """

    embeddings: Tensor
    places: Tensor
    shares: Shares


def gather_batch(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    classes: Tensor | None,
    sub_centers: int,
    ignore: int,
    group: str,
    *,
    check: str = "",
) -> Batch:
    """Bring the embeddings of all processes together; `check` says who asks whether labels fit, "" nobody."""
    number = len(weight) // sub_centers
    of_classes = share_rows(number, weight.device, group)
    shares = share_rows(len(embeddings), embeddings.device, group)
    ignored = labels == ignore
    if check:
        check_range(f"{check}: labels must be", labels.masked_fill(ignored, 0), of_classes.total)
    # An ignored label is nobody's class.
    here = gather(labels.long().masked_fill(ignored, -1), shares) - of_classes.own.start
    places = here
    if classes is not None:
        inside = (here >= 0) & (here < number)  # the others are another process's
        places = torch.searchsorted(classes, here).clamp_(max=max(0, len(classes) - 1))
        if check:
            _check_classes(check, classes, number)
            message = f"{check}: classes must hold the labels of the batch"
            if is_accelerator(labels.device):
                if len(classes):
                    assert_all((classes[places] == here) | ~inside, message)
            elif bool(inside.any()) and (not len(classes) or bool((classes[places] != here)[inside].any())):
                raise ValueError(f"{message}, and do not; sample_classes(labels, …) draws classes that do")
        places = places.masked_fill(~inside, -1)
    return Batch(gather(embeddings, shares), places, shares)


def _check_classes(where: str, classes: Tensor, number: int) -> None:
    if is_accelerator(classes.device):
        assert_all(classes[1:] != classes[:-1], f"{where}: classes must name each class once")
    elif bool((classes[1:] == classes[:-1]).any()):
        raise ValueError(
            f"{where}: classes must have shape (S,) and name each class once, got shape "
            f"{tuple(classes.shape)} with {len(classes.unique())} different ones; use classes.unique()"
        )
    check_range(f"{where}: classes must be", classes, number)


def _compute(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    classes: Tensor | None,
    sub_centers: int,
    ignore_index: int,
    group: str,
    where: str,
    impl: str,
) -> tuple[Tensor, Tensor]:
    batch = gather_batch(embeddings, weight, labels, classes, sub_centers, ignore_index, group, check=where)
    target = find_targets(
        batch.embeddings, weight, batch.places, classes, sub_centers, impl, directions=False
    )
    if not group:
        return target.cosine, target.sine
    both = sum_over(torch.stack([target.cosine, target.sine]), group)[:, batch.shares.own]
    return both[0].clone(), both[1].clone()


def _shapes(embeddings: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    shape, dtype = embeddings.shape[:1], precise_dtype(embeddings.device)
    return embeddings.new_empty(shape, dtype=dtype), embeddings.new_empty(shape, dtype=dtype)


class_targets = define(
    "class_targets(Tensor embeddings, Tensor weight, Tensor labels, Tensor? classes, int sub_centers, "
    "int ignore_index, str group, str where, str impl) -> (Tensor cosine, Tensor sine)",
    _compute,
    _shapes,
    flops=lambda embeddings, weight, labels, classes, sub_centers, *_: (
        2 * sub_centers * embeddings[0] * embeddings[1]
    ),
    is_constant=True,  # `class_softmax` takes the slope, and gives the gradient
)
