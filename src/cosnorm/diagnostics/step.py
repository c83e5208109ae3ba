"""All diagnostics of a step in one call."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cosnorm.diagnostics.drawn import check_rows
from cosnorm.diagnostics.embeddings import alignment, effective_rank, embedding_norms, uniformity
from cosnorm.diagnostics.pairs import false_negative_share, saturation
from cosnorm.diagnostics.weights import effective_rates, learned_temperatures


@torch.no_grad()
def diagnose(
    embeddings: Tensor,
    positives: Tensor | None = None,
    *,
    temperature: float | Tensor | None = None,
    above: float | None = None,
    labels: Tensor | None = None,
    model: nn.Module | None = None,
    optimizer: Optimizer | None = None,
    sample: int = 16,
    rank_rows: int = 256,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """What a step looks like, in O(N·D), as a dictionary for any logger; what is not given is left out.

    Args:
        embeddings: shape (N, D), at least two.
        positives: shape (N, D): what belongs to them. Adds "alignment".
        temperature: τ of a softmax over them. With `positives` adds "saturation/probability" and
            "saturation/saturated".
        above: a bound beyond which negatives count as false ones. Adds "false_negatives/filtered".
        labels: whole numbers (N,). With `above` adds "false_negatives/same_label" and
            "false_negatives/caught".
        model: adds "temperature/…" and "at_bound/…" of the temperatures that it learns.
        optimizer: with `model` adds "effective_rate/…" and "angular_step/…" of its weights: call it between
            `backward()` and `step()`.
        sample: S keys of others that each row is compared with; that takes O(S·N·D).
        rank_rows: rows, evenly spread, whose effective rank is taken.
        generator: the source of drawing; None: torch's own.

    Returns:
        Tensors without dimension, by their names; always "uniformity", "effective_rank", "norm/mean",
        "norm/std", "norm/min" and "norm/max". Each has a function of its own in `cosnorm.diagnostics`, which
        says what it is.

    Raises:
        TypeError: not tensors, wrong dtypes.
        ValueError: shapes that do not fit, an option without what it needs.

    Example:
        >>> import torch
        >>> found = diagnose(torch.eye(4), torch.eye(4), temperature=0.1)
        >>> list(found)[:5]
        ['uniformity', 'effective_rank', 'norm/mean', 'norm/std', 'norm/min']
        >>> [round(found[name].item(), 3) for name in ("uniformity", "alignment", "saturation/probability")]
        [-4.0, 0.0, 1.0]
    """
    where = "diagnose"
    check_rows(where, 2, embeddings=embeddings)
    for name, given, needed, want in (
        ("temperature", temperature, "positives", positives),
        ("labels", labels, "above", above),
        ("optimizer", optimizer, "model", model),
    ):
        if given is not None and want is None:
            raise ValueError(f"{where}: {name} says nothing without {needed}; pass both, or leave it out")
    drawing: dict[str, Any] = {"sample": sample, "generator": generator}
    found = {"uniformity": uniformity(embeddings, **drawing)}
    found["effective_rank"] = effective_rank(embeddings[:: -(-len(embeddings) // rank_rows)])
    found |= _under("norm", embedding_norms(embeddings))
    if positives is not None:
        found["alignment"] = alignment(embeddings, positives)
        if temperature is not None:
            found |= _under("saturation", saturation(embeddings, positives, temperature, **drawing))
    if above is not None:
        shares = false_negative_share(embeddings, positives, above=above, labels=labels, **drawing)
        found |= _under("false_negatives", shares)
    if model is not None:
        found |= learned_temperatures(model)
        if optimizer is not None:
            found |= effective_rates(model, optimizer)
    return found


def _under(name: str, found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}/{key}": value for key, value in found.items()}
