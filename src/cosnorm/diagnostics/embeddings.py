"""Where embeddings lie: alignment, uniformity, effective rank and norms."""

import torch
from torch import Tensor

from cosnorm.diagnostics.drawn import check_rows, cosines_beside, shifts
from cosnorm.functional.checks import is_number
from cosnorm.functional.contrastive import contrastive_cross_entropy
from cosnorm.functional.similarity import cosine_similarity
from cosnorm.norms import accumulation_dtype


def alignment(first: Tensor, second: Tensor) -> Tensor:
    r"""How far apart on the unit sphere rows lie that belong together: from 0 (at one place) to 4.

    .. math:: \frac{1}{N} \sum_i |\hat x_i - \hat y_i|^2 = 2 - \frac{2}{N} \sum_i \hat x_i \cdot \hat y_i

    Args:
        first: shape (N, D).
        second: shape (N, D); row i belongs to row i.

    Returns:
        A tensor without dimension, float32 for half types; differentiable. A zero row counts 2.

    Raises:
        TypeError: not tensors, wrong dtypes.
        ValueError: shapes that do not fit.

    Source: Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and
        Uniformity on the Hypersphere", arXiv 2005.10242, eq. 4 with α = 2.

    Example:
        >>> import torch
        >>> alignment(torch.eye(2), torch.eye(2).flip(0)).item()
        2.0
    """
    check_rows("alignment", first=first, second=second)
    dtype = accumulation_dtype(first.dtype)
    return 2 - 2 * cosine_similarity(first.to(dtype), second.to(dtype)).mean()


def uniformity(
    rows: Tensor, t: float = 2.0, *, sample: int | None = None, generator: torch.Generator | None = None
) -> Tensor:
    r"""How evenly rows are spread over the unit sphere: 0 where all lie at one place, less the more evenly.

    .. math:: \log \frac{1}{N (N - 1)} \sum_{i \ne j} e^{-t |\hat x_i - \hat x_j|^2}

    Args:
        rows: shape (N, D), at least two.
        t: of the Gaussian potential, between 1e-6 and 1e4.
        sample: S: only S pairs for each row, drawn evenly: O(S·N·D) instead of O(N²·D). None: all, in tiles;
            no N×N matrix is made.
        generator: the source of drawing; None: torch's own.

    Returns:
        A tensor without dimension, float32 for half types; differentiable.

    A zero row is at distance √2 from all.

    Raises:
        TypeError: not tensors, wrong dtypes.
        ValueError: fewer than two rows, t out of range.

    Source: Wang and Isola, arXiv 2005.10242, eq. 5.

    Example:
        >>> import torch
        >>> round(uniformity(torch.eye(4)).item(), 4)
        -4.0
    """
    check_rows("uniformity", 2, rows=rows)
    if not is_number(t) or not 1e-6 <= t <= 1e4:
        raise ValueError(f"uniformity: t must be a positive number, between 1e-6 and 1e4, got {t!r}")
    number = len(rows)
    if sample is not None:
        cosines = cosines_beside(rows, rows, shifts("uniformity", number, sample, generator))
        return torch.logsumexp(2 * t * (cosines - 1).flatten(), 0) - _log(cosines.numel(), cosines)
    # The tiles of a softmax hold these sums; any positive does, as it is taken out of the loss again.
    following = torch.arange(number, device=rows.device).roll(-1)
    losses = contrastive_cross_entropy(rows, positives=following, temperature=1 / (2 * t), reduction="none")
    own = cosine_similarity(rows.to(losses.dtype), rows.to(losses.dtype).roll(-1, 0))
    sums = losses + 2 * t * (own - 1)
    return torch.logsumexp(sums, 0) - _log(number * (number - 1), sums)


def _log(number: int, like: Tensor) -> Tensor:
    return like.new_tensor(float(number)).log()


@torch.no_grad()
def effective_rank(rows: Tensor) -> Tensor:
    r"""How many dimensions embeddings use: from 1 to min(N, D); it falls as they collapse.

    .. math:: \exp\Big(-\sum_k p_k \log p_k\Big), \qquad p_k = \frac{\sigma_k}{\sum_l \sigma_l}

    with the singular values σ of the matrix of rows as they are.

    Args:
        rows: shape (N, D), finite. A thousand are enough, as the cost grows with N·D·min(N, D).

    Returns:
        A float64 tensor without dimension; 0 if all rows are 0, NaN if one is not finite.

    Raises:
        TypeError: not a tensor, a wrong dtype.
        ValueError: not of shape (N, D).

    Source: Garrido et al., "RankMe", arXiv 2210.02885, eq. 1; Roy and Vetterli, "The Effective Rank", 2007.

    Example:
        >>> import torch
        >>> round(effective_rank(torch.eye(3)).item(), 4)
        3.0
    """
    check_rows("effective_rank", rows=rows)
    values = rows.double()
    values = values / values.abs().amax().clamp(min=torch.finfo(torch.float64).tiny)
    if not bool(values.isfinite().all()):
        return values.new_full((), torch.nan)
    sizes = torch.linalg.svdvals(values)
    shares = sizes / sizes.sum().clamp(min=torch.finfo(torch.float64).tiny)
    return torch.special.entr(shares).sum().exp() * bool(sizes.any())


@torch.no_grad()
def embedding_norms(rows: Tensor) -> dict[str, Tensor]:
    """The lengths of embeddings: no cosine sees them, but gradients are divided by them.

    Args:
        rows: shape (N, D).

    Returns:
        "mean", "std" (by N), "min" and "max", float64 tensors without dimension.

    Raises:
        TypeError: not a tensor, a wrong dtype.
        ValueError: not of shape (N, D).

    Example:
        >>> import torch
        >>> found = embedding_norms(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        >>> {name: value.item() for name, value in found.items()}
        {'mean': 3.0, 'std': 2.0, 'min': 1.0, 'max': 5.0}
    """
    check_rows("embedding_norms", rows=rows)
    values = rows.double()
    largest = values.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    norms = torch.linalg.vector_norm(values / largest, dim=1) * largest.squeeze(1)
    top = norms.amax()
    relative = norms / top.clamp(min=torch.finfo(torch.float64).tiny)  # squares stay in the range
    spread = {"mean": relative.mean() * top, "std": relative.std(correction=0) * top}
    return {**spread, "min": norms.amin(), "max": top}
