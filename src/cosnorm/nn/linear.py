"""A linear layer whose outputs are cosines."""

import torch
from torch import Tensor, nn

from cosnorm.backends.choose import check_impl
from cosnorm.functional import cosine_linear
from cosnorm.functional.checks import (
    check_augment,
    check_count,
    check_dtype,
    check_flag,
    check_precision,
)
from cosnorm.nn.folded import FoldedCosineLinear
from cosnorm.nn.scale import Scale
from cosnorm.nn.sharded import check_shard, is_plain, on_shards


class CosineLinear(nn.Linear):
    r"""Cosine similarity of the input with each row of the weight; takes the place of `torch.nn.Linear`.

    .. math:: y_j = s \, \frac{w_j \cdot x + a^2}{\sqrt{|w_j|^2 + a^2}\,\sqrt{|x|^2 + a^2}} + b_j

    with s = `scale` and a = `augment`. With `centered`, x and each row of the weight first lose their own
    means (Pearson correlation). Parameter names are those of `torch.nn.Linear`, so its checkpoints load.

    Args:
        in_features: size of each input vector.
        out_features: size of each output vector.
        bias: add a learned bias after the scale (the paper has none).
        device: as in `torch.nn.Linear`.
        dtype: as in `torch.nn.Linear`.
        centered: subtract the means first (eq. 17).
        augment: the paper's constant extra component, appended after centering; the paper uses 1e-4. At 0
            the layer is exact at every scale.
        scale: what the cosines are multiplied by. None: nothing, the paper's layer, which wants the paper's
            learning rate of 10. "unit": √in_features, for hidden layers at the learning rates of plain ones:
            the cosine of random vectors has variance 1/D, so that the outputs have unit variance, as after
            batch normalization. "learned": the exponential of a parameter that begins at log 10, for the last
            layer, whose cosines are logits. Or a positive number.
        impl: as in `cosnorm.functional.cosine_linear`.
        precision: None, or "fp8" for 8-bit products, as in `cosnorm.functional.cosine_linear`.

    Shape: (*, in_features) → (*, out_features).

    A zero input (centered: a constant one) gives 0 (plus the bias) and receives gradient 0. The gradient in
    the weight is orthogonal to it: |w| only grows under gradient descent, and the step in angle is
    lr/|w|². The paper trains with a learning rate of 10.

    Raises:
        TypeError: input that is no floating-point tensor or of another dtype than the weight; options of a
            wrong type.
        ValueError: an input of another size or device, a `scale` that is not positive, a negative `augment`.

    Source: Luo et al., "Cosine Normalization", arXiv 1702.05870, eqs. 4, 8-12 and 17.

    Example:
        >>> import torch
        >>> layer = CosineLinear(784, 1000, augment=1e-4)
        >>> images = torch.rand(100, 784)
        >>> torch.allclose(layer(images), layer(1000 * images), atol=1e-5)
        True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        centered: bool = False,
        augment: float = 0.0,
        scale: float | str | None = None,
        impl: str = "auto",
        precision: str | None = None,
    ) -> None:
        check_count("CosineLinear", "in_features", in_features, 0)
        check_count("CosineLinear", "out_features", out_features, 0)
        check_flag("CosineLinear", "bias", bias)
        check_flag("CosineLinear", "centered", centered)
        check_dtype("CosineLinear", dtype)
        super().__init__(in_features, out_features, bias, device, dtype)
        self.centered = centered
        self.augment = check_augment("CosineLinear", augment)
        self.scale = Scale(scale, in_features, "CosineLinear", device, dtype)
        check_impl("CosineLinear", impl)
        check_precision("CosineLinear", precision)
        self.impl, self.precision = impl, precision

    def reset_parameters(self) -> None:
        """Initialize as torch's layer does, and set a learned scale back to its first value."""
        super().reset_parameters()
        if hasattr(self, "scale"):  # torch's constructor calls this before the scale exists
            self.scale.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """The cosines, scaled, plus the bias."""
        weight = self.weight
        output = (
            self._cosines(input, weight)
            if is_plain(weight)
            else on_shards("CosineLinear", self._cosines, input, weight)
        )
        if not self.scale.is_one:
            output = self.scale(output)
        return output if self.bias is None else output + self.bias.to(output.dtype)

    def _cosines(self, x: Tensor, weight: Tensor) -> Tensor:
        cosines: Tensor = cosine_linear(
            x,
            weight,
            centered=self.centered,
            augment=self.augment,
            impl=self.impl,
            precision=self.precision,
        )
        return cosines

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As torch's; refuses what tensor parallelism cannot share out."""
        if param is not None and type(param) is not nn.Parameter:
            check_shard("CosineLinear", name, param)
        super().register_parameter(name, param)

    def fold(self) -> nn.Module:
        """A layer for inference whose weight has unit rows; see `cosnorm.convert.fold`."""
        return FoldedCosineLinear(self).eval()

    def extra_repr(self) -> str:
        """Torch's text and our options."""
        text = f"{super().extra_repr()}, centered={self.centered}, augment={self.augment}"
        return text if self.precision is None else f"{text}, precision={self.precision!r}"
