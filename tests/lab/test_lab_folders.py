"""Folders of images: faces drawn into files by the test, read back."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cosnorm_lab.data import load
from cosnorm_lab.data.drawn_faces import EXPRESSIONS, draw_face, load_drawn_faces
from cosnorm_lab.errors import LabError

CLASSES = ("happy", "sad", "surprise")


def write_faces(folder: Path, count: int = 5, suffix: str = ".png") -> None:
    generator = random.Random(0)
    for label in CLASSES:
        (folder / label).mkdir(parents=True)
        for number in range(count):
            draw_face(label, generator).save(folder / label / f"{number:03}{suffix}")


def test_every_fifth_image_is_for_the_test(tmp_path):
    write_faces(tmp_path, count=11)
    (tmp_path / "happy" / "notes.txt").write_text("not an image")
    (tmp_path / "README").write_text("nor this")
    (tmp_path / ".hidden").mkdir()
    data = load("faces", tmp_path)
    assert (data.classes, data.num_classes, data.exact, data.drawn) == (CLASSES, 3, False, False)
    assert data.train_images.shape == (27, 48, 48)
    assert data.test_images.shape == (6, 48, 48)
    assert data.train_labels.bincount().tolist() == [9, 9, 9]
    assert data.file == tmp_path.name
    fifth = np.asarray(Image.open(tmp_path / "sad" / "004.png"), dtype=np.float32) / 255
    assert torch.equal(data.test_images[2], torch.from_numpy(fifth))
    tenth = np.asarray(Image.open(tmp_path / "sad" / "009.png"), dtype=np.float32) / 255
    assert torch.equal(data.test_images[3], torch.from_numpy(tenth))
    assert data.checksums != load("faces").checksums


def test_train_and_test_folders(tmp_path):
    write_faces(tmp_path / "train", count=4)
    write_faces(tmp_path / "test", count=2)
    data = load("faces", tmp_path)
    assert (len(data.train_labels), len(data.test_labels)) == (12, 6)
    (tmp_path / "test" / "sad").rename(tmp_path / "test" / "glad")
    with pytest.raises(
        LabError, match=r"train holds the classes happy, sad, surprise, test holds glad, happy"
    ):
        load("faces", tmp_path)


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".pgm", ".webp", ".TIF"])
def test_formats(tmp_path, suffix):
    write_faces(tmp_path, suffix=suffix)
    write_faces(tmp_path / "png")
    images = load("faces", tmp_path / "png").train_images
    (tmp_path / "png").rename(tmp_path.parent / f"{tmp_path.name}-png")
    assert (load("faces", tmp_path).train_images - images).abs().mean() < 0.03  # some formats lose a little


def test_colour_and_other_sizes_become_grey_and_48(tmp_path):
    write_faces(tmp_path)
    sizes = ((64, 64), (30, 50), (1, 1))
    for number, size in enumerate(sizes):
        Image.new("RGB", size, (255, 0, 0)).save(tmp_path / "sad" / f"{number:03}.png")
    images = load("faces", tmp_path).train_images
    grey = 0.299  # of pure red
    assert sum((image - grey).abs().max() < 0.01 for image in images) == len(sizes)


def test_what_cannot_be_read_is_named(tmp_path):
    write_faces(tmp_path)
    whole = (tmp_path / "sad" / "001.png").read_bytes()
    for content in (b"", b"no image", whole[: len(whole) // 2]):
        (tmp_path / "sad" / "001.png").write_bytes(content)
        with pytest.raises(LabError, match=r"sad/001.png cannot be read as an image"):
            load("faces", tmp_path)


def test_folders_that_hold_too_little(tmp_path):
    with pytest.raises(
        LabError, match="is not a folder; expected one with a folder of images for each class"
    ):
        load("faces", tmp_path / "none")
    with pytest.raises(LabError, match=r"holds 0 folders; expected one for each class, such as .*happy"):
        load("faces", tmp_path)
    write_faces(tmp_path, count=4)
    with pytest.raises(LabError, match="happy holds 4 images; expected at least 5"):
        load("faces", tmp_path)
    for path in (tmp_path / "sad").iterdir():
        path.unlink()
    with pytest.raises(LabError, match=r"sad holds no image \(.png, .jpg"):
        load("faces", tmp_path)


def test_drawn_faces_are_always_the_same_and_differ_from_each_other():
    data = load_drawn_faces(6, 3)
    again = load_drawn_faces(6, 3)
    other = load_drawn_faces(6, 3, seed=1)
    assert data.checksums == again.checksums != other.checksums
    assert data.train_images.shape == (42, 48, 48)
    assert data.test_labels.tolist() == sorted(list(range(7)) * 3)
    assert (data.classes, data.drawn) == (tuple(EXPRESSIONS), True)
    everything = torch.cat([data.train_images, data.test_images]).flatten(1)
    assert len(everything.unique(dim=0)) == len(everything)
    assert 0 <= everything.min() < everything.max() <= 1
