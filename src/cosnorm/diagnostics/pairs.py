"""What a softmax over pairs sees: how sure it is, and how many of its negatives look like positives."""

from typing import Any

import torch
from torch import Tensor

from cosnorm.diagnostics.drawn import check_rows, cosines_beside, shifts
from cosnorm.functional.checks import check_bound, check_labels
from cosnorm.functional.similarity import cosine_similarity
from cosnorm.norms import accumulation_dtype

# A positive with so much of the sum has left a hundredth of the gradient.
SURE = 0.99


@torch.no_grad()
def saturation(
    queries: Tensor,
    keys: Tensor,
    temperature: float | Tensor,
    *,
    sample: int = 64,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    r"""How much of the softmax over a query's keys its own key has: near 1 the temperature is too low.

    .. math:: p_i = \frac{e^{c_{ii}/\tau}}{e^{c_{ii}/\tau} + \frac{N - 1}{S} \sum_s e^{c_{i,i+s}/\tau}}

    The gradient of InfoNCE grows as 1 − p: what is sure learns no more.

    Args:
        queries: shape (N, D), at least two.
        keys: shape (N, D); key i belongs to query i.
        temperature: τ > 0, a number or a tensor of one.
        sample: S keys of others for each query stand for all; all of them where there are fewer.
        generator: the source of drawing; None: torch's own.

    Returns:
        "probability": the mean of p. "saturated": the share of queries with p ≥ 0.99. float32 for half
        types, else the dtype of the queries.

    Raises:
        TypeError: not tensors, wrong dtypes.
        ValueError: shapes that do not fit, a temperature that is not positive.

    Source: Wang and Liu, "Understanding the Behaviour of Contrastive Loss", arXiv 2012.09740, section 3.

    Example:
        >>> import torch
        >>> saturation(torch.eye(4), torch.eye(4), 0.1)["saturated"].item()
        1.0
    """
    where = "saturation"
    check_rows(where, 2, queries=queries, keys=keys)
    tau = float(temperature)
    if not 0 < tau < torch.inf:
        raise ValueError(f"{where}: temperature must be positive and finite, got {tau}")
    number, drawn = len(queries), shifts(where, len(queries), sample, generator)
    dtype = accumulation_dtype(queries.dtype)
    own = cosine_similarity(queries.to(dtype), keys.to(dtype)) / tau
    others = cosines_beside(queries, keys, drawn) / tau
    weight = own.new_tensor((number - 1) / len(drawn)).log()
    probability = (own - torch.logaddexp(own, others.logsumexp(0) + weight)).exp()
    return {"probability": probability.mean(), "saturated": (probability >= SURE).to(dtype).mean()}


@torch.no_grad()
def false_negative_share(
    queries: Tensor,
    keys: Tensor | None = None,
    *,
    above: float,
    labels: Any = None,
    sample: int = 64,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The share of negative pairs that a bound on the cosine takes for positives.

    Args:
        queries: shape (N, D), at least two.
        keys: shape (N, D); all but key i are negatives of query i. None: the queries themselves.
        above: pairs with a larger cosine are filtered.
        labels: if given, whole numbers (N,): what the filter should have found.
        sample: S keys of others for each query stand for all; all of them where there are fewer.
        generator: the source of drawing; None: torch's own.

    Returns:
        "filtered": the share of negatives above the bound. With labels also "same_label", the share of
        negatives of the query's label, and "caught", the share of these that are filtered (NaN of none).
        float32 for half types, else the dtype of the queries.

    Raises:
        TypeError: not tensors, wrong dtypes.
        ValueError: shapes that do not fit.

    Source: the filter of Huynh et al., "Boosting Contrastive Self-Supervised Learning with False Negative
        Cancellation", arXiv 2011.11765, section 3.2.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
        >>> round(false_negative_share(rows, above=0.9)["filtered"].item(), 4)
        0.3333
    """
    where = "false_negative_share"
    keys = queries if keys is None else keys
    check_rows(where, 2, queries=queries, keys=keys)
    check_bound(where, "above", above)
    drawn = shifts(where, len(queries), sample, generator)
    cosines = cosines_beside(queries, keys, drawn)
    filtered = cosines > above
    found = {"filtered": filtered.to(cosines.dtype).mean()}
    if labels is not None:
        check_labels(where, labels, queries)
        same = torch.stack([labels == labels.roll(-shift, 0) for shift in drawn])
        found["same_label"] = same.to(cosines.dtype).mean()
        found["caught"] = (filtered & same).sum().to(cosines.dtype) / same.sum()
    return found
