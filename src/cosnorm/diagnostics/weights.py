"""How far a step turns weights of which only the direction counts, and where learned temperatures stand."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cosnorm.operators.unit_vectors import unit_vectors


def _weights(where: str, model: Any) -> dict[str, Tensor]:
    """The parameters whose rows are vectors: those of two dimensions and more."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{where}: model must be a torch.nn.Module, got {type(model).__name__}")
    return {name: one for name, one in model.named_parameters() if one.ndim > 1 and one.is_floating_point()}


@torch.no_grad()
def effective_rates(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    r"""The learning rate as a scale-invariant weight feels it, before a step.

    What is computed from a weight by its direction alone has a gradient orthogonal to it that falls as
    1/|w|, so that a step of gradient descent turns a row by

    .. math:: \tan \Delta = \frac{\eta\, |g_\perp|}{|w|}, \qquad \eta_{\text{eff}} = \frac{\eta}{|w|^2}

    and a weight that grows learns ever more slowly.

    Args:
        model: its parameters of two dimensions and more are looked at, row by row.
        optimizer: holds the learning rates η of their groups; what it makes of a gradient (momentum, Adam) is
            not asked: `AngularSteps` measures that.

    Returns:
        For each parameter that the optimizer has, means over its rows: "effective_rate/NAME", and where there
        is a gradient "angular_step/NAME", in radians. Rows of zeros do not count.

    Raises:
        TypeError: not a module, not an optimizer.

    Source: van Laarhoven, "L2 Regularization versus Batch and Weight Normalization", arXiv 1706.05350, eq. 7;
        Wan et al., "Spherical Motion Dynamics", arXiv 2006.08419, definition 1.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> layer.weight.data = torch.tensor([[0.0, 2.0]])
        >>> layer(torch.tensor([[1.0, 5.0]])).sum().backward()
        >>> found = effective_rates(layer, torch.optim.SGD(layer.parameters(), lr=0.1))
        >>> {name: round(value.item(), 4) for name, value in found.items()}
        {'effective_rate/weight': 0.025, 'angular_step/weight': 0.05}
    """
    where = "effective_rates"
    named = _weights(where, model)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{where}: optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    rates = {one: group["lr"] for group in optimizer.param_groups for one in group["params"]}
    found = {}
    for name, weight in named.items():
        if weight not in rates or not weight.numel():
            continue
        rows, rate = weight.flatten(1).double(), rates[weight]
        norms = torch.linalg.vector_norm(rows, dim=1)
        norms = norms.masked_fill(norms == 0, torch.nan)
        found[f"effective_rate/{name}"] = (rate / norms.square()).nanmean()
        if weight.grad is not None:
            gradient = weight.grad.flatten(1).double()
            unit = rows / norms.unsqueeze(1)
            across = gradient - unit * (unit * gradient).sum(1, keepdim=True)
            turned = rate * torch.linalg.vector_norm(across, dim=1) / norms
            found[f"angular_step/{name}"] = turned.atan().nanmean()
    return found


class AngularSteps:
    """How far the rows of weights have turned since the last call: whatever optimizer made the step.

    It keeps the unit rows of all parameters of two dimensions and more: as much memory as these take.

    Args:
        model: its parameters are looked at, row by row.

    Raises:
        TypeError: not a module.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> layer.weight.data = torch.tensor([[0.0, 2.0]])
        >>> steps = AngularSteps(layer)
        >>> layer.weight.data = torch.tensor([[3.0, 0.0]])
        >>> round(steps()["angular_step/weight"].item(), 4)
        1.5708
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.directions = self._directions()

    @torch.no_grad()
    def __call__(self) -> dict[str, Tensor]:
        """The mean angle of each parameter's rows, in radians: "angular_step/NAME"."""
        now = self._directions()
        found = {
            # Exact for small angles, of which a cosine knows nothing.
            f"angular_step/{name}": 2
            * ((unit - self.directions[name]).norm(dim=1) / 2).clamp(max=1).asin().mean()
            for name, unit in now.items()
            if name in self.directions
        }
        self.directions = now
        return found

    @torch.no_grad()
    def _directions(self) -> dict[str, Tensor]:
        named = _weights("AngularSteps", self.model)
        return {name: unit_vectors(one.detach().flatten(1)) for name, one in named.items()}


@torch.no_grad()
def learned_temperatures(model: nn.Module) -> dict[str, Tensor]:
    """The temperatures and scales that a model learns, and whether they have come to their bounds.

    Args:
        model: losses of `cosnorm.losses` with a learned temperature, or a model that holds such.

    Returns:
        "temperature/NAME" of each τ, for a learned scale 1/scale; and where there are bounds
        "at_bound/NAME": 1.0 at one of them, else 0.0. NAME is that of the parameter.

    Raises:
        TypeError: not a module.

    Example:
        >>> from cosnorm.losses import CLIPLoss
        >>> {name: round(value.item(), 3) for name, value in learned_temperatures(CLIPLoss(0.01)).items()}
        {'temperature/logit_scale': 0.01, 'at_bound/logit_scale': 1.0}
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"learned_temperatures: model must be a torch.nn.Module, got {type(model).__name__}")
    found = {}
    for prefix, module in model.named_modules():
        for name, value in module.named_parameters(prefix, recurse=False):
            kind = name.rpartition(".")[2]
            if value.numel() != 1 or kind not in ("log_temperature", "logit_scale", "log_scale"):
                continue
            log = value.detach().reshape(()).double()
            log = log if kind == "log_temperature" else -log
            low, high = getattr(module, "LOWEST", None), getattr(module, "HIGHEST", None)
            if hasattr(module, "max_scale"):
                low = 1 / module.max_scale
            # What went too far is cut; beside a bound rounding decides nothing.
            bounds = [log.new_tensor(bound).log() for bound in (low, high) if bound is not None]
            tau = log
            if low is not None:
                tau = tau.maximum(bounds[0])
            if high is not None:
                tau = tau.minimum(bounds[-1])
            found[f"temperature/{name}"] = tau.exp()
            if bounds:
                near = torch.stack([(tau - bound).abs() < 1e-6 for bound in bounds])
                found[f"at_bound/{name}"] = near.any().double()
    return found
