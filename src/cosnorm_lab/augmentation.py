"""Colour images as the old CIFAR-10 tutorial of TensorFlow feeds them, in batches on their device."""

import torch
from torch import Tensor

CROP = 24


def middle(images: Tensor, crop: int = CROP) -> Tensor:
    """The middle crop×crop pixels (0: all) of images (N, channels, height, width), each image whitened."""
    if not crop:
        return whitened(images.float())
    top, left = (images.shape[2] - crop) // 2, (images.shape[3] - crop) // 2
    return whitened(images[:, :, top : top + crop, left : left + crop].float())


def augmented(images: Tensor, generator: torch.Generator, crop: int = CROP) -> Tensor:
    """A random crop of crop×crop pixels, half of them mirrored, of random brightness and contrast, whitened.

    As in the tutorial: up to ±63 of 255 are added to all pixels; then the distance of each from its
    channel's mean is multiplied by 0.2 to 1.8. Each image has numbers of its own.

    Args:
        images: uint8, (N, 3, height, width).
        generator: random numbers, on the images' device.
        crop: length of the sides; 0: all pixels of square images.
    """
    count, channels, height, width = images.shape
    crop = crop or min(height, width)
    device = images.device

    def uniform(low: float, high: float) -> Tensor:
        numbers = torch.rand(count, 1, 1, 1, generator=generator, device=device)
        return low + (high - low) * numbers

    top, left = (
        torch.randint(0, length - crop + 1, (count, 1), generator=generator, device=device)
        for length in (height, width)
    )
    mirrored = torch.rand(count, 1, generator=generator, device=device) < 0.5
    along = torch.arange(crop, device=device)
    rows = top + along
    columns = left + torch.where(mirrored, crop - 1 - along, along)
    image = torch.arange(count, device=device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=device).view(1, -1, 1, 1)
    crops = images[image, channel, rows.view(count, 1, crop, 1), columns.view(count, 1, 1, crop)].float()
    crops += uniform(-63, 63)
    mean = crops.mean(dim=(2, 3), keepdim=True)
    return whitened((crops - mean) * uniform(0.2, 1.8) + mean)


def whitened(images: Tensor) -> Tensor:
    """Each image less its mean, divided by its standard deviation (at least 1/√pixels)."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    deviation = (images - mean).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return (images - mean) / deviation.clamp(min=images[0].numel() ** -0.5)
