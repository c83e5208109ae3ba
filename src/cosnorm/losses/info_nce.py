"""InfoNCE: each query's own key among negatives, those of the batch or K of its own."""

from typing import Any

import torch
from torch import Tensor

from cosnorm.backends.choose import check_impl
from cosnorm.distributed import Group
from cosnorm.functional.arrays import takes_arrays
from cosnorm.functional.checks import (
    Reduction,
    averaged,
    check_count,
    check_indices,
    check_pair,
    check_reduction,
    check_tensors,
)
from cosnorm.functional.contrastive import contrastive_cross_entropy
from cosnorm.functional.overrides import overridable
from cosnorm.functional.similarity import pairwise_cosine
from cosnorm.losses.grouped import Grouped, fixed_options
from cosnorm.losses.temperature import Temperature
from cosnorm.operators.chosen import chosen_products
from cosnorm.operators.indices import indices_in
from cosnorm.operators.unit_vectors import unit_vectors


@overridable
@takes_arrays
def info_nce_loss(
    queries: Tensor,
    keys: Tensor,
    negatives: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.1,
    extra_keys: Tensor | None = None,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    group: Group | None = None,
    impl: str = "auto",
    **options: Any,
) -> Tensor:
    r"""Cross-entropy of each query's own key among the keys of all queries, or among K negatives of its own.

    .. math:: \ell_i = -\log \frac{e^{c_{ii}/\tau}}{e^{c_{ii}/\tau} + \sum_{j} e^{c_{ij}/\tau}}

    Args:
        queries: shape (N, D).
        keys: shape (N, D); key i belongs to query i. With `positives=` among the options (M, D).
        negatives: None: all other keys. Else K for each query: embeddings, shape (N, K, D), or whole numbers
            (N, K), rows of `keys`, such as `sample_negatives` draws.
        temperature: τ > 0, a number or a tensor that learns.
        extra_keys: past keys (E, D), further negatives of all; not with `negatives`.
        reduction: "mean", "sum", or "none": shape (N,).
        chunk_size: rows of a block; None: chosen by itself.
        group: processes over which the batch is spread, see `contrastive_cross_entropy`; not with
            `negatives`, which need no other process.
        impl: as in `contrastive_cross_entropy`; there is no kernel for `negatives`.
        options: further ones of `contrastive_cross_entropy`, not with `negatives`: `hard_negatives` beside
            those of the batch, `positives`, `directions`, `groups`, `guide`, `false_negative_margin`, ….

    Returns:
        The loss; at zero, with NaN, and for errors as `contrastive_cross_entropy`. Negatives given as rows of
        `keys` are gathered a few queries at a time; given as embeddings they take the memory they are.

    Source: van den Oord et al., "Representation Learning with Contrastive Predictive Coding", arXiv
        1807.03748, eq. 4; with cosines and a temperature: He et al., arXiv 1911.05722, eq. 1.

    Example:
        >>> import torch
        >>> info_nce_loss(torch.eye(3), torch.eye(3), temperature=1.0)
        tensor(0.5514)
        >>> info_nce_loss(torch.eye(3), torch.eye(3), torch.tensor([[1], [2], [0]]), temperature=1.0)
        tensor(0.3133)
    """
    where = "info_nce_loss"
    if not {"positives", "labels"} & set(options):
        check_pair(where, queries=queries, keys=keys)
    if negatives is None:
        return contrastive_cross_entropy(
            queries,
            keys,
            temperature=temperature,
            extra_keys=extra_keys,
            reduction=reduction,
            chunk_size=chunk_size,
            group=group,
            impl=impl,
            **options,
        )
    check_reduction(where, reduction)
    if extra_keys is not None or group is not None or options:
        further = ", ".join(["extra_keys", "group", *options])
        raise ValueError(f"{where}: negatives replace {further}; leave one of them out")
    if impl == "triton":
        raise RuntimeError(f'{where}: impl="triton" has no kernel for negatives; use impl="torch"')
    check_impl(where, impl)
    number = queries.shape[0]
    if isinstance(negatives, Tensor) and not negatives.is_floating_point():
        check_indices(where, "negatives", negatives, keys.device)
        if negatives.ndim != 2 or negatives.shape[0] != number:
            raise ValueError(
                f"{where}: negatives must have shape ({number}, K) as rows of keys; got "
                f"{tuple(negatives.shape)}"
            )
        own = torch.arange(number, device=keys.device).unsqueeze(1)
        chosen = torch.cat([own, negatives.long()], 1)
        units = unit_vectors(queries), unit_vectors(keys)
        cosines = chosen_products(*units, chosen, f"{where}: negatives must be rows of keys,", False)
        return _reduced(cosines, temperature, reduction)
    check_tensors(where, queries=queries, negatives=negatives)
    if negatives.ndim != 3 or negatives.shape[0] != number or negatives.shape[2] != queries.shape[1]:
        raise ValueError(
            f"{where}: negatives must have shape ({number}, K, {queries.shape[1]}) or, as rows of keys, "
            f"({number}, K); got {tuple(negatives.shape)}"
        )
    candidates = torch.cat([keys.unsqueeze(1), negatives], 1)
    return _reduced(pairwise_cosine(queries.unsqueeze(1), candidates).squeeze(1), temperature, reduction)


def _reduced(cosines: Tensor, temperature: float | Tensor, reduction: Reduction) -> Tensor:
    """Cross-entropy of the first of each row."""
    logits = cosines.to(torch.promote_types(cosines.dtype, torch.float32)) / temperature
    return averaged(torch.logsumexp(logits, 1) - logits[:, 0], reduction)


@overridable
@takes_arrays
def sample_negatives(
    num_keys: int, num_negatives: int, positives: Tensor | None = None, *, generator: Any = None
) -> Tensor:
    """K negatives for each query, drawn evenly, with repetition, among all keys but the query's own.

    None is ever drawn again: the numbers from the positive's on move up by one.

    Args:
        num_keys: number of keys, at least 2.
        num_negatives: K.
        positives: the key of each query, (N,); None: key i belongs to query i, N = num_keys.
        generator: a `torch.Generator`, the source of the drawing; None: torch's own.

    Returns:
        Rows of the keys, shape (N, K).

    Raises:
        ValueError: fewer than two keys, or positives out of range.

    Example:
        >>> sample_negatives(2, 3).tolist()
        [[1, 1, 1], [0, 0, 0]]
    """
    where = "sample_negatives"
    check_count(where, "num_keys", num_keys, least=2)
    check_count(where, "num_negatives", num_negatives)
    if positives is None:
        positives = torch.arange(num_keys)
    check_indices(where, "positives", positives, positives.device)
    positives = indices_in(positives, num_keys, f"{where}: positives must be")
    shape = (positives.shape[0], num_negatives)
    # Up to torch 2.6 graphs with symbolic sizes know no argument `generator`, not even None.
    drawing = {} if generator is None else {"generator": generator}
    drawn = torch.randint(num_keys - 1, shape, device=positives.device, **drawing)
    return drawn + (drawn >= positives.unsqueeze(1))


class InfoNCELoss(Grouped):
    """`info_nce_loss` with its options; called with queries, keys and, if wanted, negatives.

    Args:
        temperature: τ, the first one if it learns.
        learn_temperature: make log τ a parameter.
        num_negatives: draw so many negatives among the keys for each query (`sample_negatives`); None: all
            others.
        reduction: "mean", "sum" or "none".
        chunk_size: rows of a block; None: chosen by itself.
        group: processes over which the batch is spread.
        impl: "auto", "torch" or "triton".
        options: further ones of every call that are no tensors, such as `false_negative_margin`.

    Example:
        >>> import torch
        >>> InfoNCELoss(temperature=1.0)(torch.eye(3), torch.eye(3))
        tensor(0.5514)
    """

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        learn_temperature: bool = False,
        num_negatives: int | None = None,
        reduction: Reduction = "mean",
        chunk_size: int | None = None,
        group: Group | None = None,
        impl: str = "auto",
        **options: Any,
    ) -> None:
        super().__init__()
        self.options = fixed_options(type(self).__name__, options)
        if num_negatives is not None:
            check_count("InfoNCELoss", "num_negatives", num_negatives)
        self.temperature = Temperature(temperature, learn=learn_temperature)
        self.num_negatives, self.reduction = num_negatives, reduction
        self.chunk_size, self.group, self.impl = chunk_size, group, impl

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        negatives: Tensor | None = None,
        extra_keys: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """The loss of queries and their keys (N, D); see `info_nce_loss`, also for further options."""
        if negatives is None and self.num_negatives is not None:
            own = torch.arange(keys.shape[0], device=keys.device)
            negatives = sample_negatives(keys.shape[0], self.num_negatives, own)
        return info_nce_loss(
            queries,
            keys,
            negatives,
            temperature=self.temperature(),
            extra_keys=extra_keys,
            reduction=self.reduction,
            chunk_size=self.chunk_size,
            group=self.group_name,
            impl=self.impl,
            **self.options,
            **options,
        )

    def extra_repr(self) -> str:
        """The options, for `print`."""
        return f"num_negatives={self.num_negatives}, reduction={self.reduction!r}"
