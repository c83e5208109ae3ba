"""Facial expressions drawn by a program: a stand-in where no photographs are at hand, and for tests.

They are not faces, and a figure measured on them says nothing of faces: they show that the recipe runs, and
how its losses and options behave on a small task with variation inside the classes.
"""

import hashlib
import math
import random
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from cosnorm_lab.data.dataset import Dataset

# Mouth: bend (down to up), opening; brows: slope (inner ends down to up), height; eyes: opening.
EXPRESSIONS = {
    "angry": (-0.5, 0.1, -0.6, 0.0, 0.6),
    "disgust": (-0.6, 0.0, -0.3, 0.0, 0.35),
    "fear": (-0.3, 0.5, 0.6, 0.5, 1.2),
    "happy": (0.9, 0.3, 0.0, 0.2, 0.7),
    "neutral": (0.0, 0.0, 0.0, 0.2, 0.8),
    "sad": (-0.8, 0.0, 0.6, 0.2, 0.6),
    "surprise": (0.0, 1.0, 0.1, 0.9, 1.3),
}
SPREAD = 0.28  # deviation of each of these numbers within a class: the classes overlap
SIZE = 48
OVERSAMPLING = 4


def draw_face(expression: str, generator: random.Random) -> Image.Image:
    """One grey picture of 48 by 48 pixels, each with its own place, size, light, head and noise."""
    bend, opening, slope, height, eyes = (generator.gauss(value, SPREAD) for value in EXPRESSIONS[expression])
    unit = OVERSAMPLING * SIZE / 48
    image = Image.new("L", (int(48 * unit),) * 2, generator.randint(0, 120))
    draw = ImageDraw.Draw(image)
    x, y = ((24 + generator.gauss(0, 1.5)) * unit for _ in range(2))
    width, tall = generator.uniform(14, 18) * unit, generator.uniform(17, 21) * unit
    skin, dark = generator.randint(140, 250), generator.randint(0, 70)
    draw.ellipse((x - width, y - tall, x + width, y + tall), fill=skin)
    line = max(1, round(1.2 * unit))
    for side in (-1, 1):
        eye_x, eye_y = x + side * 0.42 * width, y - 0.25 * tall
        half = max(0.3, 2.2 * eyes) * unit
        draw.ellipse((eye_x - 2.6 * unit, eye_y - half, eye_x + 2.6 * unit, eye_y + half), fill=dark)
        brow = eye_y - (3.5 + 2.5 * height) * unit
        inner, outer = eye_x - side * 4 * unit, eye_x + side * 4 * unit
        rise = 2.2 * slope * unit
        draw.line((inner, brow - rise, outer, brow + rise), fill=dark, width=line)
    mouth_y, half_width = y + 0.5 * tall, 0.5 * width
    upper, lower = [], []
    for step in range(-8, 9):
        share = step / 8
        curve = -4 * bend * (share * share - 0.5) * unit
        gap = 4 * max(0.0, opening) * math.sqrt(1 - share * share) * unit
        upper.append((x + share * half_width, mouth_y + curve - gap / 2))
        lower.append((x + share * half_width, mouth_y + curve + gap / 2))
    draw.polygon(upper + lower[::-1], fill=dark)
    draw.line(upper, fill=dark, width=line)
    image = image.rotate(generator.gauss(0, 7), resample=Image.Resampling.BILINEAR)
    image = image.filter(ImageFilter.GaussianBlur(generator.uniform(0.5, 1.5) * unit))
    return image.resize((SIZE, SIZE), Image.Resampling.BOX)


def load_drawn_faces(train: int = 500, test: int = 150, seed: int = 0) -> Dataset:
    """So many drawn pictures of each expression, always the same for the same numbers."""
    parts: dict[str, tuple[Any, Any]] = {}
    for part, count in (("train", train), ("test", test)):
        generator = random.Random(f"{part} {seed}")
        noise = np.random.default_rng(seed + len(part))
        images, labels = [], []
        for label, expression in enumerate(EXPRESSIONS):
            for _ in range(count):
                pixels = np.asarray(draw_face(expression, generator), dtype=np.float64)
                pixels += noise.normal(0, 12, pixels.shape)
                images.append(pixels.clip(0, 255).round().astype(np.uint8))
                labels.append(label)
        parts[part] = np.stack(images), np.array(labels)
    return Dataset(
        name="faces",
        train_images=torch.from_numpy(parts["train"][0]).float() / 255,
        train_labels=torch.from_numpy(parts["train"][1]),
        test_images=torch.from_numpy(parts["test"][0]).float() / 255,
        test_labels=torch.from_numpy(parts["test"][1]),
        num_classes=len(EXPRESSIONS),
        checksums={
            f"drawn_{part}_images": hashlib.sha256(images.tobytes()).hexdigest()
            for part, (images, _) in parts.items()
        },
        exact=False,
        classes=tuple(EXPRESSIONS),
        drawn=True,
    )
