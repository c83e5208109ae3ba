"""What is measured of a network that classifies: errors, one unit's pre-activations, the layers' weights."""

from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from cosnorm_lab.models import CNN, MLP, trained_weights
from cosnorm_lab.records import Line
from cosnorm_lab.tasks.batches import over_all

PERCENTILES = (0.15, 0.5, 0.85)


def errors_and_unit(
    model: nn.Module, network: MLP | CNN, images: Callable[[Tensor], Tensor], labels: Tensor, fabric: Fabric
) -> Line:
    """Errors, and percentiles of what enters the ReLU of the last hidden layer's first unit.

    Args:
        model: the network as it is called.
        network: the network whose last hidden layer is looked at, `model` or inside it.
        images: gets indices and gives the images.
        labels: of all images.
        fabric: the processes, which share the work.
    """
    seen: list[Tensor] = []
    hook = network.hidden[-1].register_forward_hook(lambda _, __, output: seen.append(output[:, 0].float()))

    def wrong_and_unit(part: Tensor) -> Tensor:
        wrong = model(images(part)).argmax(dim=1) != labels[part]
        return torch.stack([wrong.float(), seen.pop()], dim=1)

    try:
        wrong, unit = over_all(wrong_and_unit, len(labels), 2, fabric).unbind(1)
    finally:
        hook.remove()
    percentiles = torch.quantile(unit, torch.tensor(PERCENTILES, device=unit.device))
    return {
        "errors": int(wrong.count_nonzero()),
        "count": len(labels),
        "pre_activation": percentiles.tolist(),
    }


@torch.no_grad()
def layers(network: MLP | CNN, learning_rate: float) -> list[dict[str, Any]]:
    """|w| of each layer, and lr/|w|², the step in angle of a weight whose length does not matter."""
    found = []
    for name, weight in trained_weights(network).items():
        norms = torch.linalg.vector_norm(weight.cpu().double(), dim=1)
        rates = learning_rate / norms[norms != 0].square()
        found.append(
            {
                "name": name,
                "weight_norm": float(norms.mean()),
                "effective_learning_rate": float(rates.mean()) if len(rates) else 0.0,
            }
        )
    return found
