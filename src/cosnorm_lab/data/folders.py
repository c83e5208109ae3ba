"""Pictures in folders, a folder for each class: facial expressions and whatever is laid out like them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cosnorm_lab.data.dataset import Dataset
from cosnorm_lab.data.pixels import pixel_range
from cosnorm_lab.data.samples import Samples, sha256, to_dataset
from cosnorm_lab.errors import LabError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
SIZE = 48
LARGEST = 64  # of sides that pictures of one size keep
TEST_SHARE = 5  # without folders "train" and "test", every fifth image of a class is for the test

Classes = Mapping[str, list[Path]]  # image files by class, both in the order of their names


def load_folders(name: str, folder: Path, *, size: int = SIZE, group_by: str = "") -> Dataset:
    """Grey pictures as the data set `name`, see `read_folders`."""
    samples = read_folders(folder, group_by, size, grey=True)
    found = to_dataset(samples, folder.name or folder.resolve().name, name)
    parts = {part: getattr(found, part) for part in ("train_images", "test_images")}
    return replace(
        found, **{part: images / 255 for part, images in parts.items() if images.dtype == torch.uint8}
    )


def read_folders(
    folder: Path, group_by: str = "", size: int = 0, *, grey: bool = False, forms: str = ""
) -> Samples:
    """Reads `folder`/class/image, or `folder`/train/class/image and `folder`/test/class/image.

    Without "train" and "test", each fifth image of a class, in the order of their names, is for the test;
    with `group_by` a fifth of the groups. Other files are ignored. The range of pixels is that of
    `cosnorm_lab.data.pixels`.

    Args:
        folder: the folder.
        group_by: a regular expression that is searched in each file's name; images whose first group (or
            whole match) is the same stand all in training or all in the test.
        size: height and width; 0: their own where all are alike and none is above 64, else 48.
        grey: whether colour goes; else pictures stay coloured if one of them is.
        forms: what else would do, for messages.

    Raises:
        LabError: the folder or a class holds nothing, there are fewer than two classes, train and test have
            other classes, an image cannot be read (the message names it), an expression that does not match.
    """
    if not folder.is_dir():
        raise LabError(f"{folder} is not a folder; expected one with a folder of images for each class")
    parted = (folder / "train").is_dir() and (folder / "test").is_dir()
    parts = (
        [_classes(folder / part, forms) for part in ("train", "test")]
        if parted
        else [_classes(folder, forms)]
    )
    if parted and list(parts[0]) != list(parts[1]):
        raise LabError(
            f"{folder}: train holds the classes {', '.join(parts[0])}, test holds {', '.join(parts[1])}; "
            "expected the same"
        )
    groups = [_groups(part, group_by) for part in parts]
    notes = [] if group_by else _sequences(parts[0])
    if not parted and not group_by:
        parts = _every_fifth(folder, parts[0])
        groups = [(), ()]
    pictures = [_open(part) for part in parts]
    contents = [content for part in pictures for content in part[1]]
    arrays = _arrays([part[0] for part in pictures], size, grey, notes)
    labels = [np.repeat(np.arange(len(part)), [len(paths) for paths in part.values()]) for part in parts]
    names = [
        str(path.relative_to(folder)).encode() for part in parts for paths in part.values() for path in paths
    ]
    found = Samples(
        arrays[0],
        labels[0],
        groups=groups[0],
        classes=tuple(parts[0]),
        checksums={"files": sha256(*(each for pair in zip(names, contents, strict=True) for each in pair))},
        notes=notes,
    )
    if len(arrays) == 2:
        found.x_test, found.y_test, found.groups_test = arrays[1], labels[1], groups[1]
    return found


def _classes(folder: Path, forms: str) -> Classes:
    found = {
        place.name: sorted(
            path
            for path in place.iterdir()
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        )
        for place in sorted(folder.iterdir())
        if place.is_dir() and not place.name.startswith(".")
    }
    if len(found) < 2:
        files = [place.name for place in sorted(folder.iterdir()) if place.is_file()]
        holds = f"{len(found)} folders" + (f" and the files {', '.join(files[:3])}" if files else "")
        raise LabError(
            f"{folder} holds {holds}; expected one for each class, such as {folder / 'happy'}, "
            "and at least two" + (f". What would do besides: {forms}" if forms else "")
        )
    for label, paths in found.items():
        if not paths:
            raise LabError(f"{folder / label} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return found


def _every_fifth(folder: Path, everything: Classes) -> list[Classes]:
    for label, paths in everything.items():
        if len(paths) < TEST_SHARE:
            raise LabError(
                f"{folder / label} holds {len(paths)} images; expected at least {TEST_SHARE}, "
                "of which every fifth is for the test"
            )
    train = {
        label: [path for number, path in enumerate(paths, start=1) if number % TEST_SHARE]
        for label, paths in everything.items()
    }
    return [train, {label: paths[TEST_SHARE - 1 :: TEST_SHARE] for label, paths in everything.items()}]


def _groups(classes: Classes, group_by: str) -> Any:
    """Each image's group, by its name."""
    if not group_by:
        return ()
    try:
        expression = re.compile(group_by)
    except re.error as error:
        raise LabError(f"--group-by {group_by!r} is no regular expression: {error}") from error
    found = []
    for paths in classes.values():
        for path in paths:
            match = expression.search(path.name)
            if match is None:
                raise LabError(
                    f"--group-by {group_by!r} matches nothing in {path.name!r}; every image needs a group"
                )
            found.append(
                match.group(1) if expression.groups and match.group(1) is not None else match.group()
            )
    return np.array(found)


def _sequences(classes: Classes) -> list[str]:
    """What to say if names look like several pictures of one thing: alike but for a number at the end."""
    beginnings: dict[str, int] = {}
    for paths in classes.values():
        mine: dict[str, int] = {}
        for path in paths:
            beginning = re.sub(r"[ _.-]*\(?\d+\)?$", "", path.stem)
            mine[beginning] = mine.get(beginning, 0) + 1
        if len(mine) > 1:
            for beginning, count in mine.items():
                beginnings[beginning] = beginnings.get(beginning, 0) + count
    several = {beginning: count for beginning, count in beginnings.items() if count > 1 and beginning}
    if 2 * sum(several.values()) < sum(map(len, classes.values())):
        return []
    example = max(several, key=lambda one: several[one])
    expression = r"^[^_-]+" if re.search("[_-]", example) else r"^\D*\d+"
    return [
        f"file names look like sequences ({several[example]} begin with {example!r}): pictures of one thing "
        f"may stand in training and test both. --group-by '{expression}' keeps together what begins alike"
    ]


def _open(classes: Classes) -> tuple[list[tuple[Any, bool]], list[bytes]]:
    """Each picture as an array, (height, width) or (height, width, 3), whether it is grey; and its bytes."""
    import io

    from PIL import Image, UnidentifiedImageError

    arrays, contents = [], []
    for paths in classes.values():
        for path in paths:
            content = path.read_bytes()
            try:
                with Image.open(io.BytesIO(content)) as image:
                    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
                        array = np.asarray(image)
                        array = array if image.mode == "F" else array.astype(np.int64)
                    else:
                        array = np.asarray(_opaque(image).convert("L" if image.mode in GREY else "RGB"))
            except (
                OSError,
                SyntaxError,
                ValueError,
                UnidentifiedImageError,
                Image.DecompressionBombError,
            ) as error:
                raise LabError(f"{path} cannot be read as an image ({error}); mend or remove it") from error
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise LabError(f"{path} holds NaN or inf; mend or remove it")
            arrays.append((array, array.ndim == 2))
            contents.append(content)
    return arrays, contents


def _opaque(image: Any) -> Any:
    """A picture on white where it is transparent."""
    from PIL import Image

    if image.mode not in ("LA", "RGBA", "PA", "La", "RGBa") and "transparency" not in image.info:
        return image
    picture = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)


def _arrays(
    parts: Sequence[Sequence[tuple[Any, bool]]], size: int, grey: bool, notes: list[str]
) -> list[Any]:
    """Pictures of one size and range: (N, height, width), or (N, 3, height, width) where some have colour."""
    everything = [array for part in parts for array, _ in part]
    sizes = {array.shape[:2] for array in everything}
    (height, width) = next(iter(sizes))
    if size or len(sizes) > 1 or max(height, width) > LARGEST:
        height = width = size or SIZE
        if sizes != {(height, width)}:
            found = (
                f"of {len(sizes)} sizes" if len(sizes) > 1 else "of {1}×{0} pixels".format(*next(iter(sizes)))
            )
            notes.append(f"pictures {found} became {width}×{height} (--image-size N: other squares)")
    coloured = not grey and any(array.ndim == 3 for array in everything)
    # Bytes have their own range; pictures of more bits, and real numbers, one for all, by the training part.
    ranges = {}
    for kind in "if":
        training = [array for array, _ in parts[0] if array.dtype.kind == kind]
        others = training or [array for array in everything if array.dtype.kind == kind]
        if others:
            ranges[kind] = pixel_range(np.concatenate([array.ravel() for array in others]))
            if ranges[kind] != (0.0, 1.0):
                notes.append("pixels from {:g} to {:g} became 0 to 1".format(*ranges[kind]))
    return [
        np.stack([_picture(array, (height, width), coloured, grey, ranges) for array, _ in part])
        for part in parts
    ]


def _picture(
    array: Any, size: tuple[int, int], coloured: bool, grey: bool, ranges: Mapping[str, tuple[float, float]]
) -> Any:
    from PIL import Image

    height, width = size
    if array.dtype == np.uint8:
        image = Image.fromarray(array)
        image = image.convert("RGB" if coloured else "L") if grey or coloured else image
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        resized = np.asarray(image)
        if not ranges:
            return np.moveaxis(resized, -1, 0) if coloured else resized
        unit = resized.astype(np.float32) / 255
    else:
        low, high = ranges[array.dtype.kind]
        unit = ((array.astype(np.float64) - low) / (high - low or 1.0)).astype(np.float32)
        if unit.shape != (height, width):
            least, most = unit.min(), unit.max()
            image = Image.fromarray(unit, mode="F").resize((width, height), Image.Resampling.LANCZOS)
            unit = np.asarray(image).clip(least, most)
        unit = np.repeat(unit[:, :, None], 3, axis=2) if coloured else unit
    return np.moveaxis(unit, -1, 0) if coloured else unit
