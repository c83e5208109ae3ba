"""Torch's paths that read the weights of layers instead of calling them."""

from torch import nn

_SWITCHES = {
    nn.TransformerEncoderLayer: "activation_relu_or_gelu",
    nn.TransformerEncoder: "use_nested_tensor",
}


def switch_bypasses_off(layers: dict[str, nn.Module], cosine: set[nn.Module]) -> list[str]:
    """Switch them off where one of our layers is below; a line for each."""
    lines = []
    for name, layer in layers.items():
        for kind, switch in _SWITCHES.items():
            if isinstance(layer, kind) and cosine.intersection(layer.modules()) and getattr(layer, switch):
                layer.__dict__.setdefault("_before_cosine", {})[switch] = getattr(layer, switch)
                setattr(layer, switch, False)
                lines.append(f"{name or 'the model'}: its fast path would not call these layers and is off")
    return lines


def switch_bypasses_on(layer: nn.Module) -> None:
    """Set a layer back to what it was."""
    for name, value in layer.__dict__.pop("_before_cosine", {}).items():
        setattr(layer, name, value)
