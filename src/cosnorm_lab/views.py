"""Random views of grey images, made in batches on their device: crop, rotation, shift, brightness, noise."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def random_view(
    images: Tensor,
    generator: torch.Generator,
    *,
    smallest_crop: float = 0.6,
    rotation: float = 20.0,
    shift: float = 0.1,
    brightness: float = 0.3,
    noise: float = 0.1,
) -> Tensor:
    """A random view of each image, each image for itself, in one bilinear pass.

    Args:
        images: (N, 1, height, width), values from 0 to 1.
        generator: random numbers, on the images' device.
        smallest_crop: the crop's side is drawn from here to 1, as a share of the image's; it lies inside the
            image but for `shift`, and is stretched to the image's size.
        rotation: largest angle, in degrees, to either side.
        shift: largest further move, as a share of half the image's side.
        brightness: values are multiplied by 1 - brightness to 1 + brightness.
        noise: standard deviation of the noise on each pixel.

    Returns:
        Views of the same shape; outside the image they are 0, values are not clamped.
    """
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        numbers = torch.rand(count, generator=generator, device=images.device, dtype=images.dtype)
        return low + (high - low) * numbers

    side = uniform(smallest_crop, 1.0)
    angle = uniform(-math.radians(rotation), math.radians(rotation))
    cosine, sine = side * angle.cos(), side * angle.sin()
    room = 1 - side
    across = uniform(-1, 1) * room + uniform(-shift, shift)
    down = uniform(-1, 1) * room + uniform(-shift, shift)
    matrix = torch.stack([cosine, -sine, across, sine, cosine, down], dim=1).view(count, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    views = F.grid_sample(images, grid, align_corners=False)
    views *= uniform(1 - brightness, 1 + brightness).view(-1, 1, 1, 1)
    return views.add_(torch.randn(views.shape, generator=generator, device=views.device), alpha=noise)
