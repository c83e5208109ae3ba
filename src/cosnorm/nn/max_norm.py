"""Max normalization: weight vectors are kept inside a ball."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from cosnorm.backends.look.rows import fits, norms_of
from cosnorm.backends.torch.units import unit_rows
from cosnorm.devices import is_accelerator
from cosnorm.functional.checks import check_tensors, is_number
from cosnorm.norms import NORM_LIMIT, accumulation_dtype


class MaxNorm:
    r"""Projects each unit's incoming weight vector onto the ball of radius `max_norm`, after each step.

    .. math:: w \leftarrow w \, \min(1, c / |w|)

    with c = `max_norm`. One vector is what one output sees: a row of a linear weight, a whole filter of a
    convolution. Parameters with fewer than two dimensions (biases, scales) are left alone.

    Args:
        parameters: a module, whose parameters are looked up at each projection, or an iterable of parameters.
        max_norm: the radius c; the paper uses 2.

    Call `project` after each ``optimizer.step()``, or `attach` it once to any optimizer. Vectors inside the
    ball, zero vectors among them, are not touched; NaN stays where it is.

    Raises:
        TypeError: `parameters` holds something that is no dense floating-point tensor, or is a tensor itself.
        ValueError: a `max_norm` that is not finite and positive, or no weight to project.

    Source: Srivastava et al., "Dropout", JMLR 15 (2014), section 5.1; Luo et al., arXiv 1702.05870,
    section 5.1.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(3, 2)
        >>> torch.nn.init.constant_(layer.weight, 5.0).shape
        torch.Size([2, 3])
        >>> MaxNorm(layer, max_norm=2.0).project()
        >>> layer.weight.norm(dim=1)
        tensor([2.0000, 2.0000], grad_fn=<LinalgVectorNormBackward0>)
    """

    def __init__(self, parameters: nn.Module | Iterable[Tensor], max_norm: float = 2.0) -> None:
        if not is_number(max_norm):
            raise TypeError(f"MaxNorm: max_norm must be a number, got {max_norm!r}")
        if not (0 < max_norm < math.inf):
            raise ValueError(
                f"MaxNorm: max_norm must be finite and positive, got {max_norm}; the paper uses 2"
            )
        if isinstance(parameters, Tensor) or not isinstance(parameters, Iterable | nn.Module):
            raise TypeError(
                f"MaxNorm: parameters must be a module or an iterable of tensors, got a "
                f"{type(parameters).__name__}; put a single weight into a list"
            )
        self._given = parameters if isinstance(parameters, nn.Module) else list(parameters)
        given = self._parameters()
        for parameter in given:
            if not isinstance(parameter, Tensor):
                raise TypeError(
                    f"MaxNorm: parameters must be a module or an iterable of tensors, got a "
                    f"{type(parameter).__name__} among them"
                )
            check_tensors("MaxNorm", parameter=parameter)
        self.max_norm = float(max_norm)
        if not self.weights:
            raise ValueError(
                f"MaxNorm: none of the {len(given)} parameters has two dimensions or more, so there is "
                "nothing to project; pass the module or the weights of its layers"
            )

    def _parameters(self) -> list[Tensor]:
        return list(self._given.parameters() if isinstance(self._given, nn.Module) else self._given)

    @property
    def weights(self) -> list[Tensor]:
        """What is projected; of a module the parameters that it has now, which may be others than before."""
        return [parameter for parameter in self._parameters() if parameter.ndim >= 2]

    @torch.no_grad()
    def project(self) -> None:
        """Project every weight vector that has left the ball back onto its surface."""
        for weight in self.weights:
            rows = weight.flatten(1)
            norm = norms_of(rows, accumulation_dtype(rows.dtype))
            outside = norm > self.max_norm
            if not is_accelerator(weight.device):
                if not bool(outside.any()):
                    continue
                quotients = torch.cat([norm[outside], norm.new_tensor([self.max_norm])])
                if weight.dtype == norm.dtype and fits(quotients, NORM_LIMIT[norm.dtype]):
                    # One pass in place; vectors inside the ball are multiplied by exactly 1.
                    factor = (self.max_norm / norm).masked_fill_(~outside, 1)
                    weight.mul_(factor.view(-1, *(1,) * (weight.ndim - 1)))
                    continue
            # The norm may have overflowed; unit rows have not.
            surface = unit_rows(rows).values * self.max_norm
            weight.copy_(torch.where(outside, surface.to(rows.dtype), rows).view_as(weight))

    def attach(self, optimizer: Optimizer) -> RemovableHandle:
        """Project after every ``optimizer.step()`` from now on; ``remove()`` on the result ends it.

        Of an optimizer around another one (Accelerate's) the inner one is taken.
        """
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"MaxNorm: attach needs a torch.optim.Optimizer, got {type(optimizer).__name__}; without "
                "one, call project() after each step"
            )
        while not hasattr(optimizer, "_optimizer_step_post_hooks"):
            inner = getattr(optimizer, "optimizer", None)
            if not isinstance(inner, Optimizer):
                raise TypeError(
                    f"MaxNorm: attach cannot hook into a {type(optimizer).__name__}, which never called "
                    "torch.optim.Optimizer.__init__; call project() after each step"
                )
            optimizer = inner
        return optimizer.register_step_post_hook(lambda *_: self.project())
