"""A queue of past embeddings: more negatives than a batch has (MoCo)."""

from typing import Any

import torch
from torch import Tensor

from cosnorm.distributed import Group, gather, share_rows
from cosnorm.functional.checks import check_count, check_dtype, check_indices, check_tensors
from cosnorm.losses.grouped import Grouped
from cosnorm.operators.unit_vectors import unit_vectors

_WHERE = "Queue"


class Queue(Grouped):
    """The last `size` embeddings, for `extra_keys=` of any loss over pairs.

    A call gives them as options of the loss; `enqueue`, after the step, puts a batch in, in place of the
    oldest. With groups, such as the number of the sample in its data set, older copies of the samples of a
    batch are no negatives of it.

    Args:
        size: how many embeddings it holds.
        dim: D, their size.
        labels: whether each has a label.
        groups: whether each has a group.
        guide_dim: size of the guide's embeddings; None: there is no guide.
        group: processes over which the batch is spread: all that they put in, each has.
        device: of the buffers.
        dtype: of the embeddings.

    Attributes:
        embeddings: (size, D), a buffer; those that are filled come first.
        labels: (size,), or None; so are groups, and guide (size, G).
        count: how many were ever put in, ().

    Raises:
        ValueError: what is put in has another shape, or lacks labels, groups or a guide.

    Source: He et al., "Momentum Contrast", arXiv 1911.05722, section 3.2.

    Example:
        >>> import torch
        >>> from cosnorm.losses import InfoNCELoss
        >>> queue, criterion = Queue(4096, 8, groups=True), InfoNCELoss()
        >>> queries, keys, samples = torch.randn(4, 8), torch.randn(4, 8), torch.arange(4)
        >>> loss = criterion(queries, keys, groups=(samples, samples), **queue())
        >>> queue.enqueue(keys, groups=samples)
        >>> queue
        Queue(4 of 4096, dim=8)
    """

    embeddings: Tensor
    labels: Tensor | None
    groups: Tensor | None
    guide: Tensor | None
    count: Tensor

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        labels: bool = False,
        groups: bool = False,
        guide_dim: int | None = None,
        group: Group | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_count(_WHERE, "size", size)
        check_count(_WHERE, "dim", dim)
        check_dtype(_WHERE, dtype)
        dtype = dtype or torch.get_default_dtype()
        self.size, self.dim, self.group = size, dim, group
        self.register_buffer("embeddings", torch.zeros(size, dim, device=device, dtype=dtype))
        for name, there in (("labels", labels), ("groups", groups)):
            whole = torch.zeros(size, device=device, dtype=torch.int64) if there else None
            self.register_buffer(name, whole)
        guide = None if guide_dim is None else torch.zeros(size, guide_dim, device=device, dtype=dtype)
        self.register_buffer("guide", guide)
        self.register_buffer("count", torch.zeros((), device=device, dtype=torch.int64))
        self._filled = 0  # the smaller of size and `count`, which lies on the device

    def __len__(self) -> int:
        """How many embeddings it has."""
        return self._filled

    def forward(self) -> dict[str, Tensor]:
        """Options of a loss: `extra_keys`, and of them labels, groups and the guide."""
        given = {
            "extra_keys": self.embeddings,
            "extra_labels": self.labels,
            "extra_groups": self.groups,
            "extra_guide": self.guide,
        }
        # A copy: the next batch may come before the backward pass.
        return {
            name: one[: len(self)].clone() for name, one in given.items() if one is not None and len(self)
        }

    @torch.no_grad()
    def enqueue(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        groups: Tensor | None = None,
        guide: Tensor | None = None,
    ) -> None:
        """Put a batch (N, D) in, without a graph, with its labels and groups (N,) and its guide (N, G)."""
        check_tensors(_WHERE, embeddings=embeddings)
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dim:
            raise ValueError(
                f"{_WHERE}: embeddings must have shape (N, {self.dim}), got {tuple(embeddings.shape)}"
            )
        shares = share_rows(len(embeddings), embeddings.device, self.group_name or "")
        batch = {"embeddings": embeddings, "labels": labels, "groups": groups, "guide": guide}
        for name, one in batch.items():
            buffer = getattr(self, name)
            if (one is None) != (buffer is None):
                have = "has none" if buffer is None else "has them"
                raise ValueError(f"{_WHERE}: {name} were {'not ' * (one is None)}given, but the queue {have}")
            if one is None:
                continue
            if name in ("labels", "groups"):
                check_indices(_WHERE, name, one, embeddings.device)
            if one.shape != (len(embeddings), *buffer.shape[1:]):
                raise ValueError(
                    f"{_WHERE}: {name} must have shape {(len(embeddings), *buffer.shape[1:])}, got "
                    f"{tuple(one.shape)}"
                )
        total = sum(shares.sizes)
        number = min(total, self.size)
        first = self.count + (total - number)
        at = (torch.arange(number, device=self.embeddings.device) + first) % self.size
        for name, one in batch.items():
            if one is not None:
                buffer = getattr(self, name)
                if name in ("embeddings", "guide") and one.dtype != buffer.dtype:
                    one = unit_vectors(one)  # of any length, in the range of the narrower type
                rows = gather(one.detach(), shares)[-number:] if number else one[:0]
                buffer.index_copy_(0, at, rows.to(buffer))
        self.count += total
        self._filled = min(self._filled + total, self.size)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        loaded = state_dict.get(prefix + "embeddings")
        before = self.count.clone()
        super()._load_from_state_dict(state_dict, prefix, *args)
        if (
            loaded is None or loaded.shape != self.embeddings.shape
        ):  # then nothing is counted that is not there
            self.count.copy_(before)
        self._filled = min(int(self.count), self.size)

    def extra_repr(self) -> str:
        """How full it is, for `print`."""
        return f"{len(self)} of {self.size}, dim={self.dim}"
